#pragma once

#include "ssm/ops/linear_backward.hpp"
#include "ssm/reference/backend.hpp"
#include "ssm/reference/gradient.hpp"

SSM_NAMESPACE_BEGIN

// The definition of the linear layer's gradient; see LinearGradArgs for the equations. Allocates
// nothing. On a bad argument it returns a Status and writes nothing.
template <class T, class TOut, class TIn>
Status linear_backward(Reference, const LinearGradArgs<T, TOut, TIn>& a, Arena) {
  using Accum = accum_t<T>;
  const Status status = check_shapes(a);
  if (!status.is_ok()) return status;

  const View<Accum, 2> dweight = detail::open_sum(a.dweight, a.parameters);
  const View<Accum, 1> dbias = detail::open_sum(a.dbias, a.parameters);
  const index_t out_features = a.weight.extent(0);
  const index_t in_features = a.weight.extent(1);
  for (index_t b = 0; b < a.dy.extent(0); ++b) {
    for (index_t t = 0; t < a.dy.extent(1); ++t) {
      for (index_t o = 0; o < out_features; ++o) {
        const Accum dy = static_cast<Accum>(widen(a.dy(b, t, o)));
        if (dbias.present()) dbias(o) += dy;
        if (!dweight.present()) continue;
        for (index_t i = 0; i < in_features; ++i) dweight(o, i) += dy * widen(a.x(b, t, i));
      }
      if (!wanted(a.dx, a.inputs)) continue;
      for (index_t i = 0; i < in_features; ++i) {
        Accum dx(0);
        for (index_t o = 0; o < out_features; ++o) {
          dx += static_cast<Accum>(widen(a.dy(b, t, o))) * widen(a.weight(o, i));
        }
        detail::store_gradient(a.dx(b, t, i), dx, a.inputs);
      }
    }
  }
  return Status::ok();
}

SSM_NAMESPACE_END
