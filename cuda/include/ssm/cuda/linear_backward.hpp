#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/linear_backward.hpp"

SSM_NAMESPACE_BEGIN

// The gradient of the linear layer on CUDA; see LinearGradArgs for the equations. T is float, bf16,
// f16 or double; TOut and TIn are T or accum_t<T>. Through cuBLASLt (cuda.blas, with what there is
// of cuda.workspace) where it takes the strides: contiguous features, and batch rows that lie as
// one matrix. A kernel of this library serves every other case and a null cuda.blas, many times
// slower. Float products are float products: no tf32.
//
// A dy of accum_t<T> beside two-byte weights is rounded to bf16 before its product with them, as
// the forward pass rounds activations; beside f16, whose range it may leave, weights and x are
// widened instead. scratch is device memory of scratch_bytes(cuda, a) for that and for the shares
// of dbias. On a bad shape nothing is queued. Declared here, for plain C++ that links
// ssm::cuda_lib; defined in the .cuh of this name, whose users link cublasLt.
template <class T, class TOut, class TIn>
std::size_t scratch_bytes(const Cuda& cuda, const LinearGradArgs<T, TOut, TIn>& a) noexcept;
template <class T, class TOut, class TIn>
Status linear_backward(const Cuda& cuda, const LinearGradArgs<T, TOut, TIn>& a, Arena scratch);

SSM_NAMESPACE_END
