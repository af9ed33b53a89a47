#pragma once

#include "ssm/ops/convert.hpp"
#include "ssm/reference/backend.hpp"

SSM_NAMESPACE_BEGIN

template <class From, class To>
Status convert(const Reference&, const ConvertArgs<From, To>& a) {
  const Status status = check_shapes(a);
  if (!status) return status;
  for (index_t i = 0; i < a.y.extent(0); ++i) {
    for (index_t j = 0; j < a.y.extent(1); ++j) {
      for (index_t k = 0; k < a.y.extent(2); ++k) {
        for (index_t l = 0; l < a.y.extent(3); ++l) {
          a.y(i, j, k, l) = static_cast<To>(static_cast<accum_t<From>>(a.x(i, j, k, l)));
        }
      }
    }
  }
  return status;
}

SSM_NAMESPACE_END
