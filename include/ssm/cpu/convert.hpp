#pragma once

#include "ssm/cpu/backend.hpp"
#include "ssm/ops/convert.hpp"

SSM_CPU_NAMESPACE_BEGIN

template <class From, class To>
Status convert(const Cpu&, const ConvertArgs<From, To>& a) {
  const Status status = check_shapes(a);
  if (status) detail::convert_elements(a);
  return status;
}

SSM_CPU_NAMESPACE_END
