// Discretization against numbers: the golden values of every rule, dense and diagonal, in every
// scalar type, and the double-precision corner cases of the matrix exponential.

#include "ssm/lti/discretize.hpp"

#include <gtest/gtest.h>

#include "instances.hpp"
#include "ssm/lti/hippo.hpp"
#include "support.hpp"
#include "support/error.hpp"

namespace {

using lti_test::Matrix;
using lti_test::Oracle;
using lti_test::Random;
using lti_test::relative_error;
using lti_test::ulps;
using lti_test::Vector;
using ssm::real_t;
using ssm::Status;
using ssm::lti::DenseSystem;
using ssm::lti::DiagonalSystem;
using ssm::lti::discretize;
using ssm::lti::Rule;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

struct ScalarGolden {
  const char* name;
  Rule rule;
  long double Abar;
  long double Bbar;
  long double Bbar_previous;  // 0: absent
};

// a = -1, b = 1, dt = 0.1.
const ScalarGolden kScalarGolden[] = {
    {"forward Euler", Rule::forward_euler(), 0.9L, 0.1L, 0},
    {"backward Euler", Rule::backward_euler(), 0.9090909090909091L, 0.0909090909090909L, 0},
    {"bilinear", Rule::bilinear(), 0.9047619047619047L, 0.09523809523809523L, 0},
    {"GBT 0.3", Rule::generalized_bilinear(0.3), 0.90291262135922330L, 0.097087378640776699L, 0},
    {"zero-order hold", Rule::zero_order_hold(), 0.9048374180359595L, 0.09516258196404043L, 0},
    // To 20 digits: the usual double-precision formulas lose three bits here.
    {"first-order hold", Rule::first_order_hold(), 0.9048374180359595L, 0.048374180359595731642L,
     0.046788401604444695193L},
    {"exponential Euler", Rule::exponential_euler(), 0.9048374180359595L, 0.1L, 0},
    {"exponential-trapezoidal", Rule::exponential_trapezoidal(0.25), 0.9048374180359595L, 0.025L,
     0.067862806352696970L},
};

template <class T>
class DiscretizeScalar : public ::testing::Test {};
using Scalars = ::testing::Types<float, double, std::complex<float>, std::complex<double>>;
TYPED_TEST_SUITE(DiscretizeScalar, Scalars);

template <class System>
void expect_scalar_golden(const System& system, const ScalarGolden& golden) {
  using Scalar = typename System::Scalar;
  const Matrix<Scalar> Abar = system.Abar * Matrix<Scalar>::Ones(1, 1);
  EXPECT_LE(ulps(Abar(0, 0), golden.Abar), 2);
  EXPECT_LE(ulps(system.Bbar(0, 0), golden.Bbar), 2);
  ASSERT_EQ(system.has_input_memory(), golden.Bbar_previous != 0);
  // 4: the dense form is a difference, the diagonal one a quotient.
  if (system.has_input_memory()) {
    EXPECT_LE(ulps(system.Bbar_previous(0, 0), golden.Bbar_previous), 4);
  }
}

TYPED_TEST(DiscretizeScalar, GoldenOfEveryRule) {
  using Real = real_t<TypeParam>;
  const Matrix<TypeParam> A = Matrix<TypeParam>::Constant(1, 1, TypeParam(-1));
  const Matrix<TypeParam> B = Matrix<TypeParam>::Ones(1, 1);
  for (const ScalarGolden& golden : kScalarGolden) {
    SCOPED_TRACE(golden.name);
    DenseSystem<TypeParam> dense;
    ASSERT_TRUE(discretize(golden.rule, A, B, Real(0.1), dense));
    expect_scalar_golden(dense, golden);
    DiagonalSystem<TypeParam> diagonal;
    ASSERT_TRUE(discretize(golden.rule, A.col(0), B, Real(0.1), diagonal));
    expect_scalar_golden(diagonal, golden);
  }
}

TEST(Discretize, ScalarGoldenInLongDouble) {
  const Matrix<long double> A = Matrix<long double>::Constant(1, 1, -1);
  const Matrix<long double> B = Matrix<long double>::Ones(1, 1);
  DiagonalSystem<long double> diagonal;
  ASSERT_TRUE(discretize(Rule::first_order_hold(), A.col(0), B, 0.1L, diagonal));
  EXPECT_LE(ulps(diagonal.Abar.diagonal()(0), 0.904837418035959573164249L), 2);
  EXPECT_LE(ulps(diagonal.Bbar(0, 0), 0.048374180359595731642490L), 4);
  EXPECT_LE(ulps(diagonal.Bbar_previous(0, 0), 0.046788401604444695193260L), 4);
  DenseSystem<long double> dense;
  ASSERT_TRUE(discretize(Rule::zero_order_hold(), A, B, 0.1L, dense));
  EXPECT_LE(ulps(dense.Abar(0, 0), 0.904837418035959573164249L), 4);
  EXPECT_LE(ulps(dense.Bbar(0, 0), 0.095162581964040426835751L), 4);
}

TEST(Discretize, DoubleIntegratorHasSingularA) {
  Matrix<double> A(2, 2), B(2, 1), Abar(2, 2), Bbar(2, 1);
  A << 0, 1, 0, 0;
  B << 0, 1;
  Abar << 1, 0.5, 0, 1;
  Bbar << 0.125, 0.5;
  DenseSystem<double> system;
  ASSERT_TRUE(discretize(Rule::zero_order_hold(), A, B, 0.5, system));
  EXPECT_LE(relative_error(system.Abar, Abar), 1e-14);
  EXPECT_LE(relative_error(system.Bbar, Bbar), 1e-14);
  // Linear inputs: u(s) = u0 + (u1 - u0) s / dt integrates twice to dt^2 (u0 / 3 + u1 / 6).
  Matrix<double> current(2, 1), previous(2, 1);
  current << 0.25 / 6, 0.25;
  previous << 0.25 / 3, 0.25;
  ASSERT_TRUE(discretize(Rule::first_order_hold(), A, B, 0.5, system));
  EXPECT_LE(relative_error(system.Bbar, current), 1e-14);
  EXPECT_LE(relative_error(system.Bbar_previous, previous), 1e-14);
}

TEST(Discretize, ZeroAIsAnIntegrator) {
  const Matrix<double> A = Matrix<double>::Zero(3, 3);
  const Matrix<double> B = Random(1).matrix<double>(3, 2);
  DenseSystem<double> dense;
  DiagonalSystem<double> diagonal;
  for (const Rule& rule : {Rule::forward_euler(), Rule::bilinear(), Rule::zero_order_hold(),
                           Rule::exponential_euler()}) {
    ASSERT_TRUE(discretize(rule, A, B, 0.25, dense));
    EXPECT_EQ(dense.Abar, (Matrix<double>::Identity(3, 3)));
    EXPECT_LE(relative_error(dense.Bbar, 0.25 * B), 1e-15);
    ASSERT_TRUE(discretize(rule, A.col(0), B, 0.25, diagonal));
    EXPECT_EQ(diagonal.Abar.diagonal(), (Vector<double>::Ones(3)));
    EXPECT_EQ(diagonal.Bbar, 0.25 * B);
  }
}

TEST(Discretize, MassSpringGolden) {
  Matrix<double> A(2, 2), B(2, 1), Abar(2, 2), Bbar(2, 1);
  A << 0, 1, -40, -5;
  B << 0, 1;
  Abar << 0.998033574210281, 0.0097476139277362, -0.3899045571094494, 0.9492955045716;
  Bbar << 4.9160644742972644e-5, 0.0097476139277362;
  DenseSystem<double> system;
  ASSERT_TRUE(discretize(Rule::zero_order_hold(), A, B, 0.01, system));
  EXPECT_LE(relative_error(system.Abar, Abar), 1e-13);  // the golden has 13 digits
  EXPECT_LE(relative_error(system.Bbar, Bbar), 1e-13);
  EXPECT_NEAR(system.Bbar(0, 0) / 4.9160644742972644e-5, 1, 1e-13);
}

TEST(Discretize, LegsZeroOrderHoldGolden) {
  Matrix<double> A, B;
  ASSERT_TRUE(ssm::lti::hippo(ssm::lti::Hippo::legs, 4, A, B));
  DenseSystem<double> system;
  ASSERT_TRUE(discretize(Rule::zero_order_hold(), A, B, 0.1, system));
  Matrix<double> Bbar(4, 1);
  Bbar << 0.0951625819640404, 0.1491411185775281, 0.1558950813125645, 0.1297340880126939;
  EXPECT_LE(relative_error(system.Bbar, Bbar), 1e-14);
  for (int n = 0; n < 4; ++n) {
    EXPECT_NEAR(system.Abar(n, n), std::exp(-0.1 * (n + 1)), 1e-14);
  }
}

// A zero or first-order hold of float matrices goes through the double exponential: in float the
// diagonal is off by 1.9e-5.
TEST(Discretize, LargeLegsExponentialInBothPrecisions) {
  const auto worst_diagonal = [](auto zero, double dt) {
    using Real = decltype(zero);
    Matrix<Real> A, B;
    EXPECT_TRUE(ssm::lti::hippo(ssm::lti::Hippo::legs, 64, A, B));
    DenseSystem<Real> system;
    EXPECT_TRUE(discretize(Rule::zero_order_hold(), A, B, static_cast<Real>(dt), system));
    double worst = 0;
    for (int n = 0; n < 64; ++n) {
      const double step = static_cast<double>(static_cast<Real>(dt));
      const double wanted = std::exp(-step * (n + 1));
      const double error = std::abs(static_cast<double>(system.Abar(n, n)) / wanted - 1);
      worst = ssm_test::larger_error(worst, error);
    }
    return worst;
  };
  EXPECT_LE(worst_diagonal(0.0, 0.1), 1e-13);
  EXPECT_LE(worst_diagonal(0.0f, 0.1), 1e-7);
}

TEST(Discretize, NanInGivesNanOut) {
  for (const Rule& rule : {Rule::forward_euler(), Rule::bilinear(), Rule::zero_order_hold(),
                           Rule::first_order_hold(), Rule::exponential_euler()}) {
    Matrix<double> A = -Matrix<double>::Identity(3, 3);
    A(1, 2) = kNan;
    const Matrix<double> B = Matrix<double>::Ones(3, 1);
    DenseSystem<double> dense;
    ASSERT_TRUE(discretize(rule, A, B, 0.1, dense));
    EXPECT_TRUE(dense.Abar.array().isNaN().any());
    Vector<double> a(2);
    a << -1, kNan;
    DiagonalSystem<double> diagonal;
    ASSERT_TRUE(discretize(rule, a, Matrix<double>::Ones(2, 1), 0.1, diagonal));
    EXPECT_FALSE(std::isnan(diagonal.Abar.diagonal()(0)));
    EXPECT_TRUE(std::isnan(diagonal.Abar.diagonal()(1)));
  }
}

// The exponential of [A B; 0 0] scaled by |B| instead of |A| would lose six digits at 1e12.
TEST(Discretize, LargeAndSmallInputWeightsKeepTheirDigits) {
  Random random(7);
  const Matrix<double> A = lti_test::stable_matrix<double>(random, 5);
  const Matrix<double> B = random.matrix<double>(5, 2);
  const Oracle oracle(lti_test::wide(0.3 * A));
  const lti_test::WideMatrix wanted = lti_test::product(oracle.phi1, lti_test::wide(0.3 * B));
  for (const Rule& rule : {Rule::zero_order_hold(), Rule::first_order_hold()}) {
    for (const double scale : {1e-300, 1e-12, 1.0, 1e8, 1e12, 1e300}) {
      SCOPED_TRACE(scale);
      DenseSystem<double> system;
      ASSERT_TRUE(discretize(rule, A, scale * B, 0.3, system));
      Matrix<double> sum = system.Bbar;
      if (system.has_input_memory()) sum += system.Bbar_previous;
      EXPECT_LE(relative_error(sum / scale, wanted), 1e-14);
      EXPECT_LE(relative_error(system.Abar, oracle.exponential), 1e-14);
    }
  }
}

// Entries of wildly different size, as in stiff systems, are no reason to call 1 - alpha dt A
// singular: the answer has all its digits.
TEST(Discretize, StiffIsNotSingular) {
  Matrix<double> A(2, 2);
  A << -1, 1e20, 0, -1e18;
  const Matrix<double> B = Matrix<double>::Ones(2, 1);
  DenseSystem<double> system;
  ASSERT_TRUE(discretize(Rule::backward_euler(), A, B, 1.0, system));
  EXPECT_NEAR(system.Abar(0, 0), 0.5, 1e-15);
  EXPECT_NEAR(system.Abar(1, 1) * 1e18, 1, 1e-15);
  EXPECT_NEAR(system.Abar(0, 1), 50, 1e-13);
}

TEST(Discretize, OutputMayHoldTheInputAndCAndDAreLeftAlone) {
  DenseSystem<double> system;
  system.Abar = -Matrix<double>::Identity(2, 2);
  system.Bbar = Matrix<double>::Ones(2, 1);
  system.C = Matrix<double>::Constant(1, 2, 3.0);
  system.D = Matrix<double>::Constant(1, 1, 4.0);
  ASSERT_TRUE(discretize(Rule::first_order_hold(), system.Abar, system.Bbar, 0.1, system));
  EXPECT_NEAR(system.Abar(1, 1), 0.9048374180359595, 1e-15);
  EXPECT_NEAR(system.Bbar(1, 0), 0.04837418035959578, 1e-15);
  ASSERT_TRUE(system.has_input_memory());
  // A rule without memory removes the second weight again.
  ASSERT_TRUE(discretize(Rule::bilinear(), system.Abar, system.Bbar, 0.1, system));
  EXPECT_FALSE(system.has_input_memory());
  EXPECT_EQ(system.C, (Matrix<double>::Constant(1, 2, 3.0)));
  EXPECT_EQ(system.D, (Matrix<double>::Constant(1, 1, 4.0)));
}

}  // namespace
