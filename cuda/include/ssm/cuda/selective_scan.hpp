#pragma once

#include "ssm/cuda/context.hpp"
#include "ssm/ops/selective_scan.hpp"

// The selective scan on CUDA, declared. Code that nvcc compiles includes the .cuh of this name,
// which defines it; plain C++ includes this and links ssm::cuda_lib, which holds it for T float,
// bf16, f16 and double with a real and a complex A.

SSM_NAMESPACE_BEGIN

// How the CUDA selective scan runs. selective_scan(cuda, args) takes selective_scan_config(cuda,
// args); selective_scan(cuda, args, config) takes any. Results of different configurations agree up
// to rounding.
//
// With more than one chunk, a token's part in a state ends with the token's chunk if it has decayed
// below 2^-48 (of bf16 and f16: 2^-36) by then: 24 bits below the rounding of what the state was.
// That holds for a NaN or an infinity too, which otherwise stay in a state for good.
enum class ScanPath {
  tiled,    // fused and tiled, for the systems that Mamba uses
  general,  // every option, one token after another
};

struct ScanConfig {
  ScanPath path = ScanPath::general;
  int lanes = 4;   // lanes of a warp that share one channel: 4, 8 or 16, rounded to what d_state
                   // has; tiled only
  int chunks = 1;  // pieces each sequence is cut into, of equal length; more than one needs
                   // workspace; tiled only
};

// The configuration that selective_scan chooses for these arguments on the current device with
// cuda.workspace; reads shapes alone. The rule, measured on an H100:
//
//   path    tiled for a real float system with euler inputs, at most 256 states and B and C in the
//           same groups of at least 8 channels; else general.
//   lanes   the fewest per channel that give 8 warps to a multiprocessor, as fewer lanes issue
//           fewer instructions per element.
//   chunks  as many as give 16 warps to a multiprocessor with as few lanes as there are, of at
//           least 64 and 4 d_state tokens, if sequences are not packed and that is estimated to be
//           faster than one. Chunks cost a pass over the tokens for the states they end with, from
//           a chunk's last token back to where all states have forgotten; the estimate is for
//           decays of an initialised Mamba block. With 16 states an H100 cuts 1024 channels from
//           about 2000 tokens on and 5120 channels from about 50 thousand.
template <class T, class S>
ScanConfig selective_scan_config(const Cuda& cuda, const SelectiveScanArgs<T, S>& a) noexcept;

// Bytes of cuda.workspace with which selective_scan is free to choose its configuration: at most
// batch * length * channels * 2. It works with less, or none, by not cutting sequences into chunks.
template <class T, class S>
std::size_t workspace_bytes(const Cuda& cuda, const SelectiveScanArgs<T, S>& a) noexcept;

// The selective scan; see SelectiveScanArgs for the equation. Fused: nothing of size
// batch * length * channels * d_state is ever in memory. T is float, bf16, f16 or double. Modes
// `sequential` and `associative` are one here. A single token (the decoding step) has a kernel of
// its own on the tiled path.
//
// Fastest when x, dt and z are 16-byte aligned with contiguous channels (B, L, D), strides between
// tokens multiples of 16 bytes, or, forwards, contiguous tokens (B, D, L), whose rows may begin
// anywhere; any strides work. d_state up to 4096, else `unsupported`. On a bad shape nothing is
// queued; values (sequence lengths, the sign of A) are not checked.
template <class T, class S>
Status selective_scan(const Cuda& cuda, const SelectiveScanArgs<T, S>& a, const ScanConfig& config);
template <class T, class S>
Status selective_scan(const Cuda& cuda, const SelectiveScanArgs<T, S>& a);

SSM_NAMESPACE_END
