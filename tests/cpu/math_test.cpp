#include "ssm/cpu/math.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>

#include "support/error.hpp"

namespace {

using ssm::detail::Vec;

template <class T>
using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;

// The distance of one unit in the last place at `value`, that of the smallest normal below it.
template <class T>
long double ulp(long double value) {
  int exponent = 0;
  std::frexp(value, &exponent);
  const int lowest = std::numeric_limits<T>::min_exponent;
  return std::ldexp(1.0L, (exponent < lowest ? lowest : exponent) - std::numeric_limits<T>::digits);
}

struct Worst {
  long double ulps = 0;
  long double at = 0;
  long double relative = 0;  // over results that are normal numbers
};

// Calls `function` on every stride-th pattern of bits with |x| <= limit: all exponents, both signs,
// denormals included; `exact` in the precision of Wide.
template <class T, class Wide, class F, class G>
Worst walk(Bits<T> stride, T limit, F function, G exact) {
  constexpr int kWidth = Vec<T>::kWidth;
  T in[kWidth];
  T out[kWidth];
  int filled = 0;
  Worst worst;
  const Bits<T> last = ssm::detail::bit_cast<Bits<T>>(limit);
  for (const Bits<T> sign : {Bits<T>(0), Bits<T>(1) << (sizeof(T) * 8 - 1)}) {
    for (Bits<T> bits = 0; bits <= last; bits += stride) {
      in[filled++] = ssm::detail::bit_cast<T>(static_cast<Bits<T>>(bits | sign));
      if (filled < kWidth) continue;
      filled = 0;
      function(Vec<T>::load(in)).store(out);
      for (int i = 0; i < kWidth; ++i) {
        const Wide wanted = exact(static_cast<Wide>(in[i]));
        if (std::abs(wanted) > static_cast<Wide>(std::numeric_limits<T>::max())) {
          EXPECT_TRUE(std::isinf(out[i])) << in[i];
          continue;
        }
        const long double error =
            std::abs(static_cast<long double>(out[i]) - static_cast<long double>(wanted));
        const long double ulps = error / ulp<T>(static_cast<long double>(wanted));
        const long double larger = ssm_test::larger_error(worst.ulps, ulps);
        if (larger != worst.ulps) worst.at = static_cast<long double>(in[i]);
        worst.ulps = larger;
        if (std::abs(wanted) >= static_cast<Wide>(std::numeric_limits<T>::min())) {
          const long double relative = error / static_cast<long double>(std::abs(wanted));
          worst.relative = ssm_test::larger_error(worst.relative, relative);
        }
      }
    }
  }
  return worst;
}

#define SSM_EXPECT_WITHIN(worst, bound)                                              \
  do {                                                                               \
    const Worst w = worst;                                                           \
    EXPECT_TRUE(w.ulps <= (bound)) << w.ulps << " ulp at " << w.at;                  \
    RecordProperty("ulps", std::to_string(w.ulps));                                  \
    RecordProperty("relative", std::to_string(w.relative * 1e9L) + "e-9");           \
    std::printf("  %.3Lf ulp at %.9Lg, relative %.3Lg\n", w.ulps, w.at, w.relative); \
  } while (false)

// Oracles in a wider type. log1p and expm1 are the C library's.
template <class W>
W wide_softplus(W x) {
  return x > 20 ? x : std::log1p(std::exp(x));
}
template <class W>
W wide_silu(W z) {
  return z < 0 ? z * std::exp(z) / (1 + std::exp(z)) : z / (1 + std::exp(-z));
}
template <class W>
W wide_phi1(W x) {
  return x == 0 ? W(1) : std::expm1(x) / x;
}

template <class W>
W wide_sigmoid(W x) {
  return x < 0 ? std::exp(x) / (1 + std::exp(x)) : 1 / (1 + std::exp(-x));
}
template <class W>
W wide_softplus_derivative(W x) {
  return x > 20 ? W(1) : wide_sigmoid(x);
}
// Relative to the larger of its two terms: it crosses zero near -1.28.
template <class T>
void silu_derivative_is_exact(T first, T last, T step) {
  for (T z = first; z <= last; z += step) {
    T lanes[Vec<T>::kWidth];
    silu_derivative(Vec<T>(z)).store(lanes);
    const long double s = wide_sigmoid<long double>(z);
    const long double rest = wide_sigmoid<long double>(-z);
    const long double wanted = s * (1 + z * rest);
    const long double size = s * (1 + std::abs(z) * rest);
    const long double error = std::abs(static_cast<long double>(lanes[0]) - wanted);
    const long double allowed = 8 * std::numeric_limits<T>::epsilon() * size;
    EXPECT_TRUE(error <= allowed + std::numeric_limits<T>::min()) << z;
  }
}
template <class W>
W wide_phi1_derivative(W x) {
  return ssm::phi1_derivative(x);
}

constexpr long double kExpBound = 1.0L;
// Without a fused multiply-add a polynomial step rounds twice.
constexpr long double kBound = ssm::detail::simd::kFused ? 4.0L : 5.0L;
// The scan's own exponential may use a table, whose entries are rounded too.
constexpr long double kExp2Bound = 1.5L;
constexpr long double kDoubleExp2Bound = ssm::detail::simd::kFused ? 1.0L : 1.3L;

constexpr std::uint32_t kFloatStride = 1511;  // 2.8 million floats of either sign
const float kLargest = std::numeric_limits<float>::max();
const double kLargestDouble = std::numeric_limits<double>::max();
constexpr std::uint64_t kDoubleStride = 45000000000127;  // 205 thousand doubles of either sign

TEST(Float, Exp) {
  SSM_EXPECT_WITHIN((walk<float, double>(
                        kFloatStride, kLargest, [](auto x) { return exp(x); },
                        [](double x) { return std::exp(x); })),
                    kExpBound);
}
TEST(Float, ExpEverywhereItIsNeitherZeroNorInfinite) {
  SSM_EXPECT_WITHIN(
      (walk<float, double>(
          37, 128.0f, [](auto x) { return exp(x); }, [](double x) { return std::exp(x); })),
      kExpBound);
}
TEST(Float, Expm1) {
  SSM_EXPECT_WITHIN((walk<float, double>(
                        kFloatStride, kLargest, [](auto x) { return expm1(x); },
                        [](double x) { return std::expm1(x); })),
                    kBound);
}
TEST(Float, Phi1) {
  SSM_EXPECT_WITHIN((walk<float, double>(
                        kFloatStride, 80.0f, [](auto x) { return phi1(x); },
                        [](double x) { return wide_phi1(x); })),
                    kBound);
}
TEST(Float, Softplus) {
  SSM_EXPECT_WITHIN((walk<float, double>(
                        kFloatStride, kLargest, [](auto x) { return softplus(x); },
                        [](double x) { return wide_softplus(x); })),
                    kBound);
}
TEST(Float, Silu) {
  SSM_EXPECT_WITHIN((walk<float, double>(
                        kFloatStride, kLargest, [](auto x) { return silu(x); },
                        [](double x) { return wide_silu(x); })),
                    kBound);
}
TEST(Float, SoftplusDerivative) {
  SSM_EXPECT_WITHIN((walk<float, double>(
                        kFloatStride, kLargest, [](auto x) { return softplus_derivative(x); },
                        [](double x) { return wide_softplus_derivative(x); })),
                    kBound);
}
TEST(Float, SiluDerivative) { silu_derivative_is_exact<float>(-110, 30, float(0.00390625)); }
TEST(Float, Phi1Derivative) {
  SSM_EXPECT_WITHIN((walk<float, double>(
                        kFloatStride, 80.0f, [](auto x) { return phi1_derivative(x); },
                        [](double x) { return wide_phi1_derivative(x); })),
                    8.0L);
}
TEST(Float, Exp2Bounded) {
  SSM_EXPECT_WITHIN((walk<float, double>(
                        397, 126.0f, [](auto x) { return exp2_bounded(x); },
                        [](double x) { return std::exp2(x); })),
                    kExp2Bound);
}

TEST(Double, Exp) {
  SSM_EXPECT_WITHIN((walk<double, long double>(
                        kDoubleStride, kLargestDouble, [](auto x) { return exp(x); },
                        [](long double x) { return std::exp(x); })),
                    kExpBound);
}
TEST(Double, Expm1) {
  SSM_EXPECT_WITHIN((walk<double, long double>(
                        kDoubleStride, kLargestDouble, [](auto x) { return expm1(x); },
                        [](long double x) { return std::expm1(x); })),
                    kBound);
}
TEST(Double, Phi1) {
  SSM_EXPECT_WITHIN((walk<double, long double>(
                        kDoubleStride, 600.0, [](auto x) { return phi1(x); },
                        [](long double x) { return wide_phi1(x); })),
                    kBound);
}
TEST(Double, Softplus) {
  SSM_EXPECT_WITHIN((walk<double, long double>(
                        kDoubleStride, kLargestDouble, [](auto x) { return softplus(x); },
                        [](long double x) { return wide_softplus(x); })),
                    kBound);
}
TEST(Double, Silu) {
  SSM_EXPECT_WITHIN((walk<double, long double>(
                        kDoubleStride, kLargestDouble, [](auto x) { return silu(x); },
                        [](long double x) { return wide_silu(x); })),
                    kBound);
}
TEST(Double, SoftplusDerivative) {
  SSM_EXPECT_WITHIN(
      (walk<double, long double>(
          kDoubleStride, kLargestDouble, [](auto x) { return softplus_derivative(x); },
          [](long double x) { return wide_softplus_derivative(x); })),
      kBound);
}
TEST(Double, SiluDerivative) { silu_derivative_is_exact<double>(-110, 30, double(0.00390625)); }
TEST(Double, Phi1Derivative) {
  SSM_EXPECT_WITHIN((walk<double, long double>(
                        kDoubleStride, 600.0, [](auto x) { return phi1_derivative(x); },
                        [](long double x) { return wide_phi1_derivative(x); })),
                    8.0L);
}
TEST(Double, Exp2Bounded) {
  SSM_EXPECT_WITHIN((walk<double, long double>(
                        kDoubleStride, 126.0, [](auto x) { return exp2_bounded(x); },
                        [](long double x) { return std::exp2(x); })),
                    kDoubleExp2Bound);
}

template <class T>
class Limits : public ::testing::Test {};
using Scalars = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Limits, Scalars);

