// The four variants of the convolutional mode against the recurrence, for lengths around powers of
// two, primes and one, with and without an input memory and an initial state. The files that
// include this say for which scalars.
#pragma once

#include <gtest/gtest.h>

#include "instances.hpp"
#include "ssm/lti/convolution.hpp"
#include "ssm/lti/recurrence.hpp"
#include "support.hpp"

namespace {

using lti_test::Matrix;
using lti_test::Random;
using lti_test::relative_error;
using ssm::real_t;
using ssm::lti::ConvolutionMethod;
using ssm::lti::convolve;
using ssm::lti::DenseSystem;
using ssm::lti::DiagonalSystem;
using ssm::lti::discretize;
using ssm::lti::KernelMethod;
using ssm::lti::Rule;
using ssm::lti::State;

constexpr Eigen::Index kLengths[] = {1, 2, 3, 4, 5, 7, 8, 13, 31, 32, 33, 64, 100, 127, 257};

template <class T>
class Convolution : public ::testing::Test {
 public:
  static constexpr double kTolerance = std::is_same<real_t<T>, float>::value ? 1e-5 : 1e-12;
};
TYPED_TEST_SUITE_P(Convolution);

template <class System>
void expect_modes_agree(const System& system, Eigen::Index length, Random& random,
                        double tolerance) {
  using T = typename System::Scalar;
  const Matrix<T> u = random.matrix<T>(system.Bbar.cols(), length);
  const State<T> initial{random.matrix<T>(system.Abar.rows(), 1),
                         random.matrix<T>(system.Bbar.cols(), 1)};
  State<T> state = initial;
  Matrix<T> recurrent;
  ASSERT_TRUE(ssm::lti::run(system, u, state, recurrent));
  for (const KernelMethod kernel_method : {KernelMethod::powers, KernelMethod::doubling}) {
    for (const ConvolutionMethod convolution_method :
         {ConvolutionMethod::direct, ConvolutionMethod::fft}) {
      SCOPED_TRACE(::testing::Message()
                   << "L = " << length << ", kernel " << static_cast<int>(kernel_method)
                   << ", convolution " << static_cast<int>(convolution_method));
      Matrix<T> y = Matrix<T>::Constant(1, 1, T(std::numeric_limits<real_t<T>>::quiet_NaN()));
      ASSERT_TRUE(
          ssm::lti::run_by_convolution(kernel_method, convolution_method, system, u, initial, y));
      EXPECT_LE(relative_error(y, recurrent), tolerance);
    }
  }
}

TYPED_TEST_P(Convolution, DenseModesAgree) {
  using T = TypeParam;
  Random random(31);
  for (const Eigen::Index length : kLengths) {
    for (const Rule& rule : {Rule::zero_order_hold(), Rule::first_order_hold()}) {
      DenseSystem<T> system;
      ASSERT_TRUE(discretize(rule, lti_test::stable_matrix<T>(random, 5), random.matrix<T>(5, 2),
                             real_t<T>(0.05), system));
      system.C = random.matrix<T>(3, 5);
      system.D = random.matrix<T>(3, 2);
      expect_modes_agree(system, length, random, this->kTolerance);
    }
  }
}

TYPED_TEST_P(Convolution, DiagonalModesAgree) {
  using T = TypeParam;
  Random random(32);
  for (const Eigen::Index length : kLengths) {
    for (const Rule& rule : {Rule::bilinear(), Rule::exponential_trapezoidal(0.5)}) {
      DiagonalSystem<T> system;
      ASSERT_TRUE(discretize(rule, lti_test::stable_diagonal<T>(random, 7), random.matrix<T>(7, 1),
                             real_t<T>(0.1), system));
      system.C = random.matrix<T>(1, 7);
      expect_modes_agree(system, length, random, this->kTolerance);
    }
  }
}

// Kernels that do not decay, shorter and longer than the input.
TYPED_TEST_P(Convolution, FftEqualsDirectForAnyNumberOfTaps) {
  using T = TypeParam;
  Random random(33);
  for (const Eigen::Index length : {1, 2, 6, 17, 64}) {
    for (const Eigen::Index taps : {0, 1, 3, 16, 17, 64, 90}) {
      SCOPED_TRACE(::testing::Message() << "L = " << length << ", taps = " << taps);
      const Matrix<T> K = random.matrix<T>(2, 3 * taps);
      const Matrix<T> u = random.matrix<T>(3, length);
      Matrix<T> direct, fft, in_place = u;
      ASSERT_TRUE(convolve(ConvolutionMethod::direct, K, u, direct));
      ASSERT_TRUE(convolve(ConvolutionMethod::fft, K, u, fft));
      ASSERT_TRUE(convolve(ConvolutionMethod::fft, K, in_place, in_place));
      EXPECT_LE(relative_error(fft, direct), this->kTolerance);
      EXPECT_EQ(in_place, fft);
    }
  }
}

// Small integers: the direct form is exact.
TYPED_TEST_P(Convolution, DirectIsPolynomialMultiplication) {
  using T = TypeParam;
  Matrix<T> K(1, 3), u(1, 5), wanted(1, 5), y;
  K << T(1), T(2), T(3);
  u << T(1), T(0), T(-1), T(4), T(2);
  wanted << T(1), T(2), T(2), T(2), T(7);
  ASSERT_TRUE(convolve(ConvolutionMethod::direct, K, u, y));
  EXPECT_EQ(y, wanted);
  ASSERT_TRUE(convolve(ConvolutionMethod::fft, K, u, y));
  EXPECT_LE(relative_error(y, wanted), this->kTolerance);
}

REGISTER_TYPED_TEST_SUITE_P(Convolution, DenseModesAgree, DiagonalModesAgree,
                            FftEqualsDirectForAnyNumberOfTaps, DirectIsPolynomialMultiplication);

}  // namespace
