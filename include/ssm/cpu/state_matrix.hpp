#pragma once

#include <cmath>

#include "ssm/cpu/backend.hpp"
#include "ssm/ops/state_matrix.hpp"

SSM_CPU_NAMESPACE_BEGIN

template <class R>
Status state_matrix(const Cpu&, const StateMatrixArgs<R>& a) {
  const Status status = check_shapes(a);
  if (!status) return status;
  using std::exp;
  for (index_t d = 0; d < a.A.extent(0); ++d) {
    for (index_t n = 0; n < a.A.extent(1); ++n) a.A(d, n) = -exp(a.A_log(d, n));
  }
  return status;
}

SSM_CPU_NAMESPACE_END
