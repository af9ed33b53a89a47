#include <gtest/gtest.h>

#include <vector>

#include "ssm/reference/causal_conv1d.hpp"
#include "ssm/reference/embedding.hpp"
#include "ssm/reference/linear.hpp"
#include "ssm/reference/rms_norm.hpp"
#include "ssm/reference/selective_scan.hpp"
#include "support/dual.hpp"

// The reference on a scalar type of the user's own: dual numbers, which give derivatives.
namespace ssm_test {
namespace {

using ssm::index_t;
using ssm::View;

// The golden example of three tokens; the loss is the sum of the gated outputs.
struct ThreeTokens {
  std::vector<Dual> u = {1, 2, 3}, delta = {0, 1, -1}, A = {-1, -2}, z = {1, 0, -1};
  std::vector<Dual> B = {1, 0, 0, 1, 1, 1}, C = {1, 1, 1, 1, 1, -1}, D = {0.5}, h0 = {0, 0};

  Dual loss(ssm::ScanMode mode, ssm::BRule rule = ssm::BRule::euler) const {
    std::vector<Dual> y(3);
    ssm::SelectiveScanArgs<Dual> a;
    a.x = View<const Dual, 3>(u.data(), {1, 3, 1});
    a.dt = View<const Dual, 3>(delta.data(), {1, 3, 1});
    a.A = View<const Dual, 2>(A.data(), {1, 2});
    a.B = View<const Dual, 4>(B.data(), {1, 3, 1, 2});
    a.C = View<const Dual, 4>(C.data(), {1, 3, 1, 2});
    a.D = View<const Dual, 1>(D.data(), {1});
    a.z = View<const Dual, 3>(z.data(), {1, 3, 1});
    a.h0 = View<const Dual, 3>(h0.data(), {1, 1, 2});
    a.y = View<Dual, 3>(y.data(), {1, 3, 1});
    a.mode = mode;
    a.b_rule = rule;
    EXPECT_TRUE(ssm::selective_scan(ssm::Reference(), a).is_ok());
    return y[0] + y[1] + y[2];
  }
};

constexpr ssm::ScanMode kModes[] = {ssm::ScanMode::sequential, ssm::ScanMode::associative,
                                    ssm::ScanMode::accurate};

TEST(ReferenceOnDuals, GoldenGradientsOfThreeTokens) {
  struct Golden {
    std::vector<Dual> ThreeTokens::*input;
    std::vector<double> gradient;
  };
  const Golden goldens[] = {
      {&ThreeTokens::A, {-0.0596146967862214, 0.1182634664534408}},
      {&ThreeTokens::delta, {0.3390907429228691, 0.2369516486163986, -0.1932059649857472}},
      {&ThreeTokens::u, {0.8356088741369303, 0.1887614591340048, -0.1344707106849976}},
  };
  for (const ssm::ScanMode mode : kModes) {
    for (const Golden& golden : goldens) {
      for (std::size_t i = 0; i < golden.gradient.size(); ++i) {
        ThreeTokens example;
        (example.*golden.input)[i].d = 1;
        EXPECT_NEAR(example.loss(mode).d, golden.gradient[i], 1e-14)
            << "mode " << static_cast<int>(mode) << " element " << i;
      }
    }
  }
}

// Every input, by central differences of the value that the same code computes.
TEST(ReferenceOnDuals, DerivativesAreTheSlopesOfTheValues) {
  for (const ssm::BRule rule : {ssm::BRule::euler, ssm::BRule::zero_order_hold}) {
    for (const ssm::ScanMode mode : kModes) {
      for (const auto input :
           {&ThreeTokens::u, &ThreeTokens::delta, &ThreeTokens::A, &ThreeTokens::B, &ThreeTokens::C,
            &ThreeTokens::D, &ThreeTokens::z, &ThreeTokens::h0}) {
        const std::size_t size = (ThreeTokens().*input).size();
        for (std::size_t i = 0; i < size; ++i) {
          constexpr double kStep = 1e-5;
          ThreeTokens seeded, above, below;
          (seeded.*input)[i].d = 1;
          (above.*input)[i].v += kStep;
          (below.*input)[i].v -= kStep;
          const double slope = (above.loss(mode, rule).v - below.loss(mode, rule).v) / (2 * kStep);
          EXPECT_NEAR(seeded.loss(mode, rule).d, slope, 1e-8);
        }
      }
    }
  }
}

TEST(ReferenceOnDuals, TheOtherOperations) {
  const std::vector<Dual> x = {Dual(1, 1), 2, 3, 4};  // derivatives by x[0]
  const std::vector<Dual> weight = {0.5, -1, 0.25, 2};
  std::vector<Dual> y(4);
  const View<const Dual, 3> in(x.data(), {1, 2, 2});
  const View<const Dual, 2> matrix(weight.data(), {2, 2});
  const View<Dual, 3> out(y.data(), {1, 2, 2});

  ssm::LinearArgs<Dual> linear;
  linear.x = in;
  linear.weight = matrix;
  linear.y = out;
  ASSERT_TRUE(ssm::linear(ssm::Reference(), linear).is_ok());
  EXPECT_EQ(y[0].v, -1.5);
  EXPECT_EQ(y[0].d, 0.5);
  EXPECT_EQ(y[1].d, 0.25);
  EXPECT_EQ(y[2].d, 0);

  ssm::CausalConv1dArgs<Dual> conv;  // weight (channels, width)
  conv.x = in;
  conv.weight = matrix;
  conv.y = out;
  conv.silu = false;
  ASSERT_TRUE(ssm::causal_conv1d(ssm::Reference(), conv).is_ok());
  EXPECT_EQ(y[0].d, -1);  // the last tap meets the current token
  EXPECT_EQ(y[2].v, 0.5 * 1 - 3);
  EXPECT_EQ(y[2].d, 0.5);
  EXPECT_EQ(y[1].d, 0);

  ssm::RmsNormArgs<Dual> norm;  // d/dx0 of x0 / sqrt((x0^2 + x1^2) / 2) = x1^2 / (2 root^3)
  norm.x = in;
  norm.y = out;
  norm.eps = 0;
  ASSERT_TRUE(ssm::rms_norm(ssm::Reference(), norm).is_ok());
  const double root = std::sqrt(2.5);
  EXPECT_NEAR(y[0].v, 1 / root, 1e-15);
  EXPECT_NEAR(y[0].d, 4 / (2 * root * root * root), 1e-15);

  const std::vector<index_t> ids = {1, 0};
  ssm::EmbeddingArgs<Dual> embedding;
  embedding.ids = View<const index_t, 2>(ids.data(), {1, 2});
  embedding.weight = View<const Dual, 2>(x.data(), {2, 2});
  embedding.y = out;
  ASSERT_TRUE(ssm::embedding(ssm::Reference(), embedding).is_ok());
  EXPECT_EQ(y[2].v, 1);
  EXPECT_EQ(y[2].d, 1);
  EXPECT_EQ(y[0].v, 3);
}

}  // namespace
}  // namespace ssm_test
