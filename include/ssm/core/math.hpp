#pragma once

#include <cmath>
#include <complex>
#include <limits>

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

// silu(x) = x sigma(x) = x / (1 + e^-x): -0 at -infinity's side, x at +infinity's.
template <class T>
T silu(const T& x) {
  using std::exp;
  return x / (T(1) + exp(-x));
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

namespace detail {

// sum_{k >= 0} x^k c_k with c_0 = 1 / first!, c_{k+1} = c_k / (first + k + 1): the Taylor series of
// phi_first, summed until a term no longer changes the result.
template <class T>
T phi_series(const T& x, int first) {
  T term(1);
  for (int k = 2; k <= first; ++k) term = term / T(static_cast<real_t<T>>(k));
  T sum = term;
  for (int k = first + 1; k < first + 60; ++k) {
    term = term * x / T(static_cast<real_t<T>>(k));
    const T next = sum + term;
    if (next == sum) break;
    sum = next;
  }
  return sum;
}

}  // namespace detail

// phi_1(x) = (e^x - 1) / x, phi_1(0) = 1: the zero-order-hold weight of the input.
template <class T>
T phi1(const T& x) {
  return x == T(0) ? T(1) : expm1_of(x) / x;
}

// phi_2(x) = (e^x - 1 - x) / x^2, phi_2(0) = 1/2: the first-order-hold weight. The closed form
// cancels below |x| ~ 1/2 and gives way to the series there.
template <class T>
T phi2(const T& x) {
  using std::abs;
  using Magnitude = decltype(abs(x));
  if (abs(x) < Magnitude(0.5)) return detail::phi_series(x, 2);
  return (expm1_of(x) - x) / (x * x);
}

// phi_1'(x) = (e^x (x - 1) + 1) / x^2 = 1/2 + x/3 + x^2/8 + x^3/30 + …: the derivative that the
// gradient of zero-order hold needs. (e^x - phi_1(x)) / x away from zero, near it the series
// sum_k (k+1) x^k / (k+2)!.
template <class T>
T phi1_derivative(const T& x) {
  using std::abs;
  using std::exp;
  using Magnitude = decltype(abs(x));
  if (abs(x) < Magnitude(0.5)) {
    T term = T(1) / T(2);
    T sum = term;
    for (int k = 1; k < 60; ++k) {  // (k+1)/(k+2)! over k/(k+1)!
      term = term * x * T(static_cast<real_t<T>>(k + 1)) / T(static_cast<real_t<T>>(k)) /
             T(static_cast<real_t<T>>(k + 2));
      const T next = sum + term;
      if (next == sum) break;
      sum = next;
    }
    return sum;
  }
  return (exp(x) - phi1(x)) / x;
}

SSM_NAMESPACE_END
