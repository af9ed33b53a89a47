#pragma once

#include "ssm/core/isa.hpp"

#if SSM_SIMD_NEON

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "ssm/core/dtype.hpp"

// Vec for NEON on AArch64; ssm/cpu/simd.hpp states what every Vec offers.

SSM_CPU_DETAIL_BEGIN
namespace simd {

template <class T>
struct Vec;

template <>
struct Vec<float> {
  using Scalar = float;
  using Mask = uint32x4_t;
  static constexpr int kWidth = 4;
  float32x4_t v;

  Vec() = default;
  SSM_ALWAYS_INLINE explicit Vec(float32x4_t r) noexcept : v(r) {}
  SSM_ALWAYS_INLINE Vec(float x) noexcept : v(vdupq_n_f32(x)) {}

  SSM_ALWAYS_INLINE static Vec load(const float* p) noexcept { return Vec(vld1q_f32(p)); }
  SSM_ALWAYS_INLINE void store(float* p) const noexcept { vst1q_f32(p, v); }
  SSM_ALWAYS_INLINE static Vec load(const bf16* p) noexcept {
    const uint16x4_t bits = vld1_u16(reinterpret_cast<const std::uint16_t*>(p));
    return Vec(vreinterpretq_f32_u32(vshll_n_u16(bits, 16)));
  }
  SSM_ALWAYS_INLINE static Vec load(const f16* p) noexcept {
    const uint16x4_t bits = vld1_u16(reinterpret_cast<const std::uint16_t*>(p));
    return Vec(vcvt_f32_f16(vreinterpret_f16_u16(bits)));
  }
  SSM_ALWAYS_INLINE static Vec load(const std::int8_t* p) noexcept {
    std::int32_t four;
    std::memcpy(&four, p, sizeof(four));
    const int8x8_t bytes = vreinterpret_s8_s32(vdup_n_s32(four));
    return Vec(vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(bytes)))));
  }
  SSM_ALWAYS_INLINE void store(bf16* p) const noexcept {
    const uint32x4_t bits = vreinterpretq_u32_f32(v);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
    const uint32x4_t chosen = vbslq_u32(vceqq_f32(v, v), rounded, quiet);
    vst1_u16(reinterpret_cast<std::uint16_t*>(p), vshrn_n_u32(chosen, 16));
  }
  SSM_ALWAYS_INLINE void store(f16* p) const noexcept {
    vst1_u16(reinterpret_cast<std::uint16_t*>(p), vreinterpret_u16_f16(vcvt_f16_f32(v)));
  }

  friend SSM_ALWAYS_INLINE Vec operator+(Vec a, Vec b) noexcept { return Vec(vaddq_f32(a.v, b.v)); }
  friend SSM_ALWAYS_INLINE Vec operator-(Vec a, Vec b) noexcept { return Vec(vsubq_f32(a.v, b.v)); }
  friend SSM_ALWAYS_INLINE Vec operator*(Vec a, Vec b) noexcept { return Vec(vmulq_f32(a.v, b.v)); }
  friend SSM_ALWAYS_INLINE Vec operator/(Vec a, Vec b) noexcept { return Vec(vdivq_f32(a.v, b.v)); }
  // a b + c with one rounding where the instruction set has it.
  friend SSM_ALWAYS_INLINE Vec fma(Vec a, Vec b, Vec c) noexcept {
    return Vec(vfmaq_f32(c.v, a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec fnma(Vec a, Vec b, Vec c) noexcept {
    return Vec(vfmsq_f32(c.v, a.v, b.v));
  }
  // By comparison, because vminq and vmaxq return NaN when either operand is one.
  friend SSM_ALWAYS_INLINE Vec min(Vec a, Vec b) noexcept { return select(less(a, b), a, b); }
  friend SSM_ALWAYS_INLINE Vec max(Vec a, Vec b) noexcept { return select(less(b, a), a, b); }
  friend SSM_ALWAYS_INLINE Vec sqrt(Vec a) noexcept { return Vec(vsqrtq_f32(a.v)); }
  friend SSM_ALWAYS_INLINE Vec abs(Vec a) noexcept { return Vec(vabsq_f32(a.v)); }
  friend SSM_ALWAYS_INLINE Mask less(Vec a, Vec b) noexcept { return vcltq_f32(a.v, b.v); }
  friend SSM_ALWAYS_INLINE Mask less_equal(Vec a, Vec b) noexcept { return vcleq_f32(a.v, b.v); }
  friend SSM_ALWAYS_INLINE Mask equal(Vec a, Vec b) noexcept { return vceqq_f32(a.v, b.v); }
  static SSM_ALWAYS_INLINE Vec select(Mask mask, Vec yes, Vec no) noexcept {
    return Vec(vbslq_f32(mask, yes.v, no.v));
  }
  static SSM_ALWAYS_INLINE bool all(Mask mask) noexcept { return vminvq_u32(mask) != 0; }
  friend SSM_ALWAYS_INLINE Vec add_exponent(Vec a, Vec n) noexcept {
    const uint32x4_t shifted = vshlq_n_u32(vreinterpretq_u32_f32(n.v), 23);
    return Vec(vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(a.v), shifted)));
  }
  friend SSM_ALWAYS_INLINE float sum(Vec a) noexcept { return vaddvq_f32(a.v); }
  friend SSM_ALWAYS_INLINE float max_lane(Vec a) noexcept { return vmaxvq_f32(a.v); }
};

