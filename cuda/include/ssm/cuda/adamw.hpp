#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/adamw.hpp"

SSM_NAMESPACE_BEGIN

// One step of AdamW on CUDA; see AdamWArgs for the equations. T is float, bf16, f16 or double. The
// step number and the learning rate are read on the device, so that a captured step can be replayed
// with new ones; a number below 1 is not noticed. On a bad shape nothing is queued. Declared here,
// for plain C++ that links ssm::cuda_lib; defined in the .cuh of this name.
template <class T>
Status adamw(const Cuda& cuda, const AdamWArgs<T>& a);

SSM_NAMESPACE_END
