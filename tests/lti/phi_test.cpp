// phi_1, phi_2, phi_1' and expm1 for every scalar type: small arguments, both sides of the
// thresholds between series and closed form, large negative arguments, imaginary ones.

#include <gtest/gtest.h>

#include <vector>

#include "ssm/core/math.hpp"
#include "support.hpp"

namespace {

using lti_test::Oracle;
using ssm::is_complex_v;
using ssm::real_t;

template <class T>
class Phi : public ::testing::Test {};
using Scalars = ::testing::Types<float, double, std::complex<float>, std::complex<double>>;
TYPED_TEST_SUITE(Phi, Scalars);

template <class T>
std::vector<T> arguments() {
  using R = real_t<T>;
  std::vector<R> magnitudes = {R(1e-30), R(1e-12), R(1e-6),   R(1e-4), R(1e-3), R(1e-2),
                               R(0.1),   R(0.3),   R(0.4999), R(0.5),  R(0.51), R(0.999),
                               R(1),     R(1.7),   R(4),      R(9),    R(16),   R(40)};
  std::vector<T> result = {T(0)};
  for (const R m : magnitudes) {
    result.push_back(T(-m));
    if (m < 5) result.push_back(T(m));
    if constexpr (is_complex_v<T>) {
      for (const R turn : {R(0.6), R(1.2), R(1.57079632679489661923L), R(1.9), R(2.5)}) {
        result.push_back(std::polar(m, turn));
        result.push_back(std::polar(m, -turn));
      }
    }
  }
  return result;
}

// |found - wanted| / |wanted| in epsilons of T.
template <class T>
double epsilons(const T& found, const std::complex<long double>& wanted) {
  return static_cast<double>(std::abs(std::complex<long double>(found) - wanted) /
                             std::abs(wanted) /
                             static_cast<long double>(std::numeric_limits<real_t<T>>::epsilon()));
}

TYPED_TEST(Phi, RelativeErrorIsAFewEpsilonsEverywhere) {
  using T = TypeParam;
  for (const T& x : arguments<T>()) {
    SCOPED_TRACE(::testing::Message() << "x = " << x);
    const lti_test::Matrix<T> X = lti_test::Matrix<T>::Constant(1, 1, x);
    const Oracle oracle(lti_test::wide(X));
    const std::complex<long double> wide_x(x);
    const std::complex<long double> phi1 = oracle.phi1(0, 0);
    EXPECT_LE(epsilons(ssm::phi1(x), phi1), 4);
    EXPECT_LE(epsilons(ssm::phi2(x), oracle.phi2(0, 0)), 8);
    // expm1(x) = x phi_1(x).
    if (x != T(0)) {
      EXPECT_LE(epsilons(ssm::expm1_of(x), wide_x * phi1), 4);
    } else {
      EXPECT_EQ(ssm::expm1_of(x), T(0));
    }
  }
}

// phi_1' = phi_1 - phi_2, in long double, which has eleven bits to lose by the subtraction.
TYPED_TEST(Phi, DerivativeOfPhi1) {
  using T = TypeParam;
  for (const T& x : arguments<T>()) {
    SCOPED_TRACE(::testing::Message() << "x = " << x);
    const lti_test::Matrix<T> X = lti_test::Matrix<T>::Constant(1, 1, x);
    const Oracle oracle(lti_test::wide(X));
    EXPECT_LE(epsilons(ssm::phi1_derivative(x), oracle.phi1(0, 0) - oracle.phi2(0, 0)), 10);
  }
}

TEST(PhiValues, AtZeroAndKnownPoints) {
  EXPECT_EQ(ssm::phi1(0.0), 1.0);
  EXPECT_EQ(ssm::phi2(0.0), 0.5);
  EXPECT_EQ(ssm::phi1_derivative(0.0), 0.5);
  EXPECT_NEAR(ssm::phi1(1.0), 1.7182818284590452354, 4e-16);
  EXPECT_NEAR(ssm::phi2(1.0), 0.7182818284590452354, 4e-16);
  EXPECT_NEAR(ssm::phi1_derivative(1.0), 1.0, 8e-16);
  // The series 1/2 + x/3 + x^2/8 + x^3/30 + x^4/144 at 1e-2, where the closed form in float is off
  // by 1.7e-5.
  const double x = 1e-2;
  const double series = 0.5 + x / 3 + x * x / 8 + x * x * x / 30 + x * x * x * x / 144;
  EXPECT_NEAR(ssm::phi1_derivative(0.01f), series, 1e-7);
  EXPECT_NEAR(ssm::phi1_derivative(0.01), series, 1e-12);
}

TEST(PhiValues, LongDoubleKeepsItsDigits) {
  EXPECT_LE(std::abs(ssm::phi1(-0.1L) / 0.95162581964040426835L - 1), 1e-18L);
  EXPECT_LE(std::abs(ssm::phi2(-0.1L) / 0.48374180359595731643L - 1), 1e-17L);
  EXPECT_LE(std::abs(ssm::phi1_derivative(-0.1L) / 0.46788401604444695193L - 1), 1e-17L);
}

TEST(PhiValues, NanStaysNan) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_TRUE(std::isnan(ssm::phi1(nan)));
  EXPECT_TRUE(std::isnan(ssm::phi2(nan)));
  EXPECT_TRUE(std::isnan(ssm::phi1_derivative(nan)));
}

// A forward-mode dual number, as a user might write it: comparisons see the value alone.
struct Dual {
  double value;
  double slope;
  Dual(double v = 0, double s = 0) : value(v), slope(s) {}
};
Dual operator+(Dual a, Dual b) { return {a.value + b.value, a.slope + b.slope}; }
Dual operator-(Dual a, Dual b) { return {a.value - b.value, a.slope - b.slope}; }
Dual operator*(Dual a, Dual b) {
  return {a.value * b.value, a.slope * b.value + a.value * b.slope};
}
Dual operator/(Dual a, Dual b) {
  return {a.value / b.value, (a.slope - a.value / b.value * b.slope) / b.value};
}
bool operator==(Dual a, Dual b) { return a.value == b.value; }
bool operator<(Dual a, Dual b) { return a.value < b.value; }
Dual abs(Dual a) { return a.value < 0 ? Dual(-a.value, -a.slope) : a; }
Dual exp(Dual a) { return {std::exp(a.value), a.slope * std::exp(a.value)}; }
Dual expm1(Dual a) { return {std::expm1(a.value), a.slope * std::exp(a.value)}; }

TEST(PhiValues, DualNumbersCarryTheDerivativeThroughZero) {
  for (const double x : {0.0, 1e-30, -1e-9, 1e-4, -0.3, 0.49, -0.7, 3.0, -12.0}) {
    const Dual phi1 = ssm::phi1(Dual(x, 1));
    EXPECT_NEAR(phi1.value / ssm::phi1(x), 1, 1e-15) << x;
    EXPECT_NEAR(phi1.slope / ssm::phi1_derivative(x), 1, 3e-15) << x;
  }
  EXPECT_NEAR(ssm::phi2(Dual(0, 1)).slope, 1.0 / 6, 1e-16);
  EXPECT_NEAR(ssm::phi1_derivative(Dual(0, 1)).slope, 1.0 / 3, 1e-16);
}

}  // namespace
