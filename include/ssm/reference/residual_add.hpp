#pragma once

#include "ssm/ops/residual_add.hpp"
#include "ssm/reference/backend.hpp"

SSM_NAMESPACE_BEGIN

template <class T>
Status residual_add(Reference, const ResidualAddArgs<T>& a) {
  const Status status = check_shapes(a);
  if (!status) return status;
  for (index_t b = 0; b < a.y.extent(0); ++b) {
    for (index_t t = 0; t < a.y.extent(1); ++t) {
      for (index_t i = 0; i < a.y.extent(2); ++i) {
        a.y(b, t, i) = a.residual(b, t, i) + widen(a.x(b, t, i));
      }
    }
  }
  return status;
}

SSM_NAMESPACE_END