template <class T>
T first_lane(Vec<T> v) {
  T lanes[Vec<T>::kWidth];
  v.store(lanes);
  for (int i = 1; i < Vec<T>::kWidth; ++i) {
    EXPECT_EQ(std::memcmp(&lanes[0], &lanes[i], sizeof(T)), 0);
  }
  return lanes[0];
}

TYPED_TEST(Limits, InfinityZeroAndNan) {
  using T = TypeParam;
  const T infinity = std::numeric_limits<T>::infinity();
  const Vec<T> up(infinity);
  const Vec<T> down(-infinity);
  const Vec<T> zero(T(0));
  EXPECT_EQ(first_lane(exp(up)), infinity);
  EXPECT_EQ(first_lane(exp(down)), T(0));
  EXPECT_EQ(first_lane(exp(zero)), T(1));
  EXPECT_EQ(first_lane(exp2_bounded(zero)), T(1));
  EXPECT_EQ(first_lane(expm1(up)), infinity);
  EXPECT_EQ(first_lane(expm1(down)), T(-1));
  EXPECT_EQ(first_lane(expm1(zero)), T(0));
  EXPECT_EQ(first_lane(phi1(zero)), T(1));
  EXPECT_EQ(first_lane(phi1(down)), T(0));
  EXPECT_EQ(first_lane(softplus(up)), infinity);
  EXPECT_EQ(first_lane(softplus(down)), T(0));
  EXPECT_EQ(first_lane(silu(up)), infinity);
  EXPECT_EQ(first_lane(silu(down)), T(0));
  EXPECT_EQ(first_lane(silu(zero)), T(0));
  EXPECT_EQ(first_lane(silu_derivative(up)), T(1));
  EXPECT_EQ(first_lane(silu_derivative(down)), T(0));
  EXPECT_EQ(first_lane(silu_derivative(zero)), T(0.5));
  EXPECT_EQ(first_lane(softplus_derivative(up)), T(1));
  EXPECT_EQ(first_lane(softplus_derivative(down)), T(0));
  EXPECT_EQ(first_lane(phi1_derivative(zero)), T(0.5));
  // NaN of either sign, with and without a payload whose bits could end up in an exponent.
  for (Bits<T> payload : {Bits<T>(0), Bits<T>(1), Bits<T>(0x155)}) {
    for (const T sign : {T(1), T(-1)}) {
      const T quiet = std::copysign(std::numeric_limits<T>::quiet_NaN(), sign);
      const Vec<T> nan(ssm::detail::bit_cast<T>(
          static_cast<Bits<T>>(ssm::detail::bit_cast<Bits<T>>(quiet) | payload)));
      EXPECT_TRUE(std::isnan(first_lane(exp(nan))));
      EXPECT_TRUE(std::isnan(first_lane(expm1(nan))));
      EXPECT_TRUE(std::isnan(first_lane(phi1(nan))));
      EXPECT_TRUE(std::isnan(first_lane(softplus(nan))));
      EXPECT_TRUE(std::isnan(first_lane(silu(nan))));
      EXPECT_TRUE(std::isnan(first_lane(silu_derivative(nan))));
      EXPECT_TRUE(std::isnan(first_lane(softplus_derivative(nan))));
      EXPECT_TRUE(std::isnan(first_lane(phi1_derivative(nan))));
    }
  }
}

}  // namespace
