#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/embedding_backward.hpp"

SSM_NAMESPACE_BEGIN

// The gradient of the embedding look-up on CUDA; see EmbeddingGradArgs. T is float, bf16, f16 or
// double; any strides; at most 2^31 - 1 tokens and 2^31 - 2 ids. The tokens are sorted by id, and
// each id's are summed in their order, in parts where the vocabulary is small. scratch is device
// memory of scratch_bytes(cuda, a): the sorted tokens, where each id's begin, and the parts' sums.
// On a bad shape nothing is queued; ids are not checked, and one outside the vocabulary adds
// nothing. Declared here, for plain C++ that links ssm::cuda_lib; defined in the .cuh of this name.
template <class T>
std::size_t scratch_bytes(const Cuda& cuda, const EmbeddingGradArgs<T>& a) noexcept;
template <class T>
Status embedding_backward(const Cuda& cuda, const EmbeddingGradArgs<T>& a, Arena scratch);

SSM_NAMESPACE_END
