#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/rms_norm_backward.hpp"

SSM_NAMESPACE_BEGIN

// The gradient of RMS normalisation on CUDA; see RmsNormGradArgs for the equations. T is float,
// bf16, f16 or double, TGrad T or accum_t<T>; any strides. scratch is device memory of
// scratch_bytes(cuda, a): for dweight, a number per token and the shares of its sum. On a bad shape
// nothing is queued. Declared here, for plain C++ that links ssm::cuda_lib; defined in the .cuh of
// this name.
template <class T, class TGrad>
std::size_t scratch_bytes(const Cuda& cuda, const RmsNormGradArgs<T, TGrad>& a) noexcept;
template <class T, class TGrad>
Status rms_norm_backward(const Cuda& cuda, const RmsNormGradArgs<T, TGrad>& a, Arena scratch);

SSM_NAMESPACE_END
