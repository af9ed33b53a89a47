// HiPPO matrices: golden entries, eigenvalues, the low-rank corrections that leave a skew matrix,
// and the LegS memory.

#include "ssm/lti/hippo.hpp"

#include <gtest/gtest.h>

#include "instances.hpp"
#include "support.hpp"

namespace {

using lti_test::Matrix;
using lti_test::Random;
using lti_test::relative_error;
using lti_test::Vector;
using ssm::index_t;
using ssm::lti::Hippo;
using ssm::lti::hippo;
using ssm::lti::hippo_legs_step;
using ssm::lti::Rule;

template <class Scalar>
void expect_golden(double tolerance) {
  Matrix<double> legs(4, 4), legt_row(1, 4), lagt(4, 4), root(4, 1);
  legs << -1, 0, 0, 0, -1.7320508075688772, -2, 0, 0, -2.23606797749979, -3.872983346207417, -3, 0,
      -2.6457513110645907, -4.58257569495584, -5.916079783099616, -4;
  legt_row << -.5, .8660254037844386, -1.118033988749895, 1.3228756555322954;
  lagt << -.5, 0, 0, 0, -1, -.5, 0, 0, -1, -1, -.5, 0, -1, -1, -1, -.5;
  root << 1, 1.7320508075688772, 2.23606797749979, 2.6457513110645907;
  Matrix<Scalar> A, B;
  ASSERT_TRUE(hippo(Hippo::legs, 4, A, B));
  EXPECT_LE(relative_error(A, legs), tolerance);
  EXPECT_LE(relative_error(B, root), tolerance);
  ASSERT_TRUE(hippo(Hippo::legt, 4, A, B));
  EXPECT_LE(relative_error(A.row(0), legt_row), tolerance);
  EXPECT_LE(relative_error(B, 0.5 * root), tolerance);
  ASSERT_TRUE(hippo(Hippo::lagt, 4, A, B));
  EXPECT_EQ(relative_error(A, lagt), 0);
  EXPECT_EQ(relative_error(B, Matrix<double>::Ones(4, 1)), 0);
}

TEST(Hippo, GoldenEntries) {
  expect_golden<float>(1e-7);
  expect_golden<double>(1e-15);
  expect_golden<long double>(1e-15);
  expect_golden<std::complex<double>>(1e-15);
}

TEST(Hippo, LegsIsTriangularWithEigenvaluesMinusOneToMinusN) {
  Matrix<double> A, B;
  ASSERT_TRUE(hippo(Hippo::legs, 64, A, B));
  for (int n = 0; n < 64; ++n) {
    EXPECT_EQ(A(n, n), -(n + 1));
    for (int k = n + 1; k < 64; ++k) EXPECT_EQ(A(n, k), 0);
  }
  EXPECT_LE((A.col(0) + B).cwiseAbs().maxCoeff(), 1e-14);
}

// The power sums of the eigenvalues are the traces of the powers, and four of them determine four
// eigenvalues.
TEST(Hippo, LegtEigenvalues) {
  Matrix<double> A, B;
  ASSERT_TRUE(hippo(Hippo::legt, 4, A, B));
  const std::complex<double> golden[] = {{-2.393596551564231, 0.7837382084476082},
                                         {-1.6064034484357688, 2.3865437166383208}};
  Matrix<double> power = A;
  for (int k = 1; k <= 4; ++k) {
    const double sum = 2 * (std::pow(golden[0], k) + std::pow(golden[1], k)).real();
    EXPECT_NEAR(power.trace(), sum, 1e-12) << k;
    power = (power * A).eval();
  }
}

TEST(Hippo, LagtIsDefective) {  // (A + 1/2)^(N-1) != 0 = (A + 1/2)^N
  Matrix<double> A, B;
  ASSERT_TRUE(hippo(Hippo::lagt, 3, A, B));
  const Matrix<double> M = A + 0.5 * Matrix<double>::Identity(3, 3);
  EXPECT_NE((M * M).norm(), 0);
  EXPECT_EQ((M * M * M).norm(), 0);
}

// S = A + P P^T is skew up to a multiple of one.
TEST(Hippo, LowRankCorrectionLeavesASkewMatrix) {
  for (const index_t N : {1, 2, 3, 8, 33, 64}) {
    SCOPED_TRACE(N);
    Matrix<double> A, B;
    const auto symmetric_part = [&A](const Matrix<double>& P) -> Matrix<double> {
      const Matrix<double> S = A + P * P.transpose();
      return (S + S.transpose()) / A.cwiseAbs().maxCoeff();
    };
    ASSERT_TRUE(hippo(Hippo::legs, N, A, B));
    const Eigen::Index n = A.rows();
    Matrix<double> P(n, 1);
    for (Eigen::Index i = 0; i < n; ++i) P(i, 0) = std::sqrt(static_cast<double>(i) + 0.5);
    const Matrix<double> one = Matrix<double>::Identity(n, n) / A.cwiseAbs().maxCoeff();
    EXPECT_LE((symmetric_part(P) + one).cwiseAbs().maxCoeff(), 1e-14);

    ASSERT_TRUE(hippo(Hippo::legt, N, A, B));
    Matrix<double> even_odd = Matrix<double>::Zero(n, 2);
    for (Eigen::Index i = 0; i < n; ++i) even_odd(i, i % 2) = P(i, 0);
    EXPECT_LE(symmetric_part(even_odd).cwiseAbs().maxCoeff(), 1e-14);

    ASSERT_TRUE(hippo(Hippo::lagt, N, A, B));
    P.setConstant(std::sqrt(0.5));
    EXPECT_LE(symmetric_part(P).cwiseAbs().maxCoeff(), 1e-14);
  }
}

const Rule kMemoryless[] = {Rule::forward_euler(), Rule::backward_euler(), Rule::bilinear(),
                            Rule::generalized_bilinear(0.75), Rule::zero_order_hold()};

TEST(HippoLegsMemory, ConstantInputIsItsOwnFirstCoefficient) {
  Matrix<double> A, B;
  ASSERT_TRUE(hippo(Hippo::legs, 6, A, B));
  Vector<double> f(2);
  f << 1.5, -3;
  for (const Rule& rule : kMemoryless) {
    Matrix<double> c = Matrix<double>::Zero(6, 2);
    c.row(0) = f.transpose();
    const Matrix<double> fixed_point = c;
    for (index_t k = 1; k <= 50; ++k) ASSERT_TRUE(hippo_legs_step<double>(rule, A, B, k, f, c));
    EXPECT_LE(relative_error(c, fixed_point), 1e-12);
  }
  // From nothing, zero-order hold approaches it as e^(A ln T): the first coefficient as 1 / T.
  Matrix<double> c = Matrix<double>::Zero(6, 2);
  for (index_t k = 1; k < 50; ++k) {
    ASSERT_TRUE(hippo_legs_step<double>(Rule::zero_order_hold(), A, B, k, f, c));
  }
  EXPECT_NEAR(c(0, 0), 1.5 * (1 - 1.0 / 50), 1e-13);
}

// f = s has the coefficients (t/2, t/(2 sqrt 3), 0, …).
TEST(HippoLegsMemory, RampHasTwoCoefficients) {
  Matrix<double> A, B;
  ASSERT_TRUE(hippo(Hippo::legs, 4, A, B));
  for (const Rule& rule : {Rule::bilinear(), Rule::zero_order_hold()}) {
    Matrix<double> c = Matrix<double>::Zero(4, 1);
    const index_t steps = 2000;
    for (index_t k = 1; k <= steps; ++k) {
      const Vector<double> f = Vector<double>::Constant(1, static_cast<double>(k));
      ASSERT_TRUE(hippo_legs_step<double>(rule, A, B, k, f, c));
    }
    const double t = static_cast<double>(steps);
    EXPECT_NEAR(c(0, 0) / t, 0.5, 2 / t);
    EXPECT_NEAR(c(1, 0) / t, 0.5 / std::sqrt(3.0), 2 / t);
    EXPECT_NEAR(c(2, 0) / t, 0, 2 / t);
    EXPECT_NEAR(c(3, 0) / t, 0, 2 / t);
  }
}

// The whole past whatever its time scale: the memory of f(k / 3) at 3 T is near that of f(k) at T.
TEST(HippoLegsMemory, IsInvariantToTheTimeScale) {
  Matrix<double> A, B;
  ASSERT_TRUE(hippo(Hippo::legs, 5, A, B));
  const auto memory = [&](index_t steps) {
    Matrix<double> c = Matrix<double>::Zero(5, 1);
    for (index_t k = 1; k <= steps; ++k) {
      const double s = static_cast<double>(k) / static_cast<double>(steps);
      const Vector<double> f = Vector<double>::Constant(1, std::sin(4 * s));
      EXPECT_TRUE(hippo_legs_step<double>(Rule::bilinear(), A, B, k, f, c));
    }
    return c;
  };
  EXPECT_LE(relative_error(memory(600), memory(1800)), 5e-3);
}

}  // namespace
