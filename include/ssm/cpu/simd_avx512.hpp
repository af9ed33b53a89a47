#pragma once

#include "ssm/core/isa.hpp"

#if SSM_SIMD_AVX512

#include <immintrin.h>

#include <cstdint>

#include "ssm/core/dtype.hpp"

// Vec for AVX-512; ssm/cpu/simd.hpp states what every Vec offers.

SSM_CPU_DETAIL_BEGIN
namespace simd {

template <class T>
struct Vec;

template <>
struct Vec<float> {
  using Scalar = float;
  using Mask = __mmask16;
  // Every lane. GCC 12 warns of uninitialised values in its own unmasked intrinsics; with this
  // mask it emits the same instruction, and no warning.
  static constexpr Mask kAll = static_cast<Mask>(-1);
  static constexpr int kWidth = 16;
  __m512 v;

  Vec() = default;
  SSM_ALWAYS_INLINE explicit Vec(__m512 r) noexcept : v(r) {}
  SSM_ALWAYS_INLINE Vec(float x) noexcept : v(_mm512_set1_ps(x)) {}

  SSM_ALWAYS_INLINE static Vec load(const float* p) noexcept { return Vec(_mm512_loadu_ps(p)); }
  SSM_ALWAYS_INLINE void store(float* p) const noexcept { _mm512_storeu_ps(p, v); }
  SSM_ALWAYS_INLINE static Vec load(const bf16* p) noexcept {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return Vec(_mm512_castsi512_ps(
        _mm512_maskz_slli_epi32(kAll, _mm512_maskz_cvtepu16_epi32(kAll, bits), 16)));
  }
  SSM_ALWAYS_INLINE static Vec load(const f16* p) noexcept {
    return Vec(
        _mm512_maskz_cvtph_ps(kAll, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))));
  }
  SSM_ALWAYS_INLINE static Vec load(const std::int8_t* p) noexcept {
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return Vec(_mm512_maskz_cvtepi32_ps(kAll, _mm512_maskz_cvtepi8_epi32(kAll, bytes)));
  }
  SSM_ALWAYS_INLINE void store(bf16* p) const noexcept {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd =
        _mm512_and_si512(_mm512_maskz_srli_epi32(kAll, bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i high =
        _mm512_maskz_srli_epi32(kAll, _mm512_mask_mov_epi32(rounded, nan, quiet), 16);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_maskz_cvtepi32_epi16(kAll, high));
  }
  SSM_ALWAYS_INLINE void store(f16* p) const noexcept {
    _mm256_storeu_si256(
        reinterpret_cast<__m256i*>(p),
        _mm512_maskz_cvtps_ph(kAll, v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }

  SSM_ALWAYS_INLINE static Vec load(const float* p, int n) noexcept {
    return Vec(_mm512_maskz_loadu_ps(first_lanes(n), p));
  }
  SSM_ALWAYS_INLINE void store(float* p, int n) const noexcept {
    _mm512_mask_storeu_ps(p, first_lanes(n), v);
  }
  SSM_ALWAYS_INLINE static Mask first_lanes(int n) noexcept {
    return static_cast<Mask>((1u << n) - 1u);
  }

  friend SSM_ALWAYS_INLINE Vec operator+(Vec a, Vec b) noexcept {
    return Vec(_mm512_add_ps(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator-(Vec a, Vec b) noexcept {
    return Vec(_mm512_sub_ps(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator*(Vec a, Vec b) noexcept {
    return Vec(_mm512_mul_ps(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator/(Vec a, Vec b) noexcept {
    return Vec(_mm512_div_ps(a.v, b.v));
  }
  // a b + c with one rounding where the instruction set has it.
  friend SSM_ALWAYS_INLINE Vec fma(Vec a, Vec b, Vec c) noexcept {
    return Vec(_mm512_fmadd_ps(a.v, b.v, c.v));
  }
  friend SSM_ALWAYS_INLINE Vec fnma(Vec a, Vec b, Vec c) noexcept {
    return Vec(_mm512_fnmadd_ps(a.v, b.v, c.v));
  }
  friend SSM_ALWAYS_INLINE Vec min(Vec a, Vec b) noexcept {
    return Vec(_mm512_maskz_min_ps(kAll, a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec max(Vec a, Vec b) noexcept {
    return Vec(_mm512_maskz_max_ps(kAll, a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec sqrt(Vec a) noexcept { return Vec(_mm512_maskz_sqrt_ps(kAll, a.v)); }
  friend SSM_ALWAYS_INLINE Vec abs(Vec a) noexcept {
    return Vec(_mm512_castsi512_ps(
        _mm512_and_si512(_mm512_castps_si512(a.v), _mm512_set1_epi32(0x7fffffff))));
  }
  friend SSM_ALWAYS_INLINE Mask less(Vec a, Vec b) noexcept {
    return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ);
  }
  friend SSM_ALWAYS_INLINE Mask less_equal(Vec a, Vec b) noexcept {
    return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ);
  }
  friend SSM_ALWAYS_INLINE Mask equal(Vec a, Vec b) noexcept {
    return _mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ);
  }
  static SSM_ALWAYS_INLINE Vec select(Mask mask, Vec yes, Vec no) noexcept {
    return Vec(_mm512_mask_blend_ps(mask, no.v, yes.v));
  }
  static SSM_ALWAYS_INLINE bool all(Mask mask) noexcept { return mask == kAll; }
  friend SSM_ALWAYS_INLINE Vec add_exponent(Vec a, Vec n) noexcept {
    const __m512i shifted = _mm512_maskz_slli_epi32(kAll, _mm512_castps_si512(n.v), 23);
    return Vec(_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a.v), shifted)));
  }
  friend SSM_ALWAYS_INLINE float sum(Vec a) noexcept {
    const __m256d low = _mm512_maskz_extractf64x4_pd(0xf, _mm512_castps_pd(a.v), 0);
    const __m256d high = _mm512_maskz_extractf64x4_pd(0xf, _mm512_castps_pd(a.v), 1);
    const __m256 eight = _mm256_add_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 pair = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
  }
  friend SSM_ALWAYS_INLINE float max_lane(Vec a) noexcept {
    const __m256d low = _mm512_maskz_extractf64x4_pd(0xf, _mm512_castps_pd(a.v), 0);
    const __m256d high = _mm512_maskz_extractf64x4_pd(0xf, _mm512_castps_pd(a.v), 1);
    const __m256 eight = _mm256_max_ps(_mm256_castpd_ps(low), _mm256_castpd_ps(high));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 pair = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
  }
};

template <>
struct Vec<double> {
  using Scalar = double;
  using Mask = __mmask8;
  // Every lane. GCC 12 warns of uninitialised values in its own unmasked intrinsics; with this
  // mask it emits the same instruction, and no warning.
  static constexpr Mask kAll = static_cast<Mask>(-1);
  static constexpr int kWidth = 8;
  __m512d v;

  Vec() = default;
  SSM_ALWAYS_INLINE explicit Vec(__m512d r) noexcept : v(r) {}
  SSM_ALWAYS_INLINE Vec(double x) noexcept : v(_mm512_set1_pd(x)) {}

  SSM_ALWAYS_INLINE static Vec load(const double* p) noexcept { return Vec(_mm512_loadu_pd(p)); }
  SSM_ALWAYS_INLINE void store(double* p) const noexcept { _mm512_storeu_pd(p, v); }

  SSM_ALWAYS_INLINE static Vec load(const double* p, int n) noexcept {
    return Vec(_mm512_maskz_loadu_pd(first_lanes(n), p));
  }
  SSM_ALWAYS_INLINE void store(double* p, int n) const noexcept {
    _mm512_mask_storeu_pd(p, first_lanes(n), v);
  }
  SSM_ALWAYS_INLINE static Mask first_lanes(int n) noexcept {
    return static_cast<Mask>((1u << n) - 1u);
  }

  friend SSM_ALWAYS_INLINE Vec operator+(Vec a, Vec b) noexcept {
    return Vec(_mm512_add_pd(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator-(Vec a, Vec b) noexcept {
    return Vec(_mm512_sub_pd(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator*(Vec a, Vec b) noexcept {
    return Vec(_mm512_mul_pd(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator/(Vec a, Vec b) noexcept {
    return Vec(_mm512_div_pd(a.v, b.v));
  }
  // a b + c with one rounding where the instruction set has it.
  friend SSM_ALWAYS_INLINE Vec fma(Vec a, Vec b, Vec c) noexcept {
    return Vec(_mm512_fmadd_pd(a.v, b.v, c.v));
  }
  friend SSM_ALWAYS_INLINE Vec fnma(Vec a, Vec b, Vec c) noexcept {
    return Vec(_mm512_fnmadd_pd(a.v, b.v, c.v));
  }
  friend SSM_ALWAYS_INLINE Vec min(Vec a, Vec b) noexcept {
    return Vec(_mm512_maskz_min_pd(kAll, a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec max(Vec a, Vec b) noexcept {
    return Vec(_mm512_maskz_max_pd(kAll, a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec sqrt(Vec a) noexcept { return Vec(_mm512_maskz_sqrt_pd(kAll, a.v)); }
  friend SSM_ALWAYS_INLINE Vec abs(Vec a) noexcept {
    return Vec(_mm512_castsi512_pd(
        _mm512_and_si512(_mm512_castpd_si512(a.v), _mm512_set1_epi64(0x7fffffffffffffff))));
  }
  friend SSM_ALWAYS_INLINE Mask less(Vec a, Vec b) noexcept {
    return _mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ);
  }
  friend SSM_ALWAYS_INLINE Mask less_equal(Vec a, Vec b) noexcept {
    return _mm512_cmp_pd_mask(a.v, b.v, _CMP_LE_OQ);
  }
  friend SSM_ALWAYS_INLINE Mask equal(Vec a, Vec b) noexcept {
    return _mm512_cmp_pd_mask(a.v, b.v, _CMP_EQ_OQ);
  }
  static SSM_ALWAYS_INLINE Vec select(Mask mask, Vec yes, Vec no) noexcept {
    return Vec(_mm512_mask_blend_pd(mask, no.v, yes.v));
  }
  static SSM_ALWAYS_INLINE bool all(Mask mask) noexcept { return mask == kAll; }
  friend SSM_ALWAYS_INLINE Vec add_exponent(Vec a, Vec n) noexcept {
    const __m512i shifted = _mm512_maskz_slli_epi64(kAll, _mm512_castpd_si512(n.v), 52);
    return Vec(_mm512_castsi512_pd(_mm512_add_epi64(_mm512_castpd_si512(a.v), shifted)));
  }
  friend SSM_ALWAYS_INLINE double sum(Vec a) noexcept {
    const __m256d low = _mm512_maskz_extractf64x4_pd(0xf, a.v, 0);
    const __m256d high = _mm512_maskz_extractf64x4_pd(0xf, a.v, 1);
    const __m256d four = _mm256_add_pd(low, high);
    const __m128d pair = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)));
  }
  friend SSM_ALWAYS_INLINE double max_lane(Vec a) noexcept {
    const __m256d low = _mm512_maskz_extractf64x4_pd(0xf, a.v, 0);
    const __m256d high = _mm512_maskz_extractf64x4_pd(0xf, a.v, 1);
    const __m256d four = _mm256_max_pd(low, high);
    const __m128d pair = _mm_max_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_max_sd(pair, _mm_unpackhi_pd(pair, pair)));
  }
};

inline void deinterleave4(Vec<float> (&v)[4]) noexcept {
  // Columns 0 and 1 of eight rows, then 2 and 3.
  const __m512i even = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
  const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(2));
  const __m512 a = _mm512_permutex2var_ps(v[0].v, even, v[1].v);
  const __m512 b = _mm512_permutex2var_ps(v[2].v, even, v[3].v);
  const __m512 c = _mm512_permutex2var_ps(v[0].v, odd, v[1].v);
  const __m512 d = _mm512_permutex2var_ps(v[2].v, odd, v[3].v);
  const __mmask16 all = Vec<float>::kAll;
  v[0] = Vec<float>(_mm512_maskz_shuffle_f32x4(all, a, b, 0x44));
  v[1] = Vec<float>(_mm512_maskz_shuffle_f32x4(all, a, b, 0xee));
  v[2] = Vec<float>(_mm512_maskz_shuffle_f32x4(all, c, d, 0x44));
  v[3] = Vec<float>(_mm512_maskz_shuffle_f32x4(all, c, d, 0xee));
}

// Sums within 128 bits side by side, as a transpose does it, then over the quarters.
SSM_ALWAYS_INLINE void add_sums4(const Vec<float> (&v)[4], float* p) noexcept {
  constexpr Vec<float>::Mask kAll = Vec<float>::kAll;
  const auto low = [](Vec<float> a, Vec<float> b) {
    return Vec<float>(_mm512_maskz_unpacklo_ps(kAll, a.v, b.v));
  };
  const auto high = [](Vec<float> a, Vec<float> b) {
    return Vec<float>(_mm512_maskz_unpackhi_ps(kAll, a.v, b.v));
  };
  const Vec<float> ab = low(v[0], v[1]) + high(v[0], v[1]);
  const Vec<float> cd = low(v[2], v[3]) + high(v[2], v[3]);
  const Vec<float> sums = Vec<float>(_mm512_maskz_shuffle_ps(kAll, ab.v, cd.v, 0x44)) +
                          Vec<float>(_mm512_maskz_shuffle_ps(kAll, ab.v, cd.v, 0xee));
  const __m256d first = _mm512_maskz_extractf64x4_pd(0xf, _mm512_castps_pd(sums.v), 0);
  const __m256d second = _mm512_maskz_extractf64x4_pd(0xf, _mm512_castps_pd(sums.v), 1);
  const __m256 eight = _mm256_add_ps(_mm256_castpd_ps(first), _mm256_castpd_ps(second));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  _mm_storeu_ps(p, _mm_add_ps(_mm_loadu_ps(p), four));
}

}  // namespace simd
SSM_CPU_DETAIL_END

#endif
