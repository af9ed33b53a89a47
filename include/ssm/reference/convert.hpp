#pragma once

#include "ssm/ops/convert.hpp"
#include "ssm/reference/backend.hpp"

SSM_NAMESPACE_BEGIN

template <class From, class To>
Status convert(const Reference&, const ConvertArgs<From, To>& a) {
  const Status status = check_shapes(a);
  if (status) detail::convert_elements(a);
  return status;
}

SSM_NAMESPACE_END
