#pragma once

#include "ssm/core/arena.hpp"
#include "ssm/ops/execution.hpp"
#include "ssm/ops/language_model_step.hpp"
#include "ssm/ops/mamba_step.hpp"

// Handles of the CUDA runtime and of cuBLASLt, declared here so that this header needs no toolkit:
// CUstream_st* is cudaStream_t, cublasLtContext* is cublasLtHandle_t.
struct CUstream_st;
struct cublasLtContext;

SSM_NAMESPACE_BEGIN

// The CUDA backend: where work is queued and what it may use. Views hold device pointers. A call
// queues kernels on `stream` and returns; it never synchronises and never allocates, so it can be
// captured into a graph. Results are the same bits from run to run. Conditions on values (sequence
// lengths, token ids) are the caller's to keep: they cannot be checked without a synchronisation.
//
// The stream must belong to the current device. `workspace` is device memory, used by one operation
// after another in stream order; each operation documents what it takes, and sizes it with its own
// workspace_bytes(cuda, args). One Cuda serves one stream; streams that run at once need a
// workspace each.
struct Cuda {
  CUstream_st* stream = nullptr;    // null: the default stream
  cublasLtContext* blas = nullptr;  // needed by linear alone
  Arena workspace = Arena(nullptr, 0);
};

template <>
inline constexpr bool reads_on_host<Cuda> = false;

// By ssm/cuda/mamba_step.hpp.
template <>
inline constexpr bool fuses_mamba_step<Cuda, float> = true;
template <>
inline constexpr bool fuses_mamba_step<Cuda, bf16> = true;
template <>
inline constexpr bool fuses_mamba_step<Cuda, f16> = true;
template <>
inline constexpr bool fuses_mamba_step<Cuda, bf16, bf16> = true;
template <>
inline constexpr bool fuses_mamba_step<Cuda, f16, bf16> = true;

// By ssm/cuda/language_model_step.hpp.
template <class T>
inline constexpr bool fuses_language_model_step<Cuda, T> = fuses_mamba_step<Cuda, T>;

SSM_NAMESPACE_END
