#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/cross_entropy.hpp"

SSM_NAMESPACE_BEGIN

// The cross-entropy and its gradient on CUDA; see CrossEntropyArgs for the equations. R is float or
// double; any strides. scratch is device memory of scratch_bytes(cuda, a): a loss per token. On a
// bad shape nothing is queued; targets are not checked, and one that is neither `ignore` nor in the
// vocabulary makes the loss and its position's dlogits NaN. Declared here, for plain C++ that links
// ssm::cuda_lib; defined in the .cuh of this name.
template <class R>
std::size_t scratch_bytes(const Cuda& cuda, const CrossEntropyArgs<R>& a) noexcept;
template <class R>
Status cross_entropy(const Cuda& cuda, const CrossEntropyArgs<R>& a, Arena scratch);

SSM_NAMESPACE_END
