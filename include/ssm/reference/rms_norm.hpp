#pragma once

#include <cmath>

#include "ssm/core/math.hpp"
#include "ssm/ops/rms_norm.hpp"
#include "ssm/reference/backend.hpp"
#include "ssm/reference/row.hpp"

SSM_NAMESPACE_BEGIN

// The definition of RMS normalisation; see RmsNormArgs for the equation. Allocates nothing. On a
// bad argument it returns a Status and writes nothing.
template <class T>
Status rms_norm(Reference, const RmsNormArgs<T>& a) {
  using std::sqrt;
  using Accum = accum_t<T>;
  const Status status = check_shapes(a);
  if (!status.is_ok()) return status;

  const index_t features = a.y.extent(2);
  for (index_t b = 0; b < a.y.extent(0); ++b) {
    for (index_t t = 0; t < a.y.extent(1); ++t) {
      if (a.x.present() && a.residual.present()) {
        for (index_t i = 0; i < features; ++i)
          a.residual(b, t, i) = a.residual(b, t, i) + widen(a.x(b, t, i));
      }
      const auto r = [&a, b, t](index_t i) -> Accum {
        return a.residual.present() ? a.residual(b, t, i) : widen(a.x(b, t, i));
      };
      const auto gate = [&a, b, t](index_t i) -> Accum {
        return a.z.present() ? silu(widen(a.z(b, t, i))) : Accum(1);
      };
      const auto v = [&a, &r, &gate](index_t i) -> Accum {
        return a.norm_before_gate ? r(i) : r(i) * gate(i);
      };
      const Accum mean_square = detail::lazy_array<Accum>(features, v).square().sum() /
                                Accum(static_cast<double>(features));
      const Accum root = sqrt(mean_square + a.eps);
      for (index_t i = 0; i < features; ++i) {
        Accum y = v(i) / root;
        if (a.weight.present()) y = y * widen(a.weight(i));
        if (a.norm_before_gate) y = y * gate(i);
        a.y(b, t, i) = narrow<T>(y);
      }
    }
  }
  return Status::ok();
}

SSM_NAMESPACE_END
