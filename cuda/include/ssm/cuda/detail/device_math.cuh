#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstring>

#include "ssm/core/dtype.hpp"

// Scalar functions of the float kernels. exp2 and the reciprocal come from the special-function
// unit, whose 16 results per clock and multiprocessor are what bounds a selective scan.

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr float kLog2e = 1.44269504088896340736f;
constexpr float kLn2 = 0.69314718055994530942f;

// 2^x to 2 ulp; denormal results are zero.
__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x to 1 ulp; denormal results are zero.
__device__ __forceinline__ float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// e^x for x <= 0 with the rounding error of x log2 e put back, so that it is good to 2 ulp for
// every x and not only for small ones. e^-200 is already 0; NaN stays NaN.
__device__ __forceinline__ float exp_nonpositive(float x) {
  x = x < -200.0f ? -200.0f : x;
  const float t = x * kLog2e;
  const float rest = fmaf(x, kLog2e, -t) + x * 1.925963033500e-8f;  // log2 e - kLog2e
  const float e = exp2_fast(t);
  return fmaf(e * kLn2, rest, e);
}

// log(1 + e^x) = max(x, 0) + log1p(e^-|x|), without a branch, from e = e^-|x|. log1p(e) = e P(e) on
// [0, 1], P minimax of degree 8 with P(0) = 1: 1.6e-7 relative, also where the result is tiny.
// Above 20 the second term is below the last bit of the first.
__device__ __forceinline__ float softplus_from(float x, float e) {
  float p = 0.00536482921f;
  p = fmaf(p, e, -0.0300658103f);
  p = fmaf(p, e, 0.0792045668f);
  p = fmaf(p, e, -0.137538046f);
  p = fmaf(p, e, 0.191536561f);
  p = fmaf(p, e, -0.248571634f);
  p = fmaf(p, e, 0.33321324f);
  p = fmaf(p, e, -0.499996483f);
  p = fmaf(p, e, 1.0f);
  return fmaf(p, e, fmaxf(x, 0.0f));
}
__device__ __forceinline__ float softplus_fast(float x) {
  return softplus_from(x, exp_nonpositive(-fabsf(x)));
}

// softplus of a sum whose one part came as a T. For 16 bits without putting back the rounding error
// of x log2 e: to |x| 3e-7 relative where |x| is above 2.
template <class T>
__device__ __forceinline__ float softplus_of(float x) {
  return sizeof(T) == 2 ? softplus_from(x, exp2_fast(-kLog2e * fabsf(x))) : softplus_fast(x);
}

// 1 / (1 + e^-x).
__device__ __forceinline__ float sigmoid_of(float x) {
  return reciprocal_fast(1.0f + exp2_fast(-kLog2e * x));
}
__device__ __forceinline__ double sigmoid_of(double x) { return 1.0 / (1.0 + exp(-x)); }

// x / (1 + e^-x).
__device__ __forceinline__ float silu_fast(float x) {
  return x * reciprocal_fast(1.0f + exp2_fast(-kLog2e * x));
}

// Widening and narrowing through the instructions that do it; bf16 and f16 are layout-equal to
// __nv_bfloat16 and __half.
__device__ __forceinline__ float load_float(float v) { return v; }
__device__ __forceinline__ float load_float(bf16 v) {
  return __uint_as_float(static_cast<unsigned>(v.bits) << 16);
}
__device__ __forceinline__ float load_float(f16 v) {
  return __half2float(__ushort_as_half(v.bits));
}
__device__ __forceinline__ double load_float(double v) { return v; }

template <class T>
__device__ __forceinline__ T store_as(accum_t<T> v) {
  return v;
}
template <>
__device__ __forceinline__ bf16 store_as<bf16>(float v) {
  bf16 out;
  out.bits = __bfloat16_as_ushort(__float2bfloat16_rn(v));
  return out;
}
template <>
__device__ __forceinline__ f16 store_as<f16>(float v) {
  f16 out;
  out.bits = __half_as_ushort(__float2half_rn(v));
  return out;
}

// Two neighbours, by one instruction where there is one.
__device__ __forceinline__ void store_pair_as(float* to, float first, float second) {
  to[0] = first;
  to[1] = second;
}
__device__ __forceinline__ void store_pair_as(bf16* to, float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  memcpy(to, &pair, sizeof(pair));
}
__device__ __forceinline__ void store_pair_as(f16* to, float first, float second) {
  const __half2 pair = __floats2half2_rn(first, second);
  memcpy(to, &pair, sizeof(pair));
}

}  // namespace detail
SSM_NAMESPACE_END
