// Bad input: the Status names the operation, the argument, the value and what is allowed, and
// nothing has been written.

#include <gtest/gtest.h>

#include <functional>
#include <string>

#include "instances.hpp"
#include "ssm/lti/convolution.hpp"
#include "ssm/lti/hippo.hpp"
#include "ssm/lti/recurrence.hpp"
#include "support.hpp"

namespace {

using lti_test::Matrix;
using lti_test::Vector;
using ssm::ErrorCode;
using ssm::Status;
using ssm::lti::ConvolutionMethod;
using ssm::lti::DenseSystem;
using ssm::lti::DiagonalSystem;
using ssm::lti::discretize;
using ssm::lti::KernelMethod;
using ssm::lti::Rule;
using ssm::lti::State;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

Matrix<double> ones(Eigen::Index rows, Eigen::Index cols) {
  return Matrix<double>::Ones(rows, cols);
}

void expect_error(const Status& status, ErrorCode code, const std::string& message) {
  EXPECT_EQ(status.code(), code);
  EXPECT_EQ(std::string(status.message().text), message);
}

DenseSystem<double> marked_dense() {
  return {7 * ones(1, 1), 8 * ones(1, 1), 9 * ones(1, 1), ones(1, 1), {}};
}

void expect_dense(const Rule& rule, const Matrix<double>& A, const Matrix<double>& B, double dt,
                  ErrorCode code, const std::string& message) {
  DenseSystem<double> system = marked_dense();
  expect_error(discretize(rule, A, B, dt, system), code, "discretize: " + message);
  EXPECT_EQ(system.Abar, 7 * ones(1, 1));
  EXPECT_EQ(system.Bbar, 8 * ones(1, 1));
  EXPECT_EQ(system.Bbar_previous, 9 * ones(1, 1));
}

void expect_diagonal(const Rule& rule, const Vector<double>& A, const Matrix<double>& B, double dt,
                     ErrorCode code, const std::string& message) {
  DiagonalSystem<double> system;
  system.Abar.diagonal() = 7 * ones(1, 1);
  system.Bbar = 8 * ones(1, 1);
  expect_error(discretize(rule, A, B, dt, system), code, "discretize: " + message);
  EXPECT_EQ(system.Abar.diagonal(), 7 * ones(1, 1));
  EXPECT_EQ(system.Bbar, 8 * ones(1, 1));
}

TEST(BadDiscretization, Shapes) {
  const Rule rule = Rule::zero_order_hold();
  expect_dense(rule, ones(2, 3), ones(2, 1), 1, ErrorCode::shape_mismatch,
               "A.cols() is 3, must equal 2");
  expect_dense(rule, ones(0, 0), ones(0, 1), 1, ErrorCode::invalid_argument,
               "A.rows() is 0, must be at least 1");
  expect_dense(rule, ones(2, 2), ones(3, 1), 1, ErrorCode::shape_mismatch,
               "B.rows() is 3, must equal 2");
  expect_dense(rule, ones(2, 2), ones(2, 0), 1, ErrorCode::invalid_argument,
               "B.cols() is 0, must be at least 1");
  expect_diagonal(rule, ones(0, 1), ones(0, 1), 1, ErrorCode::invalid_argument,
                  "A.size() is 0, must be at least 1");
  expect_diagonal(rule, ones(2, 1), ones(3, 1), 1, ErrorCode::shape_mismatch,
                  "B.rows() is 3, must equal 2");
}

TEST(BadDiscretization, StepAndParameters) {
  const struct {
    double dt;
    const char* message;
  } steps[] = {{0, "dt is 0, must be greater than 0"},
               {-0.5, "dt is -0.5, must be greater than 0"},
               {kNan, "dt is nan, must be greater than 0"},
               {kInf, "dt is inf, must be at most 1.7976931348623157e+308"}};
  for (const auto& c : steps) {
    expect_dense(Rule::bilinear(), ones(1, 1), ones(1, 1), c.dt, ErrorCode::invalid_argument,
                 c.message);
    expect_diagonal(Rule::exponential_euler(), ones(1, 1), ones(1, 1), c.dt,
                    ErrorCode::invalid_argument, c.message);
  }
  expect_dense(Rule::generalized_bilinear(-0.25), ones(1, 1), ones(1, 1), 1,
               ErrorCode::invalid_argument, "rule.alpha is -0.25, must be at least 0");
  expect_dense(Rule::generalized_bilinear(1.5), ones(1, 1), ones(1, 1), 1,
               ErrorCode::invalid_argument, "rule.alpha is 1.5, must be at most 1");
  expect_dense(Rule::generalized_bilinear(kNan), ones(1, 1), ones(1, 1), 1,
               ErrorCode::invalid_argument, "rule.alpha is nan, must be at least 0");
  expect_diagonal(Rule::exponential_trapezoidal(2), ones(1, 1), ones(1, 1), 1,
                  ErrorCode::invalid_argument, "rule.lambda is 2, must be at most 1");
}

TEST(BadDiscretization, SingularSystems) {
  const char* const message = "A must not make 1 - alpha dt A singular to working precision";
  // Eigenvalue 1 / (alpha dt), exactly and with a pivot that is nothing but rounding.
  expect_dense(Rule::backward_euler(), ones(1, 1), ones(1, 1), 1, ErrorCode::invalid_argument,
               message);
  Matrix<double> A(2, 2);
  A << 0.1, 0.7, 0.7, 0.1;  // eigenvalues 0.8, -0.6
  expect_dense(Rule::bilinear(), A, ones(2, 1), 2 / 0.8, ErrorCode::invalid_argument, message);
  Matrix<double> rotated(3, 3);
  rotated << 0.3, 0.1, 0.1, 0.1, 0.3, 0.1, 0.1, 0.1, 0.3;  // 0.5 at (1, 1, 1)
  expect_dense(Rule::backward_euler(), rotated, ones(3, 1), 2, ErrorCode::invalid_argument,
               message);
  Vector<double> a(3);
  a << -1, 0.7, -2;
  expect_diagonal(Rule::backward_euler(), a, ones(3, 1), 1 / 0.7, ErrorCode::invalid_argument,
                  message);
  // The rules that do not solve take the same A.
  DenseSystem<double> system;
  EXPECT_TRUE(discretize(Rule::forward_euler(), A, ones(2, 1), 2 / 0.8, system));
  EXPECT_TRUE(discretize(Rule::zero_order_hold(), A, ones(2, 1), 2 / 0.8, system));
}

TEST(BadHippo, StatesRulesAndShapes) {
  Matrix<double> A = 7 * ones(1, 1), B = 8 * ones(1, 1);
  expect_error(ssm::lti::hippo(ssm::lti::Hippo::legs, 0, A, B), ErrorCode::invalid_argument,
               "hippo: states is 0, must be at least 1");
  const ssm::index_t huge = ssm::index_t{1} << 40;
  EXPECT_EQ(ssm::lti::hippo(ssm::lti::Hippo::lagt, huge, A, B).code(), ErrorCode::invalid_argument);
  EXPECT_EQ(A, 7 * ones(1, 1));
  EXPECT_EQ(B, 8 * ones(1, 1));

  ASSERT_TRUE(ssm::lti::hippo(ssm::lti::Hippo::legs, 3, A, B));
  Matrix<double> c = 5 * ones(3, 2);
  const auto step = [&](const Rule& rule, ssm::index_t k, Eigen::Index channels) {
    return ssm::lti::hippo_legs_step<double>(rule, A, B, k, Vector<double>::Ones(channels), c);
  };
  expect_error(step(Rule::bilinear(), 0, 2), ErrorCode::invalid_argument,
               "hippo_legs_step: k is 0, must be at least 1");
  expect_error(step(Rule::bilinear(), 1, 3), ErrorCode::shape_mismatch,
               "hippo_legs_step: c.cols() is 2, must equal 3");
  EXPECT_EQ(step(Rule::first_order_hold(), 1, 2).code(), ErrorCode::unsupported);
  EXPECT_EQ(c, 5 * ones(3, 2));
  c = ones(4, 2);
  expect_error(step(Rule::bilinear(), 1, 2), ErrorCode::shape_mismatch,
               "hippo_legs_step: c.rows() is 4, must equal 3");
}

// 3 states, 2 inputs, 1 output; each case breaks one thing.
struct Fixture {
  DenseSystem<double> system{0.5 * ones(3, 3), ones(3, 2), ones(3, 2), ones(1, 3), ones(1, 2)};
  State<double> state{ones(3, 1), ones(2, 1)};
  Matrix<double> u = ones(2, 4);
};

TEST(BadSystem, EverySizeIsCheckedByEveryMode) {
  const struct {
    std::function<void(Fixture&)> spoil;
    ErrorCode code;
    const char* message;
    bool system_alone;  // kernel() and initial_response() see it too
  } cases[] = {
      {[](Fixture& f) { f.system.Abar = ones(3, 2); }, ErrorCode::shape_mismatch,
       "Abar.cols() is 2, must equal 3", true},
      {[](Fixture& f) { f.system.Abar = ones(0, 0); }, ErrorCode::invalid_argument,
       "Abar.rows() is 0, must be at least 1", true},
      {[](Fixture& f) { f.system.Bbar = ones(2, 2); }, ErrorCode::shape_mismatch,
       "Bbar.rows() is 2, must equal 3", true},
      {[](Fixture& f) { f.system.Bbar = ones(3, 0); }, ErrorCode::invalid_argument,
       "Bbar.cols() is 0, must be at least 1", true},
      {[](Fixture& f) { f.system.Bbar_previous = ones(3, 1); }, ErrorCode::shape_mismatch,
       "Bbar_previous.cols() is 1, must equal 2", true},
      {[](Fixture& f) { f.system.Bbar_previous = ones(1, 2); }, ErrorCode::shape_mismatch,
       "Bbar_previous.rows() is 1, must equal 3", true},
      {[](Fixture& f) { f.system.C = ones(1, 4); }, ErrorCode::shape_mismatch,
       "C.cols() is 4, must equal 3", true},
      {[](Fixture& f) { f.system.D = ones(2, 2); }, ErrorCode::shape_mismatch,
       "D.rows() is 2, must equal 1", true},
      {[](Fixture& f) { f.system.D = ones(1, 1); }, ErrorCode::shape_mismatch,
       "D.cols() is 1, must equal 2", true},
      {[](Fixture& f) { f.state.x = ones(2, 1); }, ErrorCode::shape_mismatch,
       "state.x.size() is 2, must equal 3", false},
      {[](Fixture& f) { f.state.u_previous = ones(3, 1); }, ErrorCode::shape_mismatch,
       "state.u_previous.size() is 3, must equal 2", false},
      {[](Fixture& f) { f.u = ones(3, 4); }, ErrorCode::shape_mismatch,
       "u.rows() is 3, must equal 2", false},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.message);
    Fixture f;
    c.spoil(f);
    const State<double> before = f.state;
    Matrix<double> y = 7 * ones(1, 1);
    expect_error(ssm::lti::run(f.system, f.u, f.state, y), c.code,
                 std::string("run: ") + c.message);
    EXPECT_EQ(f.state.x, before.x);
    EXPECT_EQ(f.state.u_previous, before.u_previous);
    expect_error(ssm::lti::run_by_convolution(KernelMethod::doubling, ConvolutionMethod::fft,
                                              f.system, f.u, f.state, y),
                 c.code, std::string("run_by_convolution: ") + c.message);
    if (c.system_alone) {
      expect_error(ssm::lti::kernel(KernelMethod::powers, f.system, 4, y), c.code,
                   std::string("kernel: ") + c.message);
      expect_error(ssm::lti::initial_response(KernelMethod::powers, f.system, f.state, 4, y),
                   c.code, std::string("initial_response: ") + c.message);
    }
    EXPECT_EQ(y, 7 * ones(1, 1));
  }
}

