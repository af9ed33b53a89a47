// Laws of discretization in double: the fixed point of HiPPO-LegS, what tells the rules apart,
// stability, orders of convergence.

#include <gtest/gtest.h>

#include "instances.hpp"
#include "ssm/lti/discretize.hpp"
#include "ssm/lti/hippo.hpp"
#include "ssm/lti/recurrence.hpp"
#include "support.hpp"

namespace {

using lti_test::Matrix;
using lti_test::Vector;
using ssm::lti::DenseSystem;
using ssm::lti::DiagonalSystem;
using ssm::lti::discretize;
using ssm::lti::Rule;

// A e_0 = -B, so the input u = 1 has the fixed point e_0 under every rule whose weights come from
// the same function of A: Bbar = (1 - Abar) e_0.
TEST(Laws, LegsConstantInputHasFixedPoint) {
  for (const ssm::index_t N : {1, 2, 4, 17, 64}) {
    SCOPED_TRACE(N);
    Matrix<double> A, B;
    ASSERT_TRUE(ssm::lti::hippo(ssm::lti::Hippo::legs, N, A, B));
    for (const Rule& rule : {Rule::forward_euler(), Rule::backward_euler(), Rule::bilinear(),
                             Rule::zero_order_hold(), Rule::first_order_hold()}) {
      DenseSystem<double> system;
      ASSERT_TRUE(discretize(rule, A, B, 0.01, system));
      const Matrix<double> left =
          (Matrix<double>::Identity(A.rows(), A.rows()) - system.Abar).col(0);
      Matrix<double> weight = system.Bbar;
      if (system.has_input_memory()) weight += system.Bbar_previous;
      EXPECT_LE((weight - left).cwiseAbs().maxCoeff(), 1e-14);
    }
    // Mamba's weight is not one of them.
    DenseSystem<double> euler;
    ASSERT_TRUE(discretize(Rule::exponential_euler(), A, B, 0.01, euler));
    const Matrix<double> left = (Matrix<double>::Identity(A.rows(), A.rows()) - euler.Abar).col(0);
    EXPECT_GT((euler.Bbar - left).cwiseAbs().maxCoeff(), 1e-5);
  }
}

TEST(Laws, ForwardEulerIsNotZeroOrderHold) {
  const Matrix<double> A = Matrix<double>::Constant(1, 1, -1.0);
  const Matrix<double> B = Matrix<double>::Ones(1, 1);
  DenseSystem<double> euler, hold;
  ASSERT_TRUE(discretize(Rule::forward_euler(), A, B, 0.1, euler));
  ASSERT_TRUE(discretize(Rule::zero_order_hold(), A, B, 0.1, hold));
  EXPECT_GT(std::abs(euler.Abar(0, 0) - hold.Abar(0, 0)), 4.8e-3);
  EXPECT_GT(std::abs(euler.Bbar(0, 0) - hold.Bbar(0, 0)), 4.8e-3);
}

// Mamba's input weight over that of zero-order hold: s / (1 - e^-s), s = dt |A|.
TEST(Laws, InputWeightRatioOfEulerToHold) {
  const struct {
    double s, ratio, tolerance;
  } cases[] = {{1e-3, 1.0005, 1e-6}, {1, 1.58, 3e-3}, {16, 16, 1e-5}};
  for (const auto& c : cases) {
    const Vector<double> a = Vector<double>::Constant(1, -c.s);
    const Matrix<double> B = Matrix<double>::Ones(1, 1);
    DiagonalSystem<double> euler, hold;
    ASSERT_TRUE(discretize(Rule::exponential_euler(), a, B, 1.0, euler));
    ASSERT_TRUE(discretize(Rule::zero_order_hold(), a, B, 1.0, hold));
    const double ratio = euler.Bbar(0, 0) / hold.Bbar(0, 0);
    EXPECT_NEAR(ratio, c.ratio, c.tolerance);
    EXPECT_NEAR(ratio, c.s / -std::expm1(-c.s), 1e-14 * c.s + 1e-14);
  }
}

// Bilinear maps the left half plane onto the unit disc; forward Euler leaves it once dt > 2 / 64
// for LegS with N = 64.
TEST(Laws, StabilityOfBilinearAndForwardEuler) {
  Matrix<double> A, B;
  ASSERT_TRUE(ssm::lti::hippo(ssm::lti::Hippo::legs, 64, A, B));
  const auto radius = [&](const Rule& rule, double dt) {
    DenseSystem<double> system;
    EXPECT_TRUE(discretize(rule, A, B, dt, system));
    return system.Abar.diagonal().cwiseAbs().maxCoeff();  // triangular: its eigenvalues
  };
  EXPECT_LT(radius(Rule::bilinear(), 1e3), 1);
  EXPECT_LT(radius(Rule::forward_euler(), 1.99 / 64), 1);
  EXPECT_GT(radius(Rule::forward_euler(), 2.01 / 64), 1);
}

// h' = -1.3 h + sin 3t + cos(t) / 2, h(0) = 0, over T = 2: the error at the end, whose exact value
// comes from int_0^T e^(a (T-s)) e^(iws) ds = (e^(iwT) - e^(aT)) / (iw - a).
double error_at_end(const Rule& rule, int steps, bool average_input) {
  const double a = -1.3, T = 2;
  const auto response = [&](double w) {
    const std::complex<double> iw(0, w);
    return (std::exp(iw * T) - std::exp(a * T)) / (iw - a);
  };
  const double exact = response(3).imag() + response(1).real() / 2;
  const auto f = [](double t) { return std::sin(3 * t) + std::cos(t) / 2; };

  const double dt = T / steps;
  DenseSystem<double> system;
  EXPECT_TRUE(
      discretize(rule, Matrix<double>::Constant(1, 1, a), Matrix<double>::Ones(1, 1), dt, system));
  system.C = Matrix<double>::Ones(1, 1);
  Matrix<double> u(1, steps), y;
  for (int k = 0; k < steps; ++k) {
    const double now = f((k + 1) * dt), before = f(k * dt);
    u(0, k) = average_input ? (now + before) / 2 : now;
  }
  ssm::lti::State<double> state = ssm::lti::zero_state(system);
  state.u_previous(0) = f(0);
  EXPECT_TRUE(ssm::lti::run(system, u, state, y));
  return std::abs(y(0, steps - 1) - exact);
}

TEST(Laws, OrderOfConvergence) {
  const struct {
    const char* name;
    Rule rule;
    bool average_input;
    double error200, error400;
  } cases[] = {
      {"exponential Euler", Rule::exponential_euler(), false, 2.61e-3, 1.31e-3},
      {"exponential-trapezoidal", Rule::exponential_trapezoidal(0.5), false, 1.27e-5, 3.17e-6},
      {"first-order hold", Rule::first_order_hold(), false, 2.08e-5, 5.19e-6},
      {"bilinear, averaged input", Rule::bilinear(), true, 1.80e-5, 4.51e-6},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    EXPECT_NEAR(error_at_end(c.rule, 200, c.average_input) / c.error200, 1, 5e-3);
    EXPECT_NEAR(error_at_end(c.rule, 400, c.average_input) / c.error400, 1, 5e-3);
    const bool second_order = c.error200 > 3 * c.error400;
    const double slope = std::log2(error_at_end(c.rule, 800, c.average_input) /
                                   error_at_end(c.rule, 1600, c.average_input));
    EXPECT_NEAR(slope, second_order ? 2 : 1, 0.02);
  }
  // With u_k alone only Abar of the bilinear rule is second order.
  const double slope = std::log2(error_at_end(Rule::bilinear(), 800, false) /
                                 error_at_end(Rule::bilinear(), 1600, false));
  EXPECT_NEAR(slope, 1, 0.02);
}

}  // namespace