template <>
struct Vec<double> {
  using Scalar = double;
  using Mask = uint64x2_t;
  static constexpr int kWidth = 2;
  float64x2_t v;

  Vec() = default;
  SSM_ALWAYS_INLINE explicit Vec(float64x2_t r) noexcept : v(r) {}
  SSM_ALWAYS_INLINE Vec(double x) noexcept : v(vdupq_n_f64(x)) {}

  SSM_ALWAYS_INLINE static Vec load(const double* p) noexcept { return Vec(vld1q_f64(p)); }
  SSM_ALWAYS_INLINE void store(double* p) const noexcept { vst1q_f64(p, v); }

  friend SSM_ALWAYS_INLINE Vec operator+(Vec a, Vec b) noexcept { return Vec(vaddq_f64(a.v, b.v)); }
  friend SSM_ALWAYS_INLINE Vec operator-(Vec a, Vec b) noexcept { return Vec(vsubq_f64(a.v, b.v)); }
  friend SSM_ALWAYS_INLINE Vec operator*(Vec a, Vec b) noexcept { return Vec(vmulq_f64(a.v, b.v)); }
  friend SSM_ALWAYS_INLINE Vec operator/(Vec a, Vec b) noexcept { return Vec(vdivq_f64(a.v, b.v)); }
  // a b + c with one rounding where the instruction set has it.
  friend SSM_ALWAYS_INLINE Vec fma(Vec a, Vec b, Vec c) noexcept {
    return Vec(vfmaq_f64(c.v, a.v, b.v));
  }
  friend SSM_ALWAYS_INLINE Vec fnma(Vec a, Vec b, Vec c) noexcept {
    return Vec(vfmsq_f64(c.v, a.v, b.v));
  }
  // By comparison, because vminq and vmaxq return NaN when either operand is one.
  friend SSM_ALWAYS_INLINE Vec min(Vec a, Vec b) noexcept { return select(less(a, b), a, b); }
  friend SSM_ALWAYS_INLINE Vec max(Vec a, Vec b) noexcept { return select(less(b, a), a, b); }
  friend SSM_ALWAYS_INLINE Vec sqrt(Vec a) noexcept { return Vec(vsqrtq_f64(a.v)); }
  friend SSM_ALWAYS_INLINE Vec abs(Vec a) noexcept { return Vec(vabsq_f64(a.v)); }
  friend SSM_ALWAYS_INLINE Mask less(Vec a, Vec b) noexcept { return vcltq_f64(a.v, b.v); }
  friend SSM_ALWAYS_INLINE Mask less_equal(Vec a, Vec b) noexcept { return vcleq_f64(a.v, b.v); }
  friend SSM_ALWAYS_INLINE Mask equal(Vec a, Vec b) noexcept { return vceqq_f64(a.v, b.v); }
  static SSM_ALWAYS_INLINE Vec select(Mask mask, Vec yes, Vec no) noexcept {
    return Vec(vbslq_f64(mask, yes.v, no.v));
  }
  static SSM_ALWAYS_INLINE bool all(Mask mask) noexcept {
    return (vgetq_lane_u64(mask, 0) & vgetq_lane_u64(mask, 1)) != 0;
  }
  friend SSM_ALWAYS_INLINE Vec add_exponent(Vec a, Vec n) noexcept {
    const uint64x2_t shifted = vshlq_n_u64(vreinterpretq_u64_f64(n.v), 52);
    return Vec(vreinterpretq_f64_u64(vaddq_u64(vreinterpretq_u64_f64(a.v), shifted)));
  }
  friend SSM_ALWAYS_INLINE double sum(Vec a) noexcept { return vaddvq_f64(a.v); }
  friend SSM_ALWAYS_INLINE double max_lane(Vec a) noexcept { return vmaxvq_f64(a.v); }
};

inline void deinterleave4(Vec<float> (&v)[4]) noexcept {
  const float32x4x2_t ab = vtrnq_f32(v[0].v, v[1].v);
  const float32x4x2_t cd = vtrnq_f32(v[2].v, v[3].v);
  v[0] = Vec<float>(vcombine_f32(vget_low_f32(ab.val[0]), vget_low_f32(cd.val[0])));
  v[1] = Vec<float>(vcombine_f32(vget_low_f32(ab.val[1]), vget_low_f32(cd.val[1])));
  v[2] = Vec<float>(vcombine_f32(vget_high_f32(ab.val[0]), vget_high_f32(cd.val[0])));
  v[3] = Vec<float>(vcombine_f32(vget_high_f32(ab.val[1]), vget_high_f32(cd.val[1])));
}

// Pairwise sums bring four registers into one.
SSM_ALWAYS_INLINE void add_sums4(const Vec<float> (&v)[4], float* p) noexcept {
  const float32x4_t sums = vpaddq_f32(vpaddq_f32(v[0].v, v[1].v), vpaddq_f32(v[2].v, v[3].v));
  vst1q_f32(p, vaddq_f32(vld1q_f32(p), sums));
}

}  // namespace simd
SSM_CPU_DETAIL_END

#endif
