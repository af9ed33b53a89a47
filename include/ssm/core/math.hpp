#pragma once

#include <cmath>
#include <complex>
#include <type_traits>

#include "ssm/core/dtype.hpp"

// Scalar functions of the equations, for any scalar: float, double, long double, std::complex of
// those, and user types (dual numbers) whose exp, expm1, log1p … are found by argument-dependent
// lookup.

SSM_NAMESPACE_BEGIN

// e^x - 1 without cancellation near zero. std::expm1 for reals; for x = a + ib
//   expm1(a) cos b - 2 sin^2(b/2) + i e^a sin b.
template <class T>
T expm1_of(const T& x) {
  if constexpr (is_complex_v<T>) {
    using R = real_t<T>;
    const R a = x.real();
    const R b = x.imag();
    const R s = std::sin(b / 2);
    return T(std::expm1(a) * std::cos(b) - 2 * s * s, std::exp(a) * std::sin(b));
  } else {
    using std::expm1;
    return expm1(x);
  }
}

// sigma(x) = 1 / (1 + e^-x). Saturates without overflow at both ends.
template <class T>
T sigmoid(const T& x) {
  using std::exp;
  return T(1) / (T(1) + exp(-x));
}

// silu(x) = x sigma(x) = x / (1 + e^-x), below zero as (x t) t / (1 + t^2) with t = e^(x/2):
// neither does e^-x overflow nor does x e^x lose digits to a denormal e^x. x at +infinity, -0 at
// -infinity.
template <class T>
T silu(const T& x) {
  using std::exp;
  if (x < T(0)) {
    const T t = exp(x / T(2));
    return t == T(0) ? T(-t) : T(x * t * t / (T(1) + t * t));
  }
  return x / (T(1) + exp(-x));
}

// silu'(x) = s (1 + x (1 - s)), s = sigma(x).
template <class T>
T silu_derivative(const T& x) {
  const T s = sigmoid(x);
  return s * (T(1) + x * (T(1) - s));
}

// Above this argument softplus(x) = x, as in every Mamba implementation.
inline constexpr int kSoftplusThreshold = 20;

// softplus(x) = log(1 + e^x) for x <= 20, x above. log1p keeps full relative precision for
// x << 0, where log(1 + e^x) loses it (6 % at x = -16 in float).
template <class T>
T softplus(const T& x) {
  using std::exp;
  using std::log1p;
  return x <= T(kSoftplusThreshold) ? log1p(exp(x)) : x;
}

// softplus'(x) = sigma(x) for x <= 20, 1 above.
template <class T>
T softplus_derivative(const T& x) {
  return x <= T(kSoftplusThreshold) ? sigmoid(x) : T(1);
}

namespace detail {

// Whether T is built on a floating-point type itself, rather than a type that carries more than a
// value, as a dual number does.
template <class T>
inline constexpr bool is_plain_v = std::is_floating_point<real_t<T>>::value;

// Adds the terms first, first * ratio(1), first * ratio(1) * ratio(2), … Plain scalars stop when a
// term no longer changes the sum; others, whose derivatives go on changing, sum enough terms for
// |x| < 1/2 in any precision up to 113 bits.
template <class T, class Ratio>
T power_series(const T& first, Ratio ratio) {
  constexpr int kTerms = 28;
  T term = first;
  T sum = first;
  for (int k = 1; k < kTerms; ++k) {
    term = term * ratio(k);
    const T next = sum + term;
    if constexpr (is_plain_v<T>) {
      if (next == sum) break;
    }
    sum = next;
  }
  return sum;
}

template <class T>
T scalar_of(int k) {
  return T(static_cast<real_t<T>>(k));
}

}  // namespace detail

// phi_1(x) = (e^x - 1) / x, phi_1(0) = 1: the zero-order-hold weight of the input. A type that
// carries derivatives takes the series sum_k x^k / (k+1)! near zero, where those of the closed form
// cancel.
template <class T>
T phi1(const T& x) {
  if constexpr (!detail::is_plain_v<T>) {
    using std::abs;
    using Magnitude = decltype(abs(x));
    if (abs(x) < Magnitude(0.5)) {
      return detail::power_series(T(1), [&x](int k) { return x / detail::scalar_of<T>(k + 1); });
    }
  }
  return x == T(0) ? T(1) : expm1_of(x) / x;
}

// phi_2(x) = (e^x - 1 - x) / x^2, phi_2(0) = 1/2: the first-order-hold weight. The closed form
// cancels below |x| ~ 1/2 and gives way to the series sum_k x^k / (k+2)! there.
template <class T>
T phi2(const T& x) {
  using std::abs;
  using Magnitude = decltype(abs(x));
  if (abs(x) < Magnitude(0.5)) {
    return detail::power_series(T(1) / T(2),
                                [&x](int k) { return x / detail::scalar_of<T>(k + 2); });
  }
  return (expm1_of(x) - x) / (x * x);
}

// phi_1'(x) = (e^x (x - 1) + 1) / x^2 = 1/2 + x/3 + x^2/8 + x^3/30 + … = phi_1(x) - phi_2(x): the
// derivative that the gradient of zero-order hold needs, and the weight of the previous input in
// first-order hold. (e^x - phi_1(x)) / x away from zero, near it the series
// sum_k (k+1) x^k / (k+2)!.
template <class T>
T phi1_derivative(const T& x) {
  using std::abs;
  using std::exp;
  using Magnitude = decltype(abs(x));
  if (abs(x) < Magnitude(0.5)) {
    return detail::power_series(T(1) / T(2), [&x](int k) {  // (k+1)/(k+2)! over k/(k+1)!
      return x * detail::scalar_of<T>(k + 1) / detail::scalar_of<T>(k * (k + 2));
    });
  }
  return (exp(x) - phi1(x)) / x;
}

SSM_NAMESPACE_END
