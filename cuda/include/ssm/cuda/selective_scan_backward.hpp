#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/selective_scan_backward.hpp"

SSM_NAMESPACE_BEGIN

// The gradient of the selective scan on CUDA; see SelectiveScanGradArgs for the equations. T is
// float, bf16, f16 or double. Everything is computed again from the inputs of the forward call;
// sums run in an order fixed by the shape and the device, without atomics, so that two runs give
// the same bits.
//
// Real float systems with euler inputs, at most 32 states and varying B and C in the same groups
// take a fused, tiled kernel; all others a general one, one token after another, many times slower.
// On a bad shape nothing is queued; values (sequence lengths, the sign of A) are not checked.
//
// scratch is device memory of scratch_bytes(cuda, a), used until the queued kernels are done. For
// the tiled path that is, with D channels and N states (rounded up to 4, 8, 16 or 32): the state
// before every eighth token, N / 2 bytes per element of x, and a share of dB and dC for every 128 /
// max(4, N / 4) channels; nothing of size batch * length * D * N. The general path keeps every
// state of as many channels as it walks at once, 256 or so.
//
// Declared here, for plain C++ that links ssm::cuda_lib; defined in the .cuh of this name.
template <class T, class S>
std::size_t scratch_bytes(const Cuda& cuda, const SelectiveScanGradArgs<T, S>& a) noexcept;
template <class T, class S>
Status selective_scan_backward(const Cuda& cuda, const SelectiveScanGradArgs<T, S>& a,
                               Arena scratch);

SSM_NAMESPACE_END
