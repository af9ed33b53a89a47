#include <gtest/gtest.h>

#include <algorithm>
#include <complex>

#include "ssm/lti/convolution.hpp"
#include "ssm/lti/discretize.hpp"
#include "ssm/reference/selective_scan.hpp"
#include "support/suite.hpp"

// With constant delta, B and C the selective scan is a time-invariant diagonal system, and lti
// computes it by convolution: two parts of the library that share only phi_1.
namespace ssm_test {
namespace {

namespace lti = ssm::lti;

template <class S_>
struct LtiTypes {
  using S = S_;
  static std::string name() { return type_name<S>(); }
};

template <class Types>
class SelectiveScanAndLti : public testing::Test {};
using AllTypes = testing::Types<LtiTypes<float>, LtiTypes<double>, LtiTypes<std::complex<float>>,
                                LtiTypes<std::complex<double>>>;
TYPED_TEST_SUITE(SelectiveScanAndLti, AllTypes, TypeNames);

TYPED_TEST(SelectiveScanAndLti, ConstantCoefficientsAreTheConvolution) {
  using S = typename TypeParam::S;
  using T = ssm::real_t<S>;
  constexpr index_t kLength = 300, kStates = 6;
  constexpr T kDelta = T(0.125);
  const double tolerance = std::is_same<T, double>::value ? 1e-12 : 1e-5;
  Random random(17);
  const Tensor<T, 3> x({1, kLength, 1});
  const Tensor<T, 3> dt({1, kLength, 1});
  const Tensor<S, 2> A({1, kStates});
  const Tensor<S, 2> B({1, kStates});
  const Tensor<S, 2> C({1, kStates});
  const Tensor<S, 3> h0({1, 1, kStates});
  const Tensor<T, 1> D({1});
  x.fill(random, -1, 1);
  dt.fill(static_cast<double>(kDelta));
  B.fill(random, -1, 1);
  C.fill(random, -1, 1);
  h0.fill(random, -1, 1);
  D.fill(0.75);
  for (index_t n = 0; n < kStates; ++n) {
    if constexpr (ssm::is_complex_v<S>) {
      A(0, n) = S(T(-0.5), T(3) * static_cast<T>(n));
    } else {
      A(0, n) = -static_cast<T>(n + 1);
    }
  }

  for (const ssm::BRule rule : {ssm::BRule::euler, ssm::BRule::zero_order_hold}) {
    lti::DiagonalSystem<S> system;
    system.C = lti::Matrix<S>(1, kStates);
    lti::Vector<S> a(kStates);
    lti::Matrix<S> b(kStates, 1);
    lti::Matrix<S> u(1, kLength);
    lti::State<S> state;
    state.x = lti::Vector<S>(kStates);
    for (index_t n = 0; n < kStates; ++n) {
      a[n] = A(0, n);
      b(n, 0) = B(0, n);
      system.C(0, n) = C(0, n);
      state.x[n] = h0(0, 0, n);
    }
    for (index_t t = 0; t < kLength; ++t) u(0, t) = S(x(0, t, 0));
    ASSERT_TRUE(discretize(rule == ssm::BRule::euler ? lti::Rule::exponential_euler()
                                                     : lti::Rule::zero_order_hold(),
                           a, b, kDelta, system)
                    .is_ok());
    lti::Matrix<S> convolved;
    ASSERT_TRUE(run_by_convolution(lti::KernelMethod::powers, lti::ConvolutionMethod::fft, system,
                                   u, state, convolved)
                    .is_ok());
    std::vector<long double> wanted;
    long double largest = 0;
    for (index_t t = 0; t < kLength; ++t) {
      const long double sum = to_complex(convolved(0, t)).real();
      wanted.push_back((ssm::is_complex_v<S> ? 2 : 1) * sum + 0.75L * to_real(x(0, t, 0)));
      largest = std::max(largest, std::abs(wanted.back()));
    }

    for (const ssm::ScanMode mode :
         {ssm::ScanMode::sequential, ssm::ScanMode::associative, ssm::ScanMode::accurate}) {
      const Tensor<T, 3> y({1, kLength, 1});
      ssm::SelectiveScanArgs<T, S> args;
      args.x = x.view();
      args.dt = dt.view();
      args.A = A.view();
      args.B = ssm::constant_over_sequence<S>(B.view(), 1, kLength);
      args.C = ssm::constant_over_sequence<S>(C.view(), 1, kLength);
      args.D = D.view();
      args.h0 = h0.view();
      args.y = y.view();
      args.delta_softplus = false;
      args.b_rule = rule;
      args.mode = mode;
      ASSERT_TRUE(ssm::selective_scan(ssm::Reference(), args).is_ok());
      ErrorMeter error;
      for (index_t t = 0; t < kLength; ++t) {
        error.add(to_real(y(0, t, 0)), wanted[static_cast<std::size_t>(t)], largest);
      }
      EXPECT_LE(error.worst(), tolerance)
          << "mode " << static_cast<int>(mode) << " rule " << static_cast<int>(rule);
    }
  }
}

}  // namespace
}  // namespace ssm_test
