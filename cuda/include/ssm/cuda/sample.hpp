#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/sample.hpp"

SSM_NAMESPACE_BEGIN

// The next token of every row, on the device; see SampleArgs, and selective_scan.hpp on .hpp and
// .cuh. One block per row; sums of probabilities are whole numbers of 2^-40 of the largest, so that
// their order does not matter, and what is less likely than that is never drawn. R is float.
template <class R>
Status sample(const Cuda& cuda, const SampleArgs<R>& a);

SSM_NAMESPACE_END
