#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/linear.hpp"

SSM_NAMESPACE_BEGIN

// The linear layer on CUDA; see LinearArgs for the equation. T is float, bf16, f16 or double, TOut
// T or accum_t<T>. Through cuBLASLt (cuda.blas, with what there is of cuda.workspace) where it
// takes the strides: contiguous features in x, weight and y, and rows that do not overlap. A kernel
// of this library serves every other case and a null cuda.blas, many times slower. Float products
// are float products: no tf32. A bias on two-byte outputs takes tokens * out_features floats of
// workspace, so that the sum is rounded once.
//
// A packed weight is `unsupported`: this backend reads weights as they are stored. On a bad shape
// nothing is queued. Declared here, for plain C++ that links ssm::cuda_lib; defined in the .cuh of
// this name, whose users link cublasLt.
template <class T, class TOut>
Status linear(const Cuda& cuda, const LinearArgs<T, TOut>& a);

SSM_NAMESPACE_END
