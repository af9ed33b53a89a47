#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/causal_conv1d.hpp"

SSM_NAMESPACE_BEGIN

// The causal depthwise convolution on CUDA; see CausalConv1dArgs for the equation. T is float,
// bf16, f16 or double; any width, any strides. One kernel while a sequence has at most 8 tokens, a
// second one for state_last beyond. On a bad shape nothing is queued; sequence lengths are not
// checked. Declared here, for plain C++ that links ssm::cuda_lib; defined in the .cuh of this name.
template <class T>
Status causal_conv1d(const Cuda& cuda, const CausalConv1dArgs<T>& a);

SSM_NAMESPACE_END
