#pragma once

#include "ssm/core/dtype.hpp"
#include "ssm/core/isa.hpp"

#if SSM_SIMD_AVX512
#include "ssm/cpu/simd_avx512.hpp"
#elif SSM_SIMD_AVX2
#include "ssm/cpu/simd_avx2.hpp"
#elif SSM_SIMD_SSE2
#include "ssm/cpu/simd_sse2.hpp"
#elif SSM_SIMD_NEON
#include "ssm/cpu/simd_neon.hpp"
#else
#include "ssm/cpu/simd_scalar.hpp"
#endif

// Vec<float> and Vec<double>: one register of kWidth lanes, at the width that core/isa.hpp chose.
// Each offers
//
//   Vec(x)                        x in every lane
//   Vec::load(p), v.store(p)      kWidth elements, any alignment; Vec<float> also widens from and
//                                 narrows to bf16 and f16 (to nearest even, the bits of dtype.hpp),
//                                 and widens int8
//   + - * /, fma(a, b, c) = a b + c, fnma(a, b, c) = c - a b (two roundings on SSE2 and scalar)
//   min(a, b), max(a, b)          b if either is NaN
//   sqrt(a)                       to nearest
//   abs(a), less, less_equal, equal, Vec::select(mask, yes, no), Vec::all(mask)
//   add_exponent(a, n)            a 2^k, where k is the integer in the low bits of n = k + 1.5 2^23
//                                 (1.5 2^52 for double); exact while the result is normal
//   sum(a), max_lane(a)           over the lanes, always in the same order
//
// and, below, loads and stores of the first n lanes and of strided elements. What works on a Vec is
// found by its type, in a namespace of its own: code in ssm::detail still sees ssm::softplus.

SSM_CPU_DETAIL_BEGIN
namespace simd {

template <class V, class Stored>
V load_lane_by_lane(const Stored* p) noexcept {
  typename V::Scalar lanes[V::kWidth];
  for (int i = 0; i < V::kWidth; ++i) lanes[i] = static_cast<typename V::Scalar>(p[i]);
  return V::load(lanes);
}

template <class V, class Stored>
void store_lane_by_lane(V v, Stored* p) noexcept {
  typename V::Scalar lanes[V::kWidth];
  v.store(lanes);
  for (int i = 0; i < V::kWidth; ++i) p[i] = static_cast<Stored>(lanes[i]);
}

// Four registers hold a row-major (kWidth, 4) matrix from end to end; afterwards each holds one of
// its columns.
template <class T>
void deinterleave4(Vec<T> (&v)[4]) noexcept {
  constexpr int kWidth = Vec<T>::kWidth;
  T rows[4 * kWidth];
  T columns[4 * kWidth];
  for (int k = 0; k < 4; ++k) v[k].store(rows + k * kWidth);
  for (int i = 0; i < 4 * kWidth; ++i) columns[i % 4 * kWidth + i / 4] = rows[i];
  for (int k = 0; k < 4; ++k) v[k] = Vec<T>::load(columns + k * kWidth);
}

// p[i] += the sum over the lanes of v[i], in an order that depends on the type alone.
template <class V>
SSM_ALWAYS_INLINE void add_sums4(const V (&v)[4], typename V::Scalar* p) noexcept {
  for (int i = 0; i < 4; ++i) p[i] += sum(v[i]);
}

// Asks for the cache line at `p`, which may lie anywhere: a hint, never a fault.
SSM_ALWAYS_INLINE void prefetch(const void* p) noexcept {
#if defined(__GNUC__)
  __builtin_prefetch(p);
#elif SSM_SIMD_AVX512 || SSM_SIMD_AVX2 || SSM_SIMD_SSE2
  _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
#else
  static_cast<void>(p);
#endif
}

// The first n lanes, 0 <= n <= kWidth, from memory; the others are zero. Nothing beyond p[n - 1] is
// touched.
template <class V, class Stored>
SSM_ALWAYS_INLINE V load_first(const Stored* p, int n) noexcept {
#if SSM_SIMD_AVX512
  if constexpr (std::is_same<Stored, typename V::Scalar>::value) return V::load(p, n);
#endif
  Stored lanes[V::kWidth] = {};
  for (int i = 0; i < V::kWidth; ++i) {  // over the constant width: g++ then knows its bounds
    if (i < n) lanes[i] = p[i];
  }
  return V::load(lanes);
}

template <class V, class Stored>
SSM_ALWAYS_INLINE void store_first(V v, Stored* p, int n) noexcept {
#if SSM_SIMD_AVX512
  if constexpr (std::is_same<Stored, typename V::Scalar>::value) return v.store(p, n);
#endif
  Stored lanes[V::kWidth];
  v.store(lanes);
  for (int i = 0; i < V::kWidth; ++i) {
    if (i < n) p[i] = lanes[i];
  }
}

// Lane i from p[i * stride], for the first n lanes; the others are zero.
template <class V, class Stored>
SSM_ALWAYS_INLINE V load_strided(const Stored* p, index_t stride, int n) noexcept {
  if (stride == 1) return n == V::kWidth ? V::load(p) : load_first<V>(p, n);
  typename V::Scalar lanes[V::kWidth] = {};
  for (int i = 0; i < n; ++i) lanes[i] = static_cast<typename V::Scalar>(p[i * stride]);
  return V::load(lanes);
}

template <class V, class Stored>
SSM_ALWAYS_INLINE void store_strided(V v, Stored* p, index_t stride, int n) noexcept {
  if (stride == 1) return n == V::kWidth ? v.store(p) : store_first(v, p, n);
  typename V::Scalar lanes[V::kWidth];
  v.store(lanes);
  for (int i = 0; i < n; ++i) p[i * stride] = static_cast<Stored>(lanes[i]);
}

}  // namespace simd

using simd::add_sums4;
using simd::deinterleave4;
using simd::load_first;
using simd::load_strided;
using simd::prefetch;
using simd::store_first;
using simd::store_strided;
using simd::Vec;

SSM_CPU_DETAIL_END
