#pragma once

#include "ssm/core/arena.hpp"
#include "ssm/ops/execution.hpp"
#include "ssm/ops/grad_mode.hpp"
#include "ssm/ops/rms_norm.hpp"

SSM_NAMESPACE_BEGIN

// The gradient of RMS normalisation. In the symbols of RmsNormArgs, with v the vector that is
// normalised (r silu(z), or r when norm_before_gate), R = sqrt(mean v^2 + eps), n = v / R, and q
// the gradient that reaches n (dy weight, times silu(z) when norm_before_gate):
//
//   dv_i = (q_i - n_i mean_j(q_j n_j)) / R
//   dweight = sum_{b,t} dy n                     (dy silu(z) n when norm_before_gate)
//   dr = dv silu(z),  dz = dv r silu'(z)         (dr = dv,  dz = dy weight n silu'(z), likewise)
//
// r is what the norm read: x, or the residual stream after x was added to it, which is what the
// forward pass leaves in `residual`. As r = x + residual, dr is the gradient of both; what later
// layers contribute to the stream's gradient enters as dr_later.
//
// Incoming and outgoing gradients of activations are stored as TGrad, T or accum_t<T>; the stream's
// in accum_t<T>. Sums run in an order fixed by the shape. Outputs must not overlap inputs or one
// another, except that dx may be dy and dresidual may be dr_later (same data and strides) when
// `inputs` is overwrite.
template <class T, class TGrad = T>
struct RmsNormGradArgs {
  using Accum = accum_t<T>;
  View<const T, 3> x;             // (batch, length, features); read when residual is absent
  View<const Accum, 3> residual;  // (batch, length, features), optional: r
  View<const T, 1> weight;        // (features), optional
  View<const T, 3> z;             // (batch, length, features), optional gate
  Accum eps = Accum(1e-5);        // >= 0
  bool norm_before_gate = false;

  View<const TGrad, 3> dy;        // (batch, length, features)
  View<const Accum, 3> dr_later;  // (batch, length, features), optional: absent means zero

  View<TGrad, 3> dx;         // (batch, length, features): dr + dr_later
  View<Accum, 3> dresidual;  // (batch, length, features): the same in accum_t<T>
  View<TGrad, 3> dz;         // (batch, length, features); not looked at when there is no gate
  View<Accum, 1> dweight;    // (features)

  GradMode inputs = GradMode::overwrite;      // dx, dresidual and dz
  GradMode parameters = GradMode::overwrite;  // dweight
};

// Every shape condition; touches no element.
template <class T, class TGrad>
Status check_shapes(const RmsNormGradArgs<T, TGrad>& a) noexcept {
  const Extents<3> shape{a.dy.extent(0), a.dy.extent(1), a.dy.extent(2)};
  Check check("rms_norm_backward");
  check.array("dy", a.dy).at_least("dy.extent(2) (features)", shape[2], index_t{1});
  if (a.residual.present()) {
    check.shape("residual", a.residual, shape);
  } else {
    check
        .require(a.x.present(), ErrorCode::invalid_argument, "x",
                 "must be present when residual is absent")
        .shape("x", a.x, shape);
  }
  check.optional_shape("weight", a.weight, {shape[2]})
      .optional_shape("z", a.z, shape)
      .optional_shape("dr_later", a.dr_later, shape);
  if (a.inputs != GradMode::ignore) {
    check.optional_shape("dx", a.dx, shape).optional_shape("dresidual", a.dresidual, shape);
    if (a.z.present()) check.optional_shape("dz", a.dz, shape);
  }
  if (wanted(a.dweight, a.parameters)) check.shape("dweight", a.dweight, {shape[2]});
  if constexpr (std::is_arithmetic<accum_t<T>>::value) {
    check.at_least("eps", static_cast<double>(a.eps), 0.0);
  }
  return check.status();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class T, class TGrad>
Status rms_norm_backward(const Backend&, const RmsNormGradArgs<T, TGrad>&, Arena) {
  static_assert(sizeof(Backend) == 0,
                "no rms_norm_backward for this backend: include "
                "<ssm/reference/rms_norm_backward.hpp> or the header of that name of your backend, "
                "or pass a backend object first");
  return Status::ok();
}

SSM_NAMESPACE_END
