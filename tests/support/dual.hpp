#pragma once

#include <cmath>

namespace ssm_test {

// A forward-mode dual number v + d epsilon, epsilon^2 = 0: a scalar of the user's own, with just
// the functions that the reference asks for. d is the derivative by whatever was seeded with 1.
struct Dual {
  double v = 0;
  double d = 0;

  Dual() = default;
  Dual(double value) : v(value) {}
  Dual(double value, double derivative) : v(value), d(derivative) {}
};

inline Dual operator+(const Dual& a, const Dual& b) { return {a.v + b.v, a.d + b.d}; }
inline Dual operator-(const Dual& a, const Dual& b) { return {a.v - b.v, a.d - b.d}; }
inline Dual operator-(const Dual& a) { return {-a.v, -a.d}; }
inline Dual operator*(const Dual& a, const Dual& b) { return {a.v * b.v, a.v * b.d + a.d * b.v}; }
inline Dual operator/(const Dual& a, const Dual& b) {
  return {a.v / b.v, (a.d - a.v / b.v * b.d) / b.v};
}
inline bool operator==(const Dual& a, const Dual& b) { return a.v == b.v; }
inline bool operator<(const Dual& a, const Dual& b) { return a.v < b.v; }
inline bool operator<=(const Dual& a, const Dual& b) { return a.v <= b.v; }

inline Dual exp(const Dual& a) { return {std::exp(a.v), std::exp(a.v) * a.d}; }
inline Dual expm1(const Dual& a) { return {std::expm1(a.v), std::exp(a.v) * a.d}; }
inline Dual log1p(const Dual& a) { return {std::log1p(a.v), a.d / (1 + a.v)}; }
inline Dual sqrt(const Dual& a) { return {std::sqrt(a.v), a.d / (2 * std::sqrt(a.v))}; }
inline Dual abs(const Dual& a) { return a.v < 0 ? -a : a; }

}  // namespace ssm_test
