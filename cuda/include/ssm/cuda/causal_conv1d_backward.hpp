#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/causal_conv1d_backward.hpp"

SSM_NAMESPACE_BEGIN

// The gradient of the causal convolution on CUDA; see CausalConv1dGradArgs for the equations. T is
// float, bf16, f16 or double; any strides; any width, of which 2 to 4 take one pass over x and dy
// and others width^2 operations per element. scratch is device memory of scratch_bytes(cuda, a):
// the shares of dweight and dbias, at most 128 (width + 1) numbers a channel. On a bad shape
// nothing is queued; sequence lengths are not checked. Declared here, for plain C++ that links
// ssm::cuda_lib; defined in the .cuh of this name.
template <class T>
std::size_t scratch_bytes(const Cuda& cuda, const CausalConv1dGradArgs<T>& a) noexcept;
template <class T>
Status causal_conv1d_backward(const Cuda& cuda, const CausalConv1dGradArgs<T>& a, Arena scratch);

SSM_NAMESPACE_END
