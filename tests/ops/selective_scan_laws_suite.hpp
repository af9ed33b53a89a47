#pragma once

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "ops/scan_problem.hpp"
#include "support/error.hpp"

// What the selective scan must do by theory, without an oracle: golden values of three tokens, mode
// against mode, time invariance, the gate of Theorem 1, a million tokens.
//
//   using Types = testing::Types<ScanTypes<HostTarget<ssm::Cpu>, float>, …>;
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, SelectiveScanLaws, Types, TypeNames);
namespace ssm_test {

// A (batch, length, channels) tensor of batch 1 and one channel.
template <class T>
Tensor<T, 3> sequence(const std::vector<double>& values) {
  return tensor_of<T, 3>({1, static_cast<index_t>(values.size()), 1}, values);
}

// For real scans in float and double.
template <class Types>
class SelectiveScanLaws : public testing::Test {
 public:
  using Scalar = typename Types::T;
  using Call = typename Types::Args;
  static constexpr bool kDouble = std::is_same<Scalar, double>::value;

  static constexpr ssm::ScanMode kModes[] = {ssm::ScanMode::sequential, ssm::ScanMode::associative,
                                             ssm::ScanMode::accurate};

  // Runs and reports whether there is a result to look at.
  static bool ran(const Call& args) {
    if (!Types::Target::supports(args)) return false;
    const ssm::Status status = run<typename Types::Target>(args);
    EXPECT_TRUE(status.is_ok()) << status.message().text;
    return status.is_ok();
  }

