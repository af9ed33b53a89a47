#pragma once

#include <complex>

#include "ssm/core/dtype.hpp"

// Scalars of the general kernels: float, double and a complex of them, with one set of names.
// std::complex cannot be computed with on the device without compiler flags; DeviceComplex has its
// layout.

SSM_NAMESPACE_BEGIN
namespace detail {

template <class R>
struct alignas(2 * sizeof(R)) DeviceComplex {
  R re, im;
};

template <class S>
struct DeviceScalar {
  using type = S;
};
template <class R>
struct DeviceScalar<std::complex<R>> {
  using type = DeviceComplex<R>;
};
template <class S>
using device_scalar_t = typename DeviceScalar<std::remove_cv_t<S>>::type;

template <class R>
__device__ __forceinline__ DeviceComplex<R> operator+(DeviceComplex<R> a, DeviceComplex<R> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class R>
__device__ __forceinline__ DeviceComplex<R> operator-(DeviceComplex<R> a, DeviceComplex<R> b) {
  return {a.re - b.re, a.im - b.im};
}
template <class R>
__device__ __forceinline__ DeviceComplex<R> operator*(DeviceComplex<R> a, DeviceComplex<R> b) {
  return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
}
template <class R>
__device__ __forceinline__ DeviceComplex<R> operator*(R a, DeviceComplex<R> b) {
  return {a * b.re, a * b.im};
}

__device__ __forceinline__ float exp_of(float x) { return expf(x); }
__device__ __forceinline__ double exp_of(double x) { return exp(x); }
__device__ __forceinline__ float expm1_of_real(float x) { return expm1f(x); }
__device__ __forceinline__ double expm1_of_real(double x) { return expm1(x); }
__device__ __forceinline__ float log1p_of(float x) { return log1pf(x); }
__device__ __forceinline__ double log1p_of(double x) { return log1p(x); }
__device__ __forceinline__ void sincos_of(float x, float* s, float* c) { sincosf(x, s, c); }
__device__ __forceinline__ void sincos_of(double x, double* s, double* c) { sincos(x, s, c); }

template <class R>
__device__ __forceinline__ DeviceComplex<R> exp_of(DeviceComplex<R> x) {
  R s, c;
  sincos_of(x.im, &s, &c);
  const R e = exp_of(x.re);
  return {e * c, e * s};
}

// e^x - 1; for x = a + ib: expm1(a) cos b - 2 sin^2(b/2) + i e^a sin b.
__device__ __forceinline__ float expm1_device(float x) { return expm1f(x); }
__device__ __forceinline__ double expm1_device(double x) { return expm1(x); }
template <class R>
__device__ __forceinline__ DeviceComplex<R> expm1_device(DeviceComplex<R> x) {
  R s, c, half, unused;
  sincos_of(x.im, &s, &c);
  sincos_of(x.im / 2, &half, &unused);
  return {expm1_of_real(x.re) * c - 2 * half * half, exp_of(x.re) * s};
}

// phi_1(x) = (e^x - 1) / x, phi_1(0) = 1.
template <class R>
__device__ __forceinline__ R phi1_device(R x) {
  return x == R(0) ? R(1) : expm1_device(x) / x;
}
template <class R>
__device__ __forceinline__ DeviceComplex<R> phi1_device(DeviceComplex<R> x) {
  const R larger = fmax(fabs(x.re), fabs(x.im));
  if (larger == R(0)) return {R(1), R(0)};
  // Scaled, so that |x|^2 neither overflows nor underflows.
  const DeviceComplex<R> e = expm1_device(x);
  const R re = x.re / larger;
  const R im = x.im / larger;
  const R norm = (re * re + im * im) * larger;
  return {(e.re * re + e.im * im) / norm, (e.im * re - e.re * im) / norm};
}

template <class R>
__device__ __forceinline__ bool below_half(R x) {
  return fabs(x) < R(0.5);
}
template <class R>
__device__ __forceinline__ bool below_half(DeviceComplex<R> x) {
  return x.re * x.re + x.im * x.im < R(0.25);
}

// Re a b, and 2 Re a b for one of a conjugate pair.
template <class R>
__device__ __forceinline__ R output_term(R a, R b) {
  return a * b;
}
template <class R>
__device__ __forceinline__ R output_term(DeviceComplex<R> a, DeviceComplex<R> b) {
  return 2 * (a.re * b.re - a.im * b.im);
}

// Widens a stored coefficient to the scalar of the state.
__device__ __forceinline__ float coefficient(float v) { return v; }
__device__ __forceinline__ double coefficient(double v) { return v; }
__device__ __forceinline__ float coefficient(bf16 v) { return static_cast<float>(v); }
__device__ __forceinline__ float coefficient(f16 v) { return static_cast<float>(v); }
template <class R>
__device__ __forceinline__ DeviceComplex<R> coefficient(DeviceComplex<R> v) {
  return v;
}

}  // namespace detail
SSM_NAMESPACE_END
