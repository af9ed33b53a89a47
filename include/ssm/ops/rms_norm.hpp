#pragma once

#include "ssm/core/check.hpp"
#include "ssm/core/dtype.hpp"

SSM_NAMESPACE_BEGIN

// Root-mean-square normalisation over the last dimension (Zhang and Sennrich 2019), with the two
// neighbours it has in a Mamba stack: the residual add before it and the gate beside it.
//
//   r      = x + residual                      residual <- r   (only if residual is present)
//   g(v)   = v silu(z)                         (the identity if z is absent)
//   y      = weight * n(g(r))                  norm_before_gate = false, as Mamba-2
//   y      = g(weight * n(r))                  norm_before_gate = true
//   n(v)_i = v_i / sqrt(mean_j v_j^2 + eps)
//
// weight absent means 1 (Falcon-Mamba's norms of dt, B and C). The residual stream lives in
// accum_t<T> and is updated in place. y may be x exactly (same data and strides).
template <class T>
struct RmsNormArgs {
  using Accum = accum_t<T>;
  View<const T, 3> x;       // (batch, length, features); absent: only the residual is normalised
  View<Accum, 3> residual;  // (batch, length, features), optional, read and written
  View<const T, 1> weight;  // (features), optional
  View<const T, 3> z;       // (batch, length, features), optional gate
  View<T, 3> y;             // (batch, length, features), output
  Accum eps = Accum(1e-5);  // >= 0
  bool norm_before_gate = false;
};

// Every shape condition; touches no element.
template <class T>
Status check_shapes(const RmsNormArgs<T>& a) noexcept {
  const index_t batch = a.y.extent(0);
  const index_t length = a.y.extent(1);
  const index_t features = a.y.extent(2);
  Check check("rms_norm");
  check.array("y", a.y)
      .at_least("y.extent(2) (features)", features, index_t{1})
      .optional_shape("x", a.x, {batch, length, features})
      .optional_shape("residual", a.residual, {batch, length, features})
      .require(a.x.present() || a.residual.present(), ErrorCode::invalid_argument, "x",
               "must be present when residual is absent")
      .optional_shape("weight", a.weight, {features})
      .optional_shape("z", a.z, {batch, length, features});
  if constexpr (std::is_arithmetic<accum_t<T>>::value) {
    check.at_least("eps", static_cast<double>(a.eps), 0.0);
  }
  return check.status();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class T>
Status rms_norm(const Backend&, const RmsNormArgs<T>&) {
  static_assert(
      sizeof(Backend) == 0,
      "no rms_norm for this backend: include <ssm/reference/rms_norm.hpp>, "
      "<ssm/cpu/rms_norm.hpp> or <ssm/cuda/rms_norm.cuh>, or pass a backend object first");
  return Status::ok();
}

SSM_NAMESPACE_END