  static ssm::View<const Scalar, 4> coefficient(const Tensor<Scalar, 2>& m, index_t length) {
    return ssm::constant_over_sequence<Scalar>(m.view(), 1, length);
  }
};

TYPED_TEST_SUITE_P(SelectiveScanLaws);

TYPED_TEST_P(SelectiveScanLaws, ThreeTokensOfGoldenValues) {
  using T = typename TypeParam::T;
  const double tolerance = TestFixture::kDouble ? 1e-14 : 1e-6;
  const Tensor<T, 3> u = sequence<T>({1, 2, 3});
  const Tensor<T, 3> delta = sequence<T>({0, 1, -1});
  const Tensor<T, 3> z = sequence<T>({1, 0, -1});
  const Tensor<T, 2> A = tensor_of<T, 2>({1, 2}, {-1, -2});
  const Tensor<T, 4> B = tensor_of<T, 4>({1, 3, 1, 2}, {1, 0, 0, 1, 1, 1});
  const Tensor<T, 4> C = tensor_of<T, 4>({1, 3, 1, 2}, {1, 1, 1, 1, 1, -1});
  const Tensor<T, 1> D = tensor_of<T, 1>({1}, {0.5});
  const double y[] = {1.1931471805599454, 3.812939362994842, 0.2325444003680037};
  const double out[] = {0.8722604819165515, 0, -0.0625408215666041};
  const double h[] = {1.076066069745442, 2.3435216693774383};
  for (const ssm::ScanMode mode : TestFixture::kModes) {
    for (const bool gated : {false, true}) {
      SCOPED_TRACE(testing::Message() << "mode " << static_cast<int>(mode) << " gated " << gated);
      const Tensor<T, 3> found({1, 3, 1});
      const Tensor<T, 3> last({1, 1, 2});
      typename TypeParam::Args a;
      a.x = u.view();
      a.dt = delta.view();
      a.A = A.view();
      a.B = B.view();
      a.C = C.view();
      a.D = D.view();
      if (gated) a.z = z.view();
      a.y = found.view();
      a.h_last = last.view();
      a.mode = mode;
      if (!this->ran(a)) continue;
      for (index_t t = 0; t < 3; ++t) {
        EXPECT_NEAR(found(0, t, 0), (gated ? out : y)[t], tolerance) << t;
      }
      for (index_t n = 0; n < 2; ++n) EXPECT_NEAR(last(0, 0, n), h[n], tolerance) << n;
    }
  }
}

TYPED_TEST_P(SelectiveScanLaws, TheModesAgree) {
  const double tolerance = TestFixture::kDouble ? 1e-12 : 1e-5;
  for (const index_t length : {1, 7, 2047, 2048, 2049}) {
    for (const ssm::BRule rule : {ssm::BRule::euler, ssm::BRule::zero_order_hold}) {
      ScanCase c;
      c.length = length;
      c.rule = rule;
      const typename TypeParam::Problem sequential(c);
      if (!this->ran(sequential.args())) continue;
      for (const ssm::ScanMode mode : {ssm::ScanMode::associative, ssm::ScanMode::accurate}) {
        c.mode = mode;
        const typename TypeParam::Problem other(c);
        if (!this->ran(other.args())) continue;
        EXPECT_LE(norm_relative_error(complex_values(other.y.view()),
                                      complex_values(sequential.y.view())),
                  tolerance)
            << "length " << length << " mode " << static_cast<int>(mode);
        EXPECT_LE(norm_relative_error(complex_values(other.h_last.view()),
                                      complex_values(sequential.h_last.view())),
                  tolerance);
      }
    }
  }
}

// With constant delta, B and C the scan is the convolution with K_l = sum_n C_n w_n B_n a_n^l.
TYPED_TEST_P(SelectiveScanLaws, ConstantCoefficientsAreAConvolution) {
  using T = typename TypeParam::T;
  const double tolerance = TestFixture::kDouble ? 1e-12 : 1e-5;
  constexpr index_t kLength = 200, kStates = 5;
  constexpr double kDelta = 0.125;
  Random random(11);
  std::vector<double> input(kLength);
  for (double& x : input) x = static_cast<double>(static_cast<float>(random.uniform(-1, 1)));
  const Tensor<T, 3> x = sequence<T>(input);
  const Tensor<T, 3> dt = sequence<T>(std::vector<double>(kLength, kDelta));
  const Tensor<T, 2> A({1, kStates});
  const Tensor<T, 2> B({1, kStates});
  const Tensor<T, 2> C({1, kStates});
  for (index_t n = 0; n < kStates; ++n) A(0, n) = -static_cast<T>(n + 1);
  B.fill(random, -1, 1);
  C.fill(random, -1, 1);
  for (const ssm::BRule rule : {ssm::BRule::euler, ssm::BRule::zero_order_hold}) {
    std::vector<long double> wanted;
    for (index_t t = 0; t < kLength; ++t) {
      long double sum = 0;
      for (index_t s = 0; s <= t; ++s) {
        for (index_t n = 0; n < kStates; ++n) {
          const long double v = static_cast<long double>(kDelta) * to_real(A(0, n));
          const long double w =
              rule == ssm::BRule::euler ? kDelta : std::expm1(v) / to_real(A(0, n));
          sum += to_real(C(0, n)) * w * to_real(B(0, n)) *
                 std::exp(v * static_cast<long double>(t - s)) * to_real(x(0, s, 0));
        }
      }
      wanted.push_back(sum);
    }
    for (const ssm::ScanMode mode : TestFixture::kModes) {
      const Tensor<T, 3> y({1, kLength, 1});
      typename TypeParam::Args a;
      a.x = x.view();
      a.dt = dt.view();
      a.A = A.view();
      a.B = this->coefficient(B, kLength);
      a.C = this->coefficient(C, kLength);
      a.y = y.view();
      a.delta_softplus = false;
      a.b_rule = rule;
      a.mode = mode;
      if (!this->ran(a)) continue;
      const std::vector<T> found = y.values();
      long double worst = 0;
      long double largest = 0;
      for (std::size_t t = 0; t < found.size(); ++t) {
        worst = larger_error(worst, std::abs(to_real(found[t]) - wanted[t]));
        largest = std::max(largest, std::abs(wanted[t]));
      }
      EXPECT_LE(worst / largest, tolerance) << "mode " << static_cast<int>(mode);
    }
  }
}

// Theorem 1 of the Mamba paper: with one state, A = -1 and B = 1, zero-order hold is the gated
// recurrence h = (1 - g) h + g x, g = sigma(dt). Exponential Euler is not.
TYPED_TEST_P(SelectiveScanLaws, ZeroOrderHoldIsTheSigmoidGate) {
  using T = typename TypeParam::T;
  const double tolerance = TestFixture::kDouble ? 1e-14 : 1e-6;
  const std::vector<double> inputs = {1, -0.5, 0.75, 2, -1.5, 0.25};
  const std::vector<double> steps = {3, -2, 0, 1, -8, 6};
  const Tensor<T, 3> x = sequence<T>(inputs);
  const Tensor<T, 3> dt = sequence<T>(steps);
  const Tensor<T, 2> A({1, 1});
  const Tensor<T, 2> one({1, 1});
  A.fill(-1);
  one.fill(1);
  for (const ssm::ScanMode mode : TestFixture::kModes) {
    for (const ssm::BRule rule : {ssm::BRule::zero_order_hold, ssm::BRule::euler}) {
      const Tensor<T, 3> y({1, 6, 1});
      typename TypeParam::Args a;
      a.x = x.view();
      a.dt = dt.view();
      a.A = A.view();
      a.B = this->coefficient(one, 6);
      a.C = this->coefficient(one, 6);
      a.y = y.view();
      a.b_rule = rule;
      a.mode = mode;
      if (!this->ran(a)) continue;
      if (rule == ssm::BRule::euler) {
        EXPECT_NEAR(y(0, 0, 0), 3.048587351573742, 4 * tolerance);  // softplus(3)
        continue;
      }
      EXPECT_NEAR(y(0, 0, 0), 0.9525741268224334, tolerance);  // sigma(3)
      double h = 0;
      for (std::size_t t = 0; t < inputs.size(); ++t) {
        const double gate = 1 / (1 + std::exp(-steps[t]));
        h = (1 - gate) * h + gate * inputs[t];
        EXPECT_NEAR(y(0, static_cast<index_t>(t), 0), h, tolerance) << t;
      }
    }
  }
}

// 2^20 tokens with decays next to 1, where rounding exp(delta A) dominates: `accurate` stays within
// 2e-6 of the exact state. What the default costs is printed, not judged.
TYPED_TEST_P(SelectiveScanLaws, AMillionTokens) {
  using T = typename TypeParam::T;
  constexpr index_t kLength = index_t{1} << 20;
  Random random(13);
  std::vector<double> inputs(kLength);
  std::vector<double> steps(kLength);
  for (index_t t = 0; t < kLength; ++t) {
    const auto i = static_cast<std::size_t>(t);
    inputs[i] = static_cast<double>(static_cast<float>(random.uniform(0, 1)));
    steps[i] = static_cast<double>(static_cast<float>(random.uniform(0.5, 1.5)));
  }
  const Tensor<T, 3> x = sequence<T>(inputs);
  const Tensor<T, 3> varying = sequence<T>(steps);
  const Tensor<T, 3> constant = sequence<T>(std::vector<double>(kLength, 1));
  const Tensor<T, 2> A({1, 3});
  const Tensor<T, 2> one({1, 3});
  one.fill(1);
  for (index_t n = 0; n < 3; ++n) A(0, n) = T(n == 0 ? -1e-3 : n == 1 ? -1e-5 : -1e-6);
  for (const bool jitter : {false, true}) {
    const Tensor<T, 3>& dt = jitter ? varying : constant;
    long double exact[3] = {0, 0, 0};
    for (index_t t = 0; t < kLength; ++t) {
      for (index_t n = 0; n < 3; ++n) {
        const long double delta = to_real(dt(0, t, 0));
        exact[n] = std::exp(delta * to_real(A(0, n))) * exact[n] + delta * to_real(x(0, t, 0));
      }
    }
    for (const ssm::ScanMode mode : TestFixture::kModes) {
      const Tensor<T, 3> y({1, kLength, 1});
      const Tensor<T, 3> h({1, 1, 3});
      typename TypeParam::Args a;
      a.x = x.view();
      a.dt = dt.view();
      a.A = A.view();
      a.B = this->coefficient(one, kLength);
      a.C = this->coefficient(one, kLength);
      a.y = y.view();
      a.h_last = h.view();
      a.delta_softplus = false;
      a.mode = mode;
      if (!this->ran(a)) continue;
      for (index_t n = 0; n < 3; ++n) {
        const auto error = static_cast<double>(std::abs(to_real(h(0, 0, n)) - exact[n]) / exact[n]);
        std::printf("  delta A %g, delta %s, mode %d: relative error of the state %.2g\n",
                    static_cast<double>(A(0, n)), jitter ? "varying" : "constant",
                    static_cast<int>(mode), error);
        if (mode == ssm::ScanMode::accurate) {
          EXPECT_LE(error, 2e-6);
        }
      }
    }
  }
}

// A reset (a huge step) in `accurate` mode forgets the past and keeps the input beside it.
TYPED_TEST_P(SelectiveScanLaws, AccurateModeSurvivesAReset) {
  using T = typename TypeParam::T;
  const Tensor<T, 3> x = sequence<T>({1e6, 1e-3, 0});
  const Tensor<T, 3> dt = sequence<T>({1, 60, 1e-4});
  const Tensor<T, 2> A({1, 1});
  const Tensor<T, 2> one({1, 1});
  A.fill(-1);
  one.fill(1);
  const Tensor<T, 3> y({1, 3, 1});
  typename TypeParam::Args a;
  a.x = x.view();
  a.dt = dt.view();
  a.A = A.view();
  a.B = this->coefficient(one, 3);
  a.C = this->coefficient(one, 3);
  a.y = y.view();
  a.delta_softplus = false;
  a.mode = ssm::ScanMode::accurate;
  if (!this->ran(a)) return;
  const double kept = 60 * static_cast<double>(x(0, 1, 0)) + 1e6 * std::exp(-60.0);
  const double later = kept * std::exp(-static_cast<double>(dt(0, 2, 0)));
  EXPECT_NEAR(static_cast<double>(y(0, 1, 0)), kept, 1e-6 * kept);
  EXPECT_NEAR(static_cast<double>(y(0, 2, 0)), later, 1e-6 * later);
}

REGISTER_TYPED_TEST_SUITE_P(SelectiveScanLaws, ThreeTokensOfGoldenValues, TheModesAgree,
                            ConstantCoefficientsAreAConvolution, ZeroOrderHoldIsTheSigmoidGate,
                            AMillionTokens, AccurateModeSurvivesAReset);

}  // namespace ssm_test
