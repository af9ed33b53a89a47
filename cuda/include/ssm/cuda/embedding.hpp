#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/embedding.hpp"

SSM_NAMESPACE_BEGIN

// The embedding on CUDA; see EmbeddingArgs for the equation. T is float, bf16, f16 or double; any
// strides. On a bad shape nothing is queued; token ids are not checked. Declared here, for plain
// C++ that links ssm::cuda_lib; defined in the .cuh of this name.
template <class T>
Status embedding(const Cuda& cuda, const EmbeddingArgs<T>& a);

SSM_NAMESPACE_END
