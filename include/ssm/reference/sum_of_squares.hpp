#pragma once

#include "ssm/ops/sum_of_squares.hpp"
#include "ssm/reference/backend.hpp"

SSM_NAMESPACE_BEGIN

template <class R>
Status sum_of_squares(Reference, const SumOfSquaresArgs<R>& a, Arena) {
  const Status status = check_shapes(a);
  if (!status || a.mode == GradMode::ignore) return status;
  double sum = a.mode == GradMode::accumulate ? a.sum(0) : 0;
  for (index_t i = 0; i < a.x.extent(0); ++i) {
    const double x = static_cast<double>(a.x(i));
    sum += x * x;
  }
  a.sum(0) = sum;
  return status;
}

SSM_NAMESPACE_END
