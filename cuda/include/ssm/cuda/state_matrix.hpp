#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/state_matrix.hpp"

SSM_NAMESPACE_BEGIN

// A = -exp(A_log) on CUDA; R is float or double, any strides. On a bad shape nothing is queued.
// Declared here, for plain C++ that links ssm::cuda_lib; defined in the .cuh of this name.
template <class R>
Status state_matrix(const Cuda& cuda, const StateMatrixArgs<R>& a);

SSM_NAMESPACE_END