TEST(BadSystem, LengthsAndTaps) {
  Fixture f;
  Matrix<double> y = 7 * ones(1, 1);
  expect_error(ssm::lti::kernel(KernelMethod::powers, f.system, -1, y), ErrorCode::invalid_argument,
               "kernel: length is -1, must be at least 0");
  const ssm::index_t huge = ssm::index_t{1} << 60;
  EXPECT_EQ(ssm::lti::kernel(KernelMethod::powers, f.system, huge, y).code(),
            ErrorCode::invalid_argument);
  EXPECT_EQ(ssm::lti::initial_response(KernelMethod::doubling, f.system, f.state, huge, y).code(),
            ErrorCode::invalid_argument);
  expect_error(ssm::lti::convolve(ConvolutionMethod::fft, ones(1, 5), f.u, y),
               ErrorCode::shape_mismatch, "convolve: u.rows() is 2, must divide 5");
  expect_error(ssm::lti::convolve(ConvolutionMethod::fft, ones(1, 5), ones(0, 3), y),
               ErrorCode::invalid_argument, "convolve: u.rows() is 0, must be at least 1");
  EXPECT_EQ(y, 7 * ones(1, 1));
}

TEST(BadSystem, StepTakesOneInputVector) {
  Fixture f;
  Vector<double> y = Vector<double>::Constant(1, 7);
  expect_error(ssm::lti::step(f.system, Vector<double>::Ones(3), f.state, y),
               ErrorCode::shape_mismatch, "step: u.rows() is 3, must equal 2");
  EXPECT_EQ(y(0), 7);
  EXPECT_EQ(f.state.x, ones(3, 1));
}

}  // namespace
