#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/sum_of_squares.hpp"

SSM_NAMESPACE_BEGIN

// The sum of squares on CUDA; see SumOfSquaresArgs. R is float or double; any stride. Blocks leave
// their sums in scratch (device memory of scratch_bytes(cuda, a)) and one adds them in their order.
// On a bad shape nothing is queued. Declared here, for plain C++ that links ssm::cuda_lib; defined
// in the .cuh of this name.
template <class R>
std::size_t scratch_bytes(const Cuda& cuda, const SumOfSquaresArgs<R>& a) noexcept;
template <class R>
Status sum_of_squares(const Cuda& cuda, const SumOfSquaresArgs<R>& a, Arena scratch);

SSM_NAMESPACE_END
