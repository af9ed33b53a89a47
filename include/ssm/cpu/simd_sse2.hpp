#pragma once

#include "ssm/core/isa.hpp"

#if SSM_SIMD_SSE2

#include <emmintrin.h>

#include <cstdint>
#include <cstring>

#include "ssm/core/dtype.hpp"

// Vec for SSE2; ssm/cpu/simd.hpp states what every Vec offers.

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
  using Mask = __m128;
  static constexpr int kWidth = 4;
  __m128 v;

  Vec() = default;
  SSM_ALWAYS_INLINE explicit Vec(__m128 r) noexcept : v(r) {}
  SSM_ALWAYS_INLINE Vec(float x) noexcept : v(_mm_set1_ps(x)) {}

  SSM_ALWAYS_INLINE static Vec load(const float* p) noexcept { return Vec(_mm_loadu_ps(p)); }
  SSM_ALWAYS_INLINE void store(float* p) const noexcept { _mm_storeu_ps(p, v); }
  SSM_ALWAYS_INLINE static Vec load(const bf16* p) noexcept {
    const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return Vec(_mm_castsi128_ps(_mm_unpacklo_epi16(_mm_setzero_si128(), bits)));
  }
  SSM_ALWAYS_INLINE static Vec load(const std::int8_t* p) noexcept {
    std::int32_t four;
    std::memcpy(&four, p, sizeof(four));
    const __m128i bytes = _mm_cvtsi32_si128(four);
    const __m128i pairs = _mm_unpacklo_epi8(bytes, bytes);
    return Vec(_mm_cvtepi32_ps(_mm_srai_epi32(_mm_unpacklo_epi16(pairs, pairs), 24)));
  }
  SSM_ALWAYS_INLINE void store(bf16* p) const noexcept {
    const __m128i bits = _mm_castps_si128(v);
    const __m128i odd = _mm_and_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(1));
    const __m128i rounded = _mm_add_epi32(bits, _mm_add_epi32(odd, _mm_set1_epi32(0x7fff)));
    const __m128i quiet = _mm_or_si128(bits, _mm_set1_epi32(0x400000));
    const __m128 nan = _mm_cmpunord_ps(v, v);
    const Vec chosen = select(nan, Vec(_mm_castsi128_ps(quiet)), Vec(_mm_castsi128_ps(rounded)));
    // Sign-extended, so that the signed pack below does not saturate.
    const __m128i high = _mm_srai_epi32(_mm_castps_si128(chosen.v), 16);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi32(high, high));
  }
  static Vec load(const f16* p) noexcept { return load_lane_by_lane<Vec>(p); }
  void store(f16* p) const noexcept { store_lane_by_lane(*this, p); }

  friend SSM_ALWAYS_INLINE Vec operator+(Vec a, Vec b) noexcept {
    return Vec(_mm_add_ps(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator-(Vec a, Vec b) noexcept {
    return Vec(_mm_sub_ps(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator*(Vec a, Vec b) noexcept {
    return Vec(_mm_mul_ps(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator/(Vec a, Vec b) noexcept {
    return Vec(_mm_div_ps(a.v, b.v));
  }
  // a b + c with one rounding where the instruction set has it.
  friend SSM_ALWAYS_INLINE Vec fma(Vec a, Vec b, Vec c) noexcept { return a * b + c; }
  friend SSM_ALWAYS_INLINE Vec fnma(Vec a, Vec b, Vec c) noexcept { return c - a * b; }
  friend SSM_ALWAYS_INLINE Vec min(Vec a, Vec b) noexcept { return Vec(_mm_min_ps(a.v, b.v)); }
  friend SSM_ALWAYS_INLINE Vec max(Vec a, Vec b) noexcept { return Vec(_mm_max_ps(a.v, b.v)); }
  friend SSM_ALWAYS_INLINE Vec sqrt(Vec a) noexcept { return Vec(_mm_sqrt_ps(a.v)); }
  friend SSM_ALWAYS_INLINE Vec abs(Vec a) noexcept {
    return Vec(_mm_andnot_ps(_mm_set1_ps(-0.0f), a.v));
  }
  friend SSM_ALWAYS_INLINE Mask less(Vec a, Vec b) noexcept { return _mm_cmplt_ps(a.v, b.v); }
  friend SSM_ALWAYS_INLINE Mask less_equal(Vec a, Vec b) noexcept { return _mm_cmple_ps(a.v, b.v); }
  friend SSM_ALWAYS_INLINE Mask equal(Vec a, Vec b) noexcept { return _mm_cmpeq_ps(a.v, b.v); }
  static SSM_ALWAYS_INLINE Vec select(Mask mask, Vec yes, Vec no) noexcept {
    return Vec(_mm_or_ps(_mm_and_ps(mask, yes.v), _mm_andnot_ps(mask, no.v)));
  }
  static SSM_ALWAYS_INLINE bool all(Mask mask) noexcept { return _mm_movemask_ps(mask) == 0xf; }
  friend SSM_ALWAYS_INLINE Vec add_exponent(Vec a, Vec n) noexcept {
    const __m128i shifted = _mm_slli_epi32(_mm_castps_si128(n.v), 23);
    return Vec(_mm_castsi128_ps(_mm_add_epi32(_mm_castps_si128(a.v), shifted)));
  }
  friend SSM_ALWAYS_INLINE float sum(Vec a) noexcept {
    const __m128 pair = _mm_add_ps(a.v, _mm_movehl_ps(a.v, a.v));
    return _mm_cvtss_f32(_mm_add_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
  }
  friend SSM_ALWAYS_INLINE float max_lane(Vec a) noexcept {
    const __m128 pair = _mm_max_ps(a.v, _mm_movehl_ps(a.v, a.v));
    return _mm_cvtss_f32(_mm_max_ss(pair, _mm_shuffle_ps(pair, pair, 1)));
  }
};

template <>
struct Vec<double> {
  using Scalar = double;
  using Mask = __m128d;
  static constexpr int kWidth = 2;
  __m128d v;

  Vec() = default;
  SSM_ALWAYS_INLINE explicit Vec(__m128d r) noexcept : v(r) {}
  SSM_ALWAYS_INLINE Vec(double x) noexcept : v(_mm_set1_pd(x)) {}

  SSM_ALWAYS_INLINE static Vec load(const double* p) noexcept { return Vec(_mm_loadu_pd(p)); }
  SSM_ALWAYS_INLINE void store(double* p) const noexcept { _mm_storeu_pd(p, v); }

  friend SSM_ALWAYS_INLINE Vec operator+(Vec a, Vec b) noexcept {
    return Vec(_mm_add_pd(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator-(Vec a, Vec b) noexcept {
    return Vec(_mm_sub_pd(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator*(Vec a, Vec b) noexcept {
    return Vec(_mm_mul_pd(a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec operator/(Vec a, Vec b) noexcept {
    return Vec(_mm_div_pd(a.v, b.v));
  }
  // a b + c with one rounding where the instruction set has it.
  friend SSM_ALWAYS_INLINE Vec fma(Vec a, Vec b, Vec c) noexcept { return a * b + c; }
  friend SSM_ALWAYS_INLINE Vec fnma(Vec a, Vec b, Vec c) noexcept { return c - a * b; }
  friend SSM_ALWAYS_INLINE Vec min(Vec a, Vec b) noexcept { return Vec(_mm_min_pd(a.v, b.v)); }
  friend SSM_ALWAYS_INLINE Vec max(Vec a, Vec b) noexcept { return Vec(_mm_max_pd(a.v, b.v)); }
  friend SSM_ALWAYS_INLINE Vec sqrt(Vec a) noexcept { return Vec(_mm_sqrt_pd(a.v)); }
  friend SSM_ALWAYS_INLINE Vec abs(Vec a) noexcept {
    return Vec(_mm_andnot_pd(_mm_set1_pd(-0.0), a.v));
  }
  friend SSM_ALWAYS_INLINE Mask less(Vec a, Vec b) noexcept { return _mm_cmplt_pd(a.v, b.v); }
  friend SSM_ALWAYS_INLINE Mask less_equal(Vec a, Vec b) noexcept { return _mm_cmple_pd(a.v, b.v); }
  friend SSM_ALWAYS_INLINE Mask equal(Vec a, Vec b) noexcept { return _mm_cmpeq_pd(a.v, b.v); }
  static SSM_ALWAYS_INLINE Vec select(Mask mask, Vec yes, Vec no) noexcept {
    return Vec(_mm_or_pd(_mm_and_pd(mask, yes.v), _mm_andnot_pd(mask, no.v)));
  }
  static SSM_ALWAYS_INLINE bool all(Mask mask) noexcept { return _mm_movemask_pd(mask) == 0x3; }
  friend SSM_ALWAYS_INLINE Vec add_exponent(Vec a, Vec n) noexcept {
    const __m128i shifted = _mm_slli_epi64(_mm_castpd_si128(n.v), 52);
    return Vec(_mm_castsi128_pd(_mm_add_epi64(_mm_castpd_si128(a.v), shifted)));
  }
  friend SSM_ALWAYS_INLINE double sum(Vec a) noexcept {
    return _mm_cvtsd_f64(_mm_add_sd(a.v, _mm_unpackhi_pd(a.v, a.v)));
  }
  friend SSM_ALWAYS_INLINE double max_lane(Vec a) noexcept {
    return _mm_cvtsd_f64(_mm_max_sd(a.v, _mm_unpackhi_pd(a.v, a.v)));
  }
};

inline void deinterleave4(Vec<float> (&v)[4]) noexcept {
  _MM_TRANSPOSE4_PS(v[0].v, v[1].v, v[2].v, v[3].v);
}

// Sums side by side, as a transpose does it.
SSM_ALWAYS_INLINE void add_sums4(const Vec<float> (&v)[4], float* p) noexcept {
  const __m128 ab = _mm_add_ps(_mm_unpacklo_ps(v[0].v, v[1].v), _mm_unpackhi_ps(v[0].v, v[1].v));
  const __m128 cd = _mm_add_ps(_mm_unpacklo_ps(v[2].v, v[3].v), _mm_unpackhi_ps(v[2].v, v[3].v));
  const __m128 sums = _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
  _mm_storeu_ps(p, _mm_add_ps(_mm_loadu_ps(p), sums));
}

}  // namespace simd
SSM_CPU_DETAIL_END

#endif
