#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/rms_norm.hpp"

SSM_NAMESPACE_BEGIN

// RMS normalisation on CUDA; see RmsNormArgs for the equation. T is float, bf16, f16 or double; any
// strides. On a bad shape nothing is queued. Declared here, for plain C++ that links ssm::cuda_lib;
// defined in the .cuh of this name.
template <class T>
Status rms_norm(const Cuda& cuda, const RmsNormArgs<T>& a);

SSM_NAMESPACE_END
