#pragma once

#include <cmath>

#include "ssm/core/math.hpp"
#include "ssm/ops/rms_norm_backward.hpp"
#include "ssm/reference/backend.hpp"
#include "ssm/reference/gradient.hpp"

SSM_NAMESPACE_BEGIN

// The definition of RMS normalisation's gradient; see RmsNormGradArgs for the equations. Allocates
// nothing. On a bad argument it returns a Status and writes nothing.
template <class T, class TGrad>
Status rms_norm_backward(Reference, const RmsNormGradArgs<T, TGrad>& a, Arena) {
  using std::sqrt;
  using Accum = accum_t<T>;
  const Status status = check_shapes(a);
  if (!status.is_ok()) return status;

  const View<Accum, 1> dweight = detail::open_sum(a.dweight, a.parameters);
  const index_t features = a.dy.extent(2);
  const Accum count = Accum(static_cast<double>(features));
  for (index_t b = 0; b < a.dy.extent(0); ++b) {
    for (index_t t = 0; t < a.dy.extent(1); ++t) {
      const auto dy = [&](index_t i) { return static_cast<Accum>(widen(a.dy(b, t, i))); };
      const auto r = [&](index_t i) -> Accum {
        return a.residual.present() ? a.residual(b, t, i) : widen(a.x(b, t, i));
      };
      const auto gate = [&](index_t i) {
        return a.z.present() ? silu(widen(a.z(b, t, i))) : Accum(1);
      };
      const auto v = [&](index_t i) -> Accum {
        return a.norm_before_gate ? r(i) : Accum(r(i) * gate(i));
      };
      const auto scaled_dy = [&](index_t i) -> Accum {  // dy weight
        return a.weight.present() ? Accum(dy(i) * widen(a.weight(i))) : dy(i);
      };
      const auto q = [&](index_t i) -> Accum {
        return a.norm_before_gate ? Accum(scaled_dy(i) * gate(i)) : scaled_dy(i);
      };

      Accum square(0), projection(0);
      for (index_t i = 0; i < features; ++i) {
        square += v(i) * v(i);
        projection += q(i) * v(i);
      }
      const Accum root = sqrt(square / count + a.eps);
      const Accum mean = projection / root / count;  // mean_j(q_j n_j)
      for (index_t i = 0; i < features; ++i) {
        const Accum n = v(i) / root;
        const Accum dv = (q(i) - n * mean) / root;
        if (dweight.present()) dweight(i) += dy(i) * n * (a.norm_before_gate ? gate(i) : Accum(1));
        if (a.inputs == GradMode::ignore) continue;
        Accum dr = a.norm_before_gate ? dv : Accum(dv * gate(i));
        if (a.z.present() && a.dz.present()) {
          const Accum dgate = a.norm_before_gate ? scaled_dy(i) * n : dv * r(i);
          detail::store_gradient(a.dz(b, t, i), Accum(dgate * silu_derivative(widen(a.z(b, t, i)))),
                                 a.inputs);
        }
        if (a.dr_later.present()) dr = dr + a.dr_later(b, t, i);
        if (a.dresidual.present()) detail::store_gradient(a.dresidual(b, t, i), dr, a.inputs);
        if (a.dx.present()) detail::store_gradient(a.dx(b, t, i), dr, a.inputs);
      }
    }
  }
  return Status::ok();
}

SSM_NAMESPACE_END
