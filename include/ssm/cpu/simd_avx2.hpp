#pragma once

#include "ssm/core/isa.hpp"

#if SSM_SIMD_AVX2

#include <immintrin.h>

#include <cstdint>

#include "ssm/core/dtype.hpp"

// Vec for AVX2 with FMA; ssm/cpu/simd.hpp states what every Vec offers.

SSM_CPU_DETAIL_BEGIN
namespace simd {

template <class T>
struct Vec;

template <class V, class Stored>
V load_lane_by_lane(const Stored* p) noexcept;
template <class V, class Stored>
void store_lane_by_lane(V v, Stored* p) noexcept;

template <>
struct Vec<float> {
  using Scalar = float;
  using Mask = __m256;
  static constexpr int kWidth = 8;
  __m256 v;

  Vec() = default;
  SSM_ALWAYS_INLINE explicit Vec(__m256 r) noexcept : v(r) {}
  SSM_ALWAYS_INLINE Vec(float x) noexcept : v(_mm256_set1_ps(x)) {}

  SSM_ALWAYS_INLINE static Vec load(const float* p) noexcept { return Vec(_mm256_loadu_ps(p)); }
  SSM_ALWAYS_INLINE void store(float* p) const noexcept { _mm256_storeu_ps(p, v); }
  SSM_ALWAYS_INLINE static Vec load(const bf16* p) noexcept {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return Vec(_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16)));
  }
  SSM_ALWAYS_INLINE static Vec load(const std::int8_t* p) noexcept {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return Vec(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
  }
  SSM_ALWAYS_INLINE void store(bf16* p) const noexcept {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i high = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, nan), 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
#if SSM_SIMD_F16C
  SSM_ALWAYS_INLINE static Vec load(const f16* p) noexcept {
    return Vec(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  SSM_ALWAYS_INLINE void store(f16* p) const noexcept {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
#else
  static Vec load(const f16* p) noexcept { return load_lane_by_lane<Vec>(p); }
  void store(f16* p) const noexcept { store_lane_by_lane(*this, p); }
#endif

  friend SSM_ALWAYS_INLINE Vec operator+(Vec a, Vec b) noexcept {
    return Vec(_mm256_add_ps(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator-(Vec a, Vec b) noexcept {
    return Vec(_mm256_sub_ps(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator*(Vec a, Vec b) noexcept {
    return Vec(_mm256_mul_ps(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator/(Vec a, Vec b) noexcept {
    return Vec(_mm256_div_ps(a.v, b.v));
  }
  // a b + c with one rounding where the instruction set has it.
  friend SSM_ALWAYS_INLINE Vec fma(Vec a, Vec b, Vec c) noexcept {
    return Vec(_mm256_fmadd_ps(a.v, b.v, c.v));
  }
  friend SSM_ALWAYS_INLINE Vec fnma(Vec a, Vec b, Vec c) noexcept {
    return Vec(_mm256_fnmadd_ps(a.v, b.v, c.v));
  }
  friend SSM_ALWAYS_INLINE Vec min(Vec a, Vec b) noexcept { return Vec(_mm256_min_ps(a.v, b.v)); }
  friend SSM_ALWAYS_INLINE Vec max(Vec a, Vec b) noexcept { return Vec(_mm256_max_ps(a.v, b.v)); }
  friend SSM_ALWAYS_INLINE Vec sqrt(Vec a) noexcept { return Vec(_mm256_sqrt_ps(a.v)); }
  friend SSM_ALWAYS_INLINE Vec abs(Vec a) noexcept {
    return Vec(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v));
  }
  friend SSM_ALWAYS_INLINE Mask less(Vec a, Vec b) noexcept {
    return _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ);
  }
  friend SSM_ALWAYS_INLINE Mask less_equal(Vec a, Vec b) noexcept {
    return _mm256_cmp_ps(a.v, b.v, _CMP_LE_OQ);
  }
  friend SSM_ALWAYS_INLINE Mask equal(Vec a, Vec b) noexcept {
    return _mm256_cmp_ps(a.v, b.v, _CMP_EQ_OQ);
  }
  static SSM_ALWAYS_INLINE Vec select(Mask mask, Vec yes, Vec no) noexcept {
    return Vec(_mm256_blendv_ps(no.v, yes.v, mask));
  }
  static SSM_ALWAYS_INLINE bool all(Mask mask) noexcept { return _mm256_movemask_ps(mask) == 0xff; }
  friend SSM_ALWAYS_INLINE Vec add_exponent(Vec a, Vec n) noexcept {
    const __m256i shifted = _mm256_slli_epi32(_mm256_castps_si256(n.v), 23);
    return Vec(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a.v), shifted)));
  }
  friend SSM_ALWAYS_INLINE float sum(Vec a) noexcept {
    const __m128 half = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    const __m128 pair = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
  }
  friend SSM_ALWAYS_INLINE float max_lane(Vec a) noexcept {
    const __m128 half = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    const __m128 pair = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
  }
};

template <>
struct Vec<double> {
  using Scalar = double;
  using Mask = __m256d;
  static constexpr int kWidth = 4;
  __m256d v;

  Vec() = default;
  SSM_ALWAYS_INLINE explicit Vec(__m256d r) noexcept : v(r) {}
  SSM_ALWAYS_INLINE Vec(double x) noexcept : v(_mm256_set1_pd(x)) {}

  SSM_ALWAYS_INLINE static Vec load(const double* p) noexcept { return Vec(_mm256_loadu_pd(p)); }
  SSM_ALWAYS_INLINE void store(double* p) const noexcept { _mm256_storeu_pd(p, v); }

  friend SSM_ALWAYS_INLINE Vec operator+(Vec a, Vec b) noexcept {
    return Vec(_mm256_add_pd(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator-(Vec a, Vec b) noexcept {
    return Vec(_mm256_sub_pd(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator*(Vec a, Vec b) noexcept {
    return Vec(_mm256_mul_pd(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator/(Vec a, Vec b) noexcept {
    return Vec(_mm256_div_pd(a.v, b.v));
  }
  // a b + c with one rounding where the instruction set has it.
  friend SSM_ALWAYS_INLINE Vec fma(Vec a, Vec b, Vec c) noexcept {
    return Vec(_mm256_fmadd_pd(a.v, b.v, c.v));
  }
  friend SSM_ALWAYS_INLINE Vec fnma(Vec a, Vec b, Vec c) noexcept {
    return Vec(_mm256_fnmadd_pd(a.v, b.v, c.v));
  }
  friend SSM_ALWAYS_INLINE Vec min(Vec a, Vec b) noexcept { return Vec(_mm256_min_pd(a.v, b.v)); }
  friend SSM_ALWAYS_INLINE Vec max(Vec a, Vec b) noexcept { return Vec(_mm256_max_pd(a.v, b.v)); }
  friend SSM_ALWAYS_INLINE Vec sqrt(Vec a) noexcept { return Vec(_mm256_sqrt_pd(a.v)); }
  friend SSM_ALWAYS_INLINE Vec abs(Vec a) noexcept {
    return Vec(_mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v));
  }
  friend SSM_ALWAYS_INLINE Mask less(Vec a, Vec b) noexcept {
    return _mm256_cmp_pd(a.v, b.v, _CMP_LT_OQ);
  }
  friend SSM_ALWAYS_INLINE Mask less_equal(Vec a, Vec b) noexcept {
    return _mm256_cmp_pd(a.v, b.v, _CMP_LE_OQ);
  }
  friend SSM_ALWAYS_INLINE Mask equal(Vec a, Vec b) noexcept {
    return _mm256_cmp_pd(a.v, b.v, _CMP_EQ_OQ);
  }
  static SSM_ALWAYS_INLINE Vec select(Mask mask, Vec yes, Vec no) noexcept {
    return Vec(_mm256_blendv_pd(no.v, yes.v, mask));
  }
  static SSM_ALWAYS_INLINE bool all(Mask mask) noexcept { return _mm256_movemask_pd(mask) == 0xf; }
  friend SSM_ALWAYS_INLINE Vec add_exponent(Vec a, Vec n) noexcept {
    const __m256i shifted = _mm256_slli_epi64(_mm256_castpd_si256(n.v), 52);
    return Vec(_mm256_castsi256_pd(_mm256_add_epi64(_mm256_castpd_si256(a.v), shifted)));
  }
  friend SSM_ALWAYS_INLINE double sum(Vec a) noexcept {
    const __m128d half = _mm_add_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(half, _mm_unpackhi_pd(half, half)));
  }
  friend SSM_ALWAYS_INLINE double max_lane(Vec a) noexcept {
    const __m128d half = _mm_max_pd(_mm256_castpd256_pd128(a.v), _mm256_extractf128_pd(a.v, 1));
    return _mm_cvtsd_f64(_mm_max_sd(half, _mm_unpackhi_pd(half, half)));
  }
};

inline void deinterleave4(Vec<float> (&v)[4]) noexcept {
  // Rows i and i + 4 side by side, then the 4 x 4 transpose of each half.
  const __m256 a = _mm256_permute2f128_ps(v[0].v, v[2].v, 0x20);
  const __m256 b = _mm256_permute2f128_ps(v[0].v, v[2].v, 0x31);
  const __m256 c = _mm256_permute2f128_ps(v[1].v, v[3].v, 0x20);
  const __m256 d = _mm256_permute2f128_ps(v[1].v, v[3].v, 0x31);
  const __m256 ab_low = _mm256_unpacklo_ps(a, b);
  const __m256 ab_high = _mm256_unpackhi_ps(a, b);
  const __m256 cd_low = _mm256_unpacklo_ps(c, d);
  const __m256 cd_high = _mm256_unpackhi_ps(c, d);
  v[0] = Vec<float>(_mm256_shuffle_ps(ab_low, cd_low, 0x44));
  v[1] = Vec<float>(_mm256_shuffle_ps(ab_low, cd_low, 0xee));
  v[2] = Vec<float>(_mm256_shuffle_ps(ab_high, cd_high, 0x44));
  v[3] = Vec<float>(_mm256_shuffle_ps(ab_high, cd_high, 0xee));
}

// Sums within 128 bits side by side, as a transpose does it, then over the halves.
SSM_ALWAYS_INLINE void add_sums4(const Vec<float> (&v)[4], float* p) noexcept {
  const __m256 ab =
      _mm256_add_ps(_mm256_unpacklo_ps(v[0].v, v[1].v), _mm256_unpackhi_ps(v[0].v, v[1].v));
  const __m256 cd =
      _mm256_add_ps(_mm256_unpacklo_ps(v[2].v, v[3].v), _mm256_unpackhi_ps(v[2].v, v[3].v));
  const __m256 sums =
      _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x44), _mm256_shuffle_ps(ab, cd, 0xee));
  const __m128 all = _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1));
  _mm_storeu_ps(p, _mm_add_ps(_mm_loadu_ps(p), all));
}

}  // namespace simd
SSM_CPU_DETAIL_END

#endif
