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
// cuda.workspace; reads shapes alone. The rule, measured on an H200 (bench/results):
//
//   path    tiled for a real float system with euler inputs, at most 256 states and B and C in the
//           same groups of at least 8 channels; else general.
//   lanes   the fewest per channel that give 8 warps to a multiprocessor, as fewer lanes issue
//           fewer instructions per element.
//   chunks  1 if even so there are fewer than 8 warps to a multiprocessor, sequences are not packed
//           and the length is at least 8192: then as few lanes as there are, and as many chunks as
//           give 16 warps, of at least 1024 tokens. Chunks cost a second pass over the tokens.
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
