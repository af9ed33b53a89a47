#pragma once

#include "ssm/core/config.hpp"

// Which vector instructions the CPU backend uses: those that the compiler was told this translation
// unit may use (-march=…, -mavx2 -mfma, /arch:AVX2), never a choice at run time.
//
// SSM_SIMD_MAX_BYTES caps the width of a register: 64 (no cap), 32, 16, or 0 for scalar code.
#ifndef SSM_SIMD_MAX_BYTES
#define SSM_SIMD_MAX_BYTES 64
#endif

#define SSM_SIMD_AVX512 0  // F, BW, DQ and VL: every AVX-512 CPU since Skylake-X
#define SSM_SIMD_AVX2 0    // with FMA
#define SSM_SIMD_SSE2 0    // no FMA, no later extension
#define SSM_SIMD_NEON 0    // AArch64
#define SSM_SIMD_F16C 0    // hardware conversion of f16, beside AVX2
#define SSM_SIMD_AVX512_VNNI 0
#define SSM_SIMD_AVX512_BF16 0

#if SSM_SIMD_MAX_BYTES >= 64 && defined(__AVX512F__) && defined(__AVX512BW__) && \
    defined(__AVX512DQ__) && defined(__AVX512VL__)
#undef SSM_SIMD_AVX512
#define SSM_SIMD_AVX512 1
#if defined(__AVX512VNNI__)
#undef SSM_SIMD_AVX512_VNNI
#define SSM_SIMD_AVX512_VNNI 1
#endif
#if defined(__AVX512BF16__)
#undef SSM_SIMD_AVX512_BF16
#define SSM_SIMD_AVX512_BF16 1
#endif
#elif SSM_SIMD_MAX_BYTES >= 32 && defined(__AVX2__) && (defined(__FMA__) || defined(_MSC_VER))
#undef SSM_SIMD_AVX2
#define SSM_SIMD_AVX2 1
#if defined(__F16C__) || defined(_MSC_VER)
#undef SSM_SIMD_F16C
#define SSM_SIMD_F16C 1
#endif
#elif SSM_SIMD_MAX_BYTES >= 16 && (defined(__SSE2__) || defined(_M_X64))
#undef SSM_SIMD_SSE2
#define SSM_SIMD_SSE2 1
#elif SSM_SIMD_MAX_BYTES >= 16 && (defined(__aarch64__) || defined(_M_ARM64))
#undef SSM_SIMD_NEON
#define SSM_SIMD_NEON 1
#endif

// The instruction set changes generated code, so it changes an inline namespace: `Cpu` and all that
// implements it live there, and files compiled for different instruction sets link together safely.
#if SSM_SIMD_AVX512 && SSM_SIMD_AVX512_VNNI && SSM_SIMD_AVX512_BF16
#define SSM_SIMD_NAMESPACE simd_avx512_vnni_bf16
#elif SSM_SIMD_AVX512 && SSM_SIMD_AVX512_VNNI
#define SSM_SIMD_NAMESPACE simd_avx512_vnni
#elif SSM_SIMD_AVX512 && SSM_SIMD_AVX512_BF16
#define SSM_SIMD_NAMESPACE simd_avx512_bf16
#elif SSM_SIMD_AVX512
#define SSM_SIMD_NAMESPACE simd_avx512
#elif SSM_SIMD_AVX2 && SSM_SIMD_F16C
#define SSM_SIMD_NAMESPACE simd_avx2_f16c
#elif SSM_SIMD_AVX2
#define SSM_SIMD_NAMESPACE simd_avx2
#elif SSM_SIMD_SSE2
#define SSM_SIMD_NAMESPACE simd_sse2
#elif SSM_SIMD_NEON
#define SSM_SIMD_NAMESPACE simd_neon
#else
#define SSM_SIMD_NAMESPACE simd_scalar
#endif

// Public names of the CPU backend: ssm::Cpu, ssm::selective_scan(const Cpu&, …).
#define SSM_CPU_NAMESPACE_BEGIN \
  SSM_NAMESPACE_BEGIN           \
  inline namespace SSM_SIMD_NAMESPACE {
#define SSM_CPU_NAMESPACE_END \
  }                           \
  SSM_NAMESPACE_END

// Its private names: ssm::detail.
#define SSM_CPU_DETAIL_BEGIN \
  SSM_NAMESPACE_BEGIN        \
  namespace detail {         \
  inline namespace SSM_SIMD_NAMESPACE {
#define SSM_CPU_DETAIL_END \
  }                        \
  }                        \
  SSM_NAMESPACE_END

// For the smallest functions of inner loops, where a call would spill every register.
#if defined(_MSC_VER) && !defined(__clang__)
#define SSM_ALWAYS_INLINE __forceinline
#elif defined(__GNUC__)
#define SSM_ALWAYS_INLINE __attribute__((always_inline)) inline
#else
#define SSM_ALWAYS_INLINE inline
#endif
