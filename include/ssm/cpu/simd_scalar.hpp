#pragma once

#include "ssm/core/isa.hpp"

#if !SSM_SIMD_AVX512 && !SSM_SIMD_AVX2 && !SSM_SIMD_SSE2 && !SSM_SIMD_NEON

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "ssm/core/dtype.hpp"

// Vec for scalar code; ssm/cpu/simd.hpp states what every Vec offers.

SSM_CPU_DETAIL_BEGIN
namespace simd {

// One lane: what a target without vector instructions runs, and the check on all the others.
template <class T>
struct Vec {
  using Scalar = T;
  using Mask = bool;
  static constexpr int kWidth = 1;
  T v;

  Vec() = default;
  SSM_ALWAYS_INLINE Vec(T x) noexcept : v(x) {}

  template <class Stored>
  SSM_ALWAYS_INLINE static Vec load(const Stored* p) noexcept {
    return Vec(static_cast<T>(*p));
  }
  template <class Stored>
  SSM_ALWAYS_INLINE void store(Stored* p) const noexcept {
    *p = static_cast<Stored>(v);
  }

  friend SSM_ALWAYS_INLINE Vec operator+(Vec a, Vec b) noexcept { return Vec(a.v + b.v); }
  friend SSM_ALWAYS_INLINE Vec operator-(Vec a, Vec b) noexcept { return Vec(a.v - b.v); }
  friend SSM_ALWAYS_INLINE Vec operator*(Vec a, Vec b) noexcept { return Vec(a.v * b.v); }
  friend SSM_ALWAYS_INLINE Vec operator/(Vec a, Vec b) noexcept { return Vec(a.v / b.v); }
  // a b + c with one rounding where the instruction set has it.
  friend SSM_ALWAYS_INLINE Vec fma(Vec a, Vec b, Vec c) noexcept { return Vec(a.v * b.v + c.v); }
  friend SSM_ALWAYS_INLINE Vec fnma(Vec a, Vec b, Vec c) noexcept { return Vec(c.v - a.v * b.v); }
  friend SSM_ALWAYS_INLINE Vec min(Vec a, Vec b) noexcept { return a.v < b.v ? a : b; }
  friend SSM_ALWAYS_INLINE Vec max(Vec a, Vec b) noexcept { return b.v < a.v ? a : b; }
  friend SSM_ALWAYS_INLINE Vec sqrt(Vec a) noexcept { return Vec(std::sqrt(a.v)); }
  friend SSM_ALWAYS_INLINE Vec abs(Vec a) noexcept { return Vec(std::fabs(a.v)); }
  friend SSM_ALWAYS_INLINE Mask less(Vec a, Vec b) noexcept { return a.v < b.v; }
  friend SSM_ALWAYS_INLINE Mask less_equal(Vec a, Vec b) noexcept { return a.v <= b.v; }
  friend SSM_ALWAYS_INLINE Mask equal(Vec a, Vec b) noexcept { return a.v == b.v; }
  static SSM_ALWAYS_INLINE Vec select(Mask mask, Vec yes, Vec no) noexcept {
    return mask ? yes : no;
  }
  static SSM_ALWAYS_INLINE bool all(Mask mask) noexcept { return mask; }
  friend SSM_ALWAYS_INLINE Vec add_exponent(Vec a, Vec n) noexcept {
    using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    const Bits shifted = static_cast<Bits>(bit_cast<Bits>(n.v) << (sizeof(T) == 4 ? 23 : 52));
    return Vec(bit_cast<T>(static_cast<Bits>(bit_cast<Bits>(a.v) + shifted)));
  }
  friend SSM_ALWAYS_INLINE T sum(Vec a) noexcept { return a.v; }
  friend SSM_ALWAYS_INLINE T max_lane(Vec a) noexcept { return a.v; }
};

}  // namespace simd
SSM_CPU_DETAIL_END

#endif
