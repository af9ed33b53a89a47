#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/convert.hpp"

SSM_NAMESPACE_BEGIN

// y = x on CUDA, between float and bf16, any strides. On a bad shape nothing is queued. Declared
// here, for plain C++ that links ssm::cuda_lib; defined in the .cuh of this name.
template <class From, class To>
Status convert(const Cuda& cuda, const ConvertArgs<From, To>& a);

SSM_NAMESPACE_END
