// The convolutional mode in double: golden kernels, long sequences, length zero, impulses.

#include "ssm/lti/convolution.hpp"

#include <gtest/gtest.h>

#include "instances.hpp"
#include "ssm/lti/hippo.hpp"
#include "ssm/lti/recurrence.hpp"
#include "support.hpp"

namespace {

using lti_test::Matrix;
using lti_test::Random;
using lti_test::relative_error;
using lti_test::Vector;
using ssm::real_t;
using ssm::lti::ConvolutionMethod;
using ssm::lti::convolve;
using ssm::lti::DenseSystem;
using ssm::lti::DiagonalSystem;
using ssm::lti::discretize;
using ssm::lti::kernel;
using ssm::lti::KernelMethod;
using ssm::lti::Rule;
using ssm::lti::State;

constexpr KernelMethod kKernels[] = {KernelMethod::powers, KernelMethod::doubling};
constexpr ConvolutionMethod kConvolutions[] = {ConvolutionMethod::direct, ConvolutionMethod::fft};

TEST(Kernel, LegsGolden) {
  Matrix<double> A, B;
  ASSERT_TRUE(ssm::lti::hippo(ssm::lti::Hippo::legs, 4, A, B));
  const struct {
    Rule rule;
    double K[4];
  } cases[] = {{Rule::bilinear(), {.63628689, .18974561, .01523162, -.0336324}},
               {Rule::zero_order_hold(), {.6065972, .1909692, .02498934, -.02405643}}};
  for (const auto& c : cases) {
    for (const KernelMethod method : kKernels) {
      DenseSystem<double> system;
      ASSERT_TRUE(discretize(c.rule, A, B, 0.125, system));
      system.C = Matrix<double>::Ones(1, 4);
      Matrix<double> K;
      ASSERT_TRUE(kernel(method, system, 4, K));
      ASSERT_EQ(K.cols(), 4);
      for (int l = 0; l < 4; ++l) EXPECT_NEAR(K(0, l), c.K[l], 5.1e-9);  // 8 decimals
    }
  }
}

// S4D-Lin, two modes of conjugate pairs, B = C = 1, dt = 0.1.
TEST(Kernel, DiagonalConjugatePairsGolden) {
  using Complex = std::complex<double>;
  const double pi = 3.14159265358979323846;
  Vector<Complex> a(2);
  a << Complex(-0.5, 0), Complex(-0.5, pi);
  DiagonalSystem<Complex> system;
  ASSERT_TRUE(discretize(Rule::zero_order_hold(), a, Matrix<Complex>::Ones(2, 1), 0.1, system));
  system.C = Matrix<Complex>::Ones(1, 2);
  const double golden[] = {.38701121, .35034119, .30098495, .24402016};
  for (const KernelMethod method : kKernels) {
    Matrix<Complex> K;
    ASSERT_TRUE(kernel(method, system, 4, K));
    for (int l = 0; l < 4; ++l) EXPECT_NEAR(2 * K(0, l).real(), golden[l], 5.1e-9);
  }
}

// Against the recurrence in the next wider type, so that only the convolution's errors count.
template <class Real, class Wider>
double long_convolution_error(Eigen::Index length) {
  DiagonalSystem<Real> system;
  system.Abar.diagonal() = Vector<Real>::LinSpaced(8, Real(0.9), Real(0.9999));
  system.Bbar = Matrix<Real>::Ones(8, 1);
  system.C = Matrix<Real>::Ones(1, 8);
  const DiagonalSystem<Wider> wider{
      ssm::lti::Diagonal<Wider>(system.Abar.diagonal().template cast<Wider>()),
      system.Bbar.template cast<Wider>(),
      {},
      system.C.template cast<Wider>(),
      {}};
  const Matrix<Real> u = Random(34).matrix<Real>(1, length);
  State<Wider> state = ssm::lti::zero_state(wider);
  Matrix<Wider> recurrent;
  Matrix<Real> y;
  EXPECT_TRUE(ssm::lti::run(wider, u.template cast<Wider>(), state, recurrent));
  EXPECT_TRUE(ssm::lti::run_by_convolution(KernelMethod::doubling, ConvolutionMethod::fft, system,
                                           u, ssm::lti::zero_state(system), y));
  return relative_error(y, recurrent);
}

TEST(ConvolutionLong, FftOfManyStepsIsAccurate) {
  EXPECT_LE((long_convolution_error<float, double>(50001)), 1e-6);
  EXPECT_LE((long_convolution_error<double, long double>(50001)), 1e-12);
}

TEST(ConvolutionEdges, LengthZero) {
  Random random(35);
  DenseSystem<double> system{random.matrix<double>(2, 2),
                             random.matrix<double>(2, 3),
                             random.matrix<double>(2, 3),
                             random.matrix<double>(4, 2),
                             {}};
  for (const KernelMethod kernel_method : kKernels) {
    Matrix<double> K = Matrix<double>::Ones(1, 1);
    ASSERT_TRUE(kernel(kernel_method, system, 0, K));
    EXPECT_EQ(K.rows(), 4);
    EXPECT_EQ(K.cols(), 0);
    for (const ConvolutionMethod convolution_method : kConvolutions) {
      Matrix<double> y = Matrix<double>::Ones(1, 1);
      ASSERT_TRUE(ssm::lti::run_by_convolution(kernel_method, convolution_method, system,
                                               Matrix<double>(3, 0), ssm::lti::zero_state(system),
                                               y));
      EXPECT_EQ(y.rows(), 4);
      EXPECT_EQ(y.cols(), 0);
    }
  }
}

// The impulse response is what the recurrence answers to an impulse.
TEST(ConvolutionEdges, KernelIsTheImpulseResponse) {
  Random random(36);
  DenseSystem<double> system{0.4 * random.matrix<double>(3, 3),
                             random.matrix<double>(3, 2),
                             random.matrix<double>(3, 2),
                             random.matrix<double>(2, 3),
                             {}};
  const Eigen::Index length = 9;
  for (const KernelMethod method : kKernels) {
    Matrix<double> K;
    ASSERT_TRUE(kernel(method, system, length, K));
    for (Eigen::Index m = 0; m < 2; ++m) {
      Matrix<double> u = Matrix<double>::Zero(2, length), y;
      u(m, 0) = 1;
      State<double> state = ssm::lti::zero_state(system);
      ASSERT_TRUE(ssm::lti::run(system, u, state, y));
      for (Eigen::Index l = 0; l < length; ++l) {
        EXPECT_LE((K.col(2 * l + m) - y.col(l)).cwiseAbs().maxCoeff(), 1e-14);
      }
    }
  }
}

}  // namespace
