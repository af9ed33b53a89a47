#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/residual_add.hpp"

SSM_NAMESPACE_BEGIN

// y = residual + x on CUDA; see ResidualAddArgs. T is float, bf16, f16 or double; any strides. On a
// bad shape nothing is queued. Declared here, for plain C++ that links ssm::cuda_lib; defined in
// the .cuh of this name.
template <class T>
Status residual_add(const Cuda& cuda, const ResidualAddArgs<T>& a);

SSM_NAMESPACE_END
