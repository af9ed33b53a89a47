#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "ssm/block/initialize.hpp"
#include "ssm/block/mamba_parameters.hpp"
#include "ssm/model/language_model_parameters.hpp"
#include "ssm/owned.hpp"

namespace {

ssm::LanguageModelConfig published(ssm::index_t d_model, ssm::index_t n_layer) {
  ssm::LanguageModelConfig c;
  c.block = ssm::mamba_config(d_model);
  c.n_layer = n_layer;
  c.vocab_size = 50280;
  return c;
}

TEST(ParameterCount, OfThePublishedModels) {
  EXPECT_EQ(ssm::parameter_count(published(768, 24)), 129135360);
  EXPECT_EQ(ssm::parameter_count(published(1024, 48)), 371516416);
  EXPECT_EQ(ssm::parameter_count(published(1536, 48)), 793204224);
  EXPECT_EQ(ssm::parameter_count(published(2048, 48)), 1372178432);
  EXPECT_EQ(ssm::parameter_count(published(2560, 64)), 2768345600);
}

TEST(ParameterCount, OfTheInductionHeadsModel) {
  ssm::LanguageModelConfig c;
  c.block = ssm::mamba_config(64);
  c.n_layer = 2;
  c.vocab_size = 16;
  EXPECT_EQ(ssm::parameter_count(c), 66496);
  c.tie_embeddings = false;
  EXPECT_EQ(ssm::parameter_count(c), 67520);
}

TEST(ParameterCount, EqualsTheVisitedSizes) {
  ssm::LanguageModelConfig c = published(24, 3);
  c.block.bias = true;
  c.tie_embeddings = false;
  ssm::OwnedWorkspace memory;
  const auto p = memory.carve([&](ssm::Arena& arena) {
    return ssm::LanguageModelParameters<float>::carve(c, arena, arena);
  });
  ssm::index_t visited = 0;
  std::vector<std::string> names;
  p.for_each([&](const char* name, const auto& view) {
    visited += view.size();
    names.emplace_back(name);
  });
  EXPECT_EQ(visited, ssm::parameter_count(c));
  ASSERT_EQ(names.size(), 1 + 3 * 12 + 2u);
  EXPECT_EQ(names.front(), "backbone.embeddings.weight");
  EXPECT_EQ(names[1], "backbone.layers.0.norm.weight");
  EXPECT_EQ(names[1 + 12 + 3], "backbone.layers.1.mixer.conv1d.weight");
  EXPECT_EQ(names.back(), "lm_head.weight");
}

TEST(MambaConfig, NamesTheDimensionThatIsWrong) {
  ssm::MambaConfig c = ssm::mamba_config(8);
  c.d_state = 0;
  EXPECT_STREQ(ssm::validate(c).message().text, "MambaConfig: d_state is 0, must be at least 1");
  c = ssm::mamba_config(8);
  c.d_inner = -3;
  EXPECT_STREQ(ssm::validate(c).message().text, "MambaConfig: d_inner is -3, must be at least 1");
  c = ssm::mamba_config(8);
  c.d_model = ssm::index_t{1} << 40;
  EXPECT_EQ(ssm::validate(c).code(), ssm::ErrorCode::invalid_argument);
}

TEST(MambaWeights, NameTheArrayThatIsMissingSuperfluousOrMisshapen) {
  ssm::MambaConfig c = ssm::mamba_config(8);
  ssm::OwnedWorkspace memory;
  const ssm::MambaWeights<float> good =
      memory.carve([&](ssm::Arena& arena) { return ssm::MambaParameters<float>::carve(c, arena); });
  EXPECT_TRUE(check_shapes(c, good));
  ssm::MambaWeights<float> w = good;
  w.x_proj_weight = {};
  EXPECT_STREQ(check_shapes(c, w).message().text,
               "MambaWeights: x_proj.weight.extent(0) is 0, must equal 33");
  w = good;
  w.out_proj_bias = good.D;
  EXPECT_STREQ(check_shapes(c, w).message().text,
               "MambaWeights: out_proj.bias must be absent: the configuration has no such bias");
  w = good;
  w.A_log = good.A_log.slice(1, 0, 15);
  EXPECT_STREQ(check_shapes(c, w).message().text,
               "MambaWeights: A_log.extent(1) is 15, must equal 16");
}

TEST(Initialize, FollowsThePublishedDistributions) {
  const ssm::MambaConfig c = ssm::mamba_config(128);
  ssm::OwnedWorkspace memory;
  const auto p =
      memory.carve([&](ssm::Arena& arena) { return ssm::MambaParameters<float>::carve(c, arena); });
  ssm::Random random(11);
  ssm::MambaInit init;
  init.n_layer = 4;
  ssm::initialize(c, p, random, init);
  // delta_0 = softplus(bias) is log-uniform on [1e-3, 1e-1]: its log has mean log(1e-2) and
  // standard deviation log(100) / sqrt(12) = 1.33; 256 draws, four standard errors.
  double mean = 0;
  for (ssm::index_t d = 0; d < c.d_inner; ++d) {
    const double dt = std::log1p(std::exp(static_cast<double>(p.dt_proj_bias(d))));
    EXPECT_GE(dt, 0.999e-3);
    EXPECT_LE(dt, 1.001e-1);
    mean += std::log(dt) / static_cast<double>(c.d_inner);
    EXPECT_EQ(p.D(d), 1.0f);
    for (ssm::index_t n = 0; n < c.d_state; ++n) {
      EXPECT_FLOAT_EQ(p.A_log(d, n), std::log(static_cast<float>(n + 1)));
    }
  }
  EXPECT_NEAR(mean, std::log(1e-2), 4 * 1.33 / 16);
  const auto expect_uniform = [](const char* name, const auto& w, double bound) {
    double largest = 0, sum = 0, squares = 0;
    const double count = static_cast<double>(w.size());
    for (ssm::index_t i = 0; i < w.size(); ++i) {
      const double v = static_cast<double>(w.data()[i]);
      largest = std::fmax(largest, std::fabs(v));
      sum += v;
      squares += v * v;
    }
    EXPECT_LE(largest, bound * 1.0001) << name;
    EXPECT_GE(largest, bound * 0.98) << name;
    EXPECT_NEAR(sum / count, 0, 5 * bound / std::sqrt(3 * count)) << name;
    EXPECT_NEAR(squares / count, bound * bound / 3, 0.1 * bound * bound) << name;
  };
  expect_uniform("in_proj", p.in_proj_weight, 1 / std::sqrt(128.0));
  expect_uniform("x_proj", p.x_proj_weight, 1 / std::sqrt(256.0));
  expect_uniform("dt_proj", p.dt_proj_weight, 1 / std::sqrt(8.0));
  expect_uniform("out_proj", p.out_proj_weight, 1 / std::sqrt(256.0) / 2);
  expect_uniform("conv1d", p.conv1d_weight, 1 / std::sqrt(4.0));
}

TEST(Initialize, IsReproducible) {
  ssm::Random a(5), b(5);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(a.next(), b.next());
  EXPECT_EQ(ssm::Random(0).next(), 0xe220a8397b1dcdafu);  // SplitMix64's published first output
}

}  // namespace
