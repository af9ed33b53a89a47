#include "ssm/core/math.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/error.hpp"

namespace {

using ssm_test::LongComplex;
using ssm_test::to_complex;

// sum_k x^k / (k + order)!, for moderate |x|.
LongComplex phi_series(LongComplex x, int order) {
  LongComplex term = 1;
  for (int k = 2; k <= order; ++k) term /= static_cast<long double>(k);
  LongComplex sum = 0;
  for (int k = 1; k < 200; ++k) {
    sum += term;
    term *= x / static_cast<long double>(k + order);
  }
  return sum;
}

// phi_order by its series near zero and its closed form away from it.
LongComplex phi(LongComplex x, int order) {
  if (std::abs(x) < 2) return phi_series(x, order);
  LongComplex value = std::exp(x);
  long double factorial = 1;
  for (int k = 0; k < order; ++k) {
    value = (value - 1 / factorial) / x;
    factorial *= static_cast<long double>(k + 1);
  }
  return value;
}

template <class T>
std::vector<T> arguments() {
  using R = ssm::real_t<T>;
  std::vector<T> out = {T(0)};
  for (double magnitude = 1e-30; magnitude < 80; magnitude *= 1.37) {
    for (const double sign : {-1.0, 1.0}) {
      const R re = static_cast<R>(sign * magnitude);
      out.push_back(T(re));
      if constexpr (ssm::is_complex_v<T>) {
        out.push_back(T(0, re));
        out.push_back(T(-std::abs(re), re / 2));
      }
    }
  }
  return out;
}

template <class T>
class MathTest : public testing::Test {
 public:
  static constexpr double kEpsilon =
      static_cast<double>(std::numeric_limits<ssm::real_t<T>>::epsilon());
  // The largest relative error of `found` against `wanted`, in units of epsilon.
  template <class Found, class Wanted>
  static double worst(Found found, Wanted wanted) {
    ssm_test::ErrorMeter meter;
    for (const T& x : arguments<T>()) {
      const LongComplex exact = wanted(to_complex(x));
      meter.add(to_complex(found(x)), exact, std::abs(exact));
    }
    return static_cast<double>(meter.worst()) / kEpsilon;
  }
};
using MathTypes = testing::Types<float, double, std::complex<float>, std::complex<double>>;
struct MathNames {
  template <class T>
  static std::string GetName(int) {
    return std::string(ssm::is_complex_v<T> ? "complex_" : "") +
           (sizeof(ssm::real_t<T>) == 4 ? "float" : "double");
  }
};
TYPED_TEST_SUITE(MathTest, MathTypes, MathNames);

TYPED_TEST(MathTest, Expm1KeepsItsDigitsNearZero) {
  EXPECT_LE(this->worst([](const TypeParam& x) { return ssm::expm1_of(x); },
                        [](LongComplex x) { return x * phi(x, 1); }),
            8);
}

TYPED_TEST(MathTest, Phi1) {
  EXPECT_LE(this->worst([](const TypeParam& x) { return ssm::phi1(x); },
                        [](LongComplex x) { return phi(x, 1); }),
            12);
  EXPECT_EQ(ssm::phi1(TypeParam(0)), TypeParam(1));
}

TYPED_TEST(MathTest, Phi2) {
  EXPECT_LE(this->worst([](const TypeParam& x) { return ssm::phi2(x); },
                        [](LongComplex x) { return phi(x, 2); }),
            32);
  EXPECT_EQ(ssm::phi2(TypeParam(0)), TypeParam(0.5));
}

TYPED_TEST(MathTest, Phi1DerivativeIsPhi1MinusPhi2) {
  EXPECT_LE(this->worst([](const TypeParam& x) { return ssm::phi1_derivative(x); },
                        [](LongComplex x) { return phi(x, 1) - phi(x, 2); }),
            48);
  EXPECT_EQ(ssm::phi1_derivative(TypeParam(0)), TypeParam(0.5));
}

template <class T>
class RealMathTest : public MathTest<T> {};
using RealTypes = testing::Types<float, double>;
TYPED_TEST_SUITE(RealMathTest, RealTypes, MathNames);

TYPED_TEST(RealMathTest, SoftplusIsAccurateBelowItsThresholdAndTheIdentityAbove) {
  EXPECT_LE(this->worst([](TypeParam x) { return ssm::softplus(x); },
                        [](LongComplex x) {
                          const long double v = x.real();
                          return LongComplex(v <= 20 ? std::log1p(std::exp(v)) : v);
                        }),
            64);  // exp's error grows with |x|
  EXPECT_EQ(ssm::softplus(TypeParam(21)), TypeParam(21));
  EXPECT_GT(ssm::softplus(TypeParam(20)), TypeParam(20) * TypeParam(1 - 1e-7));
  EXPECT_EQ(ssm::softplus(-std::numeric_limits<TypeParam>::infinity()), TypeParam(0));
}

TYPED_TEST(RealMathTest, SigmoidAndSiluSaturateWithoutNan) {
  constexpr TypeParam kInfinity = std::numeric_limits<TypeParam>::infinity();
  constexpr TypeParam kMax = std::numeric_limits<TypeParam>::max();
  EXPECT_EQ(ssm::sigmoid(kInfinity), TypeParam(1));
  EXPECT_EQ(ssm::sigmoid(-kInfinity), TypeParam(0));
  EXPECT_EQ(ssm::sigmoid(TypeParam(0)), TypeParam(0.5));
  EXPECT_EQ(ssm::silu(kMax), kMax);
  EXPECT_EQ(ssm::silu(-kMax), TypeParam(0));
  EXPECT_EQ(ssm::silu(TypeParam(-5000)), TypeParam(0));
  EXPECT_EQ(ssm::silu(-kInfinity), TypeParam(0));
  EXPECT_EQ(ssm::silu(kInfinity), kInfinity);
  EXPECT_LE(this->worst([](TypeParam x) { return ssm::silu(x); },
                        [](LongComplex x) { return x / (LongComplex(1) + std::exp(-x)); }),
            64);
}

// Where e^-x overflows and x e^x is still a number: x e^x is the value to the last bit but for the
// few ulps of e^x.
TYPED_TEST(RealMathTest, SiluKeepsItsDigitsWhereTheExponentialOverflows) {
  using Limits = std::numeric_limits<TypeParam>;
  const TypeParam edge = -std::log(Limits::max());
  for (const double below : {-0.5, 0.0, 0.25, 1.0, 2.0, 4.0, 8.0, 14.0}) {
    const TypeParam x = edge - TypeParam(below);
    const long double wide = static_cast<long double>(x);
    const long double wanted = wide * std::exp(wide);
    const long double spacing = std::max<long double>(
        std::abs(wanted) * static_cast<long double>(Limits::epsilon()), Limits::denorm_min());
    EXPECT_TRUE(std::abs(static_cast<long double>(ssm::silu(x)) - wanted) <=
                spacing * 4 * std::abs(wide))
        << x << ": " << ssm::silu(x);
    EXPECT_NE(ssm::silu(x), TypeParam(0)) << x;
  }
}

TYPED_TEST(RealMathTest, NanPassesThrough) {
  constexpr TypeParam kNan = std::numeric_limits<TypeParam>::quiet_NaN();
  for (const TypeParam y : {ssm::softplus(kNan), ssm::silu(kNan), ssm::sigmoid(kNan),
                            ssm::expm1_of(kNan), ssm::phi1(kNan), ssm::phi2(kNan)}) {
    EXPECT_TRUE(std::isnan(y));
  }
}

}  // namespace
