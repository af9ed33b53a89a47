// Laws of discretization in every scalar type: dense against diagonal, an independent exponential,
// the semigroup.

#include <gtest/gtest.h>

#include "instances.hpp"
#include "ssm/lti/discretize.hpp"
#include "support.hpp"

namespace {

using lti_test::Matrix;
using lti_test::Oracle;
using lti_test::product;
using lti_test::Random;
using lti_test::relative_error;
using lti_test::Vector;
using lti_test::Wide;
using lti_test::wide;
using lti_test::WideMatrix;
using ssm::is_complex_v;
using ssm::real_t;
using ssm::lti::DenseSystem;
using ssm::lti::DiagonalSystem;
using ssm::lti::discretize;
using ssm::lti::Rule;

const Rule kRules[] = {
    Rule::forward_euler(),     Rule::backward_euler(),
    Rule::bilinear(),          Rule::generalized_bilinear(0.7),
    Rule::zero_order_hold(),   Rule::first_order_hold(),
    Rule::exponential_euler(), Rule::exponential_trapezoidal(0.4),
};

template <class T>
class DiscretizeLaws : public ::testing::Test {
 public:
  static constexpr bool kFloat = std::is_same<real_t<T>, float>::value;
};
using Scalars = ::testing::Types<float, double, std::complex<float>, std::complex<double>>;
TYPED_TEST_SUITE(DiscretizeLaws, Scalars);

// The augmented exponential of a diagonal matrix against the scalar phi functions: relative to the
// largest entry, which is Abar(0) = 1.
TYPED_TEST(DiscretizeLaws, DenseEqualsDiagonal) {
  using T = TypeParam;
  using Real = real_t<T>;
  Vector<T> a(12);
  a << T(-16), T(-8), T(-3), T(-1), T(Real(-0.5)), T(Real(-0.1)), T(Real(-1e-2)), T(Real(-1e-3)),
      T(Real(-1e-4)), T(Real(-1e-6)), T(Real(-1e-12)), T(0);
  if constexpr (is_complex_v<T>) {
    for (int n = 0; n < 12; ++n) a(n) += T(0, Real(0.3) * static_cast<Real>(n));
  }
  const Matrix<T> A = a.asDiagonal();
  const Matrix<T> B = Matrix<T>::Ones(12, 2);
  const double tolerance = this->kFloat ? 3e-7 : 1e-14;
  for (const Rule& rule : kRules) {
    SCOPED_TRACE(static_cast<int>(rule.kind()));
    DenseSystem<T> dense;
    DiagonalSystem<T> diagonal;
    ASSERT_TRUE(discretize(rule, A, B, Real(1), dense));
    ASSERT_TRUE(discretize(rule, a, B, Real(1), diagonal));
    const Matrix<T> Abar = diagonal.Abar;
    EXPECT_LE(relative_error(dense.Abar, Abar), tolerance);
    EXPECT_LE(relative_error(dense.Bbar, diagonal.Bbar), tolerance);
    ASSERT_EQ(dense.has_input_memory(), diagonal.has_input_memory());
    EXPECT_LE(relative_error(dense.Bbar_previous, diagonal.Bbar_previous), tolerance);
  }
}

// One state at a time, where nothing else sets the scale.
TYPED_TEST(DiscretizeLaws, ZeroOrderHoldOfEachSmallState) {
  using T = TypeParam;
  using Real = real_t<T>;
  const double tolerance = this->kFloat ? 3e-7 : 1e-14;
  for (const double x :
       {-16.0, -4.0, -1.0, -1e-1, -1e-2, -1e-3, -1e-4, -1e-6, -1e-9, -1e-12, 0.0}) {
    SCOPED_TRACE(x);
    const Matrix<T> A = Matrix<T>::Constant(1, 1, T(static_cast<Real>(x)));
    const Matrix<T> B = Matrix<T>::Ones(1, 1);
    DenseSystem<T> dense;
    DiagonalSystem<T> diagonal;
    ASSERT_TRUE(discretize(Rule::zero_order_hold(), A, B, Real(1), dense));
    ASSERT_TRUE(discretize(Rule::zero_order_hold(), A.col(0), B, Real(1), diagonal));
    const Oracle oracle(wide(A));
    EXPECT_LE(relative_error(diagonal.Bbar, oracle.phi1), tolerance);
    EXPECT_LE(relative_error(dense.Bbar, oracle.phi1), tolerance);
    EXPECT_LE(relative_error(dense.Abar, oracle.exponential), tolerance);
  }
}

TYPED_TEST(DiscretizeLaws, HoldsOfRandomMatricesAgreeWithTheOracle) {
  using T = TypeParam;
  using Real = real_t<T>;
  const double tolerance = this->kFloat ? 3e-7 : 1e-13;
  Random random(11);
  for (const Eigen::Index n : {1, 2, 3, 7, 12}) {
    for (const double dt : {1e-3, 0.25, 2.0}) {
      SCOPED_TRACE(::testing::Message() << "seed 11, N = " << n << ", dt = " << dt);
      const Matrix<T> A = lti_test::stable_matrix<T>(random, n);
      const Matrix<T> B = random.matrix<T>(n, 3);
      const Real step = static_cast<Real>(dt);
      const Wide wide_step(step);
      const WideMatrix X = wide_step * wide(A);
      const WideMatrix W = wide_step * wide(B);
      const Oracle oracle(X);
      DenseSystem<T> system;
      ASSERT_TRUE(discretize(Rule::first_order_hold(), A, B, step, system));
      EXPECT_LE(relative_error(system.Abar, oracle.exponential), tolerance);
      EXPECT_LE(relative_error(system.Bbar, product(oracle.phi2, W)), tolerance);
      EXPECT_LE(relative_error(system.Bbar_previous, product(oracle.phi1 - oracle.phi2, W)),
                tolerance);
      ASSERT_TRUE(discretize(Rule::zero_order_hold(), A, B, step, system));
      EXPECT_LE(relative_error(system.Bbar, product(oracle.phi1, W)), tolerance);
      ASSERT_TRUE(discretize(Rule::exponential_trapezoidal(0.25), A, B, step, system));
      EXPECT_LE(relative_error(system.Abar, oracle.exponential), tolerance);
      EXPECT_LE(relative_error(system.Bbar_previous, product(Wide(0.75L) * oracle.exponential, W)),
                tolerance);
    }
  }
}

// (1 - aX) Abar = 1 + (1-a) X and (1 - aX) Bbar = dt B.
TYPED_TEST(DiscretizeLaws, BilinearSolvesItsEquation) {
  using T = TypeParam;
  using Real = real_t<T>;
  Random random(12);
  const double tolerance = this->kFloat ? 1e-6 : 1e-14;
  const Matrix<T> A = lti_test::stable_matrix<T>(random, 6);
  const Matrix<T> B = random.matrix<T>(6, 2);
  const WideMatrix one = WideMatrix::Identity(6, 6);
  for (const double alpha : {0.0, 0.25, 0.5, 1.0}) {
    SCOPED_TRACE(alpha);
    const Wide a(alpha);
    DenseSystem<T> system;
    ASSERT_TRUE(discretize(Rule::generalized_bilinear(alpha), A, B, Real(0.5), system));
    const WideMatrix X = Wide(0.5L) * wide(A);
    EXPECT_LE(relative_error(product(one - a * X, wide(system.Abar)), one + (Wide(1) - a) * X),
              tolerance);
    EXPECT_LE(relative_error(product(one - a * X, wide(system.Bbar)), Wide(0.5L) * wide(B)),
              tolerance);
  }
}

TYPED_TEST(DiscretizeLaws, ZeroOrderHoldIsASemigroup) {
  using T = TypeParam;
  using Real = real_t<T>;
  Random random(13);
  const double tolerance = this->kFloat ? 1e-5 : 1e-13;
  const Matrix<T> A = lti_test::stable_matrix<T>(random, 8);
  const Matrix<T> B = random.matrix<T>(8, 2);
  const Real dt1 = Real(0.3125), dt2 = Real(0.75);  // exact sum
  DenseSystem<T> first, second, both;
  ASSERT_TRUE(discretize(Rule::zero_order_hold(), A, B, dt1, first));
  ASSERT_TRUE(discretize(Rule::zero_order_hold(), A, B, dt2, second));
  ASSERT_TRUE(discretize(Rule::zero_order_hold(), A, B, dt1 + dt2, both));
  EXPECT_LE(relative_error(product(wide(first.Abar), wide(second.Abar)), wide(both.Abar)),
            tolerance);
  EXPECT_LE(relative_error(product(wide(second.Abar), wide(first.Bbar)) + wide(second.Bbar),
                           wide(both.Bbar)),
            tolerance);
  const Vector<T> a = lti_test::stable_diagonal<T>(random, 8);
  DiagonalSystem<T> d1, d2, d;
  ASSERT_TRUE(discretize(Rule::zero_order_hold(), a, B, dt1, d1));
  ASSERT_TRUE(discretize(Rule::zero_order_hold(), a, B, dt2, d2));
  ASSERT_TRUE(discretize(Rule::zero_order_hold(), a, B, dt1 + dt2, d));
  EXPECT_LE(relative_error(d2.Abar * d1.Bbar + d2.Bbar, d.Bbar), tolerance);
}

}  // namespace
