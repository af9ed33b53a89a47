#pragma once

#include <limits>
#include <type_traits>

#include "ssm/core/dtype.hpp"

namespace ssm_test {

enum class Op { selective_scan, causal_conv1d, linear, rms_norm };

// Half the distance between 1 and the next number of T.
template <class T>
constexpr double unit_roundoff() {
  if constexpr (std::is_same<T, ssm::bf16>::value) return 0x1p-8;
  if constexpr (std::is_same<T, ssm::f16>::value) return 0x1p-11;
  if constexpr (std::is_same<T, float>::value) return 0x1p-24;
  if constexpr (std::is_same<T, double>::value) return 0x1p-53;
  return static_cast<double>(std::numeric_limits<long double>::epsilon()) / 2;
}

// The error allowed to a sum computed in accum_t, relative to the sum of the magnitudes of its
// terms (ErrorMeter's scale), in units of roundoff.
//
//   selective_scan  A decay exp(delta A) is off by (2 + |delta A|) roundoffs with a correct exp, by
//                   about 6 with the GPU's exp2; an error of the decay is amplified by the memory
//                   1 / (1 - a), at most 8 for the suites' decays (delta |A| >= 0.14): 48, and as
//                   much again for softplus, the input's product and the sum over d_state.
//   causal_conv1d   up to 65 terms, and silu (derivative at most 1.1; exp off by 4).
//   linear          up to 600 terms summed in any order; the worst order costs one roundoff per
//                   term and rounding errors of random sign cost its square root.
//   rms_norm        a mean of squares, a square root, a division, a sigmoid, three products.
template <class T>
constexpr double accum_tolerance(Op op) {
  const double u = unit_roundoff<ssm::accum_t<T>>();
  switch (op) {
    case Op::selective_scan:
      return 96 * u;
    case Op::causal_conv1d:
      return 32 * u;
    case Op::linear:
      return 32 * u;
    case Op::rms_norm:
      return 32 * u;
  }
  return 0;
}

// The same for a result stored as T: one more rounding.
template <class T>
constexpr double tolerance(Op op) {
  return accum_tolerance<T>(op) + unit_roundoff<T>();
}

// Differences below this are underflow: the smallest normal number that T and accum_t<T> hold, for
// backends may flush subnormals, and f16's subnormal spacing.
template <class T>
constexpr double underflow() {
  if constexpr (std::is_same<T, ssm::f16>::value) return 0x1p-24;
  if constexpr (std::is_same<ssm::accum_t<T>, float>::value) return 0x1p-126;
  return 0x1p-1022;
}

}  // namespace ssm_test
