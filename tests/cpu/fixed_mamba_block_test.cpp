#include "ssm/cpu/fixed_mamba_block.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "block/block_under_test.hpp"
#include "ssm/reference/causal_conv1d.hpp"
#include "ssm/reference/linear.hpp"
#include "ssm/reference/rms_norm.hpp"
#include "ssm/reference/selective_scan.hpp"
#include "ssm/reference/state_matrix.hpp"

namespace ssm_test {

// Token by token against the double oracle.
template <int DModel, int DInner, int DState, int DConv, int DtRank>
void expect_equals_the_oracle(bool bias) {
  using Block = ssm::FixedMambaBlock<DModel, DInner, DState, DConv, DtRank>;
  SCOPED_TRACE("d_model " + std::to_string(DModel) + ", bias " + std::to_string(bias));
  ssm::MambaConfig config;
  config.d_model = DModel;
  config.d_inner = DInner;
  config.d_state = DState;
  config.d_conv = DConv;
  config.dt_rank = DtRank;
  config.bias = bias;
  config.conv_bias = bias;
  const BlockUnderTest<On<ssm::Reference, float>> weights(config);
  static Block block;
  static typename Block::State state;
  block = Block();
  state = typename Block::State();
  SSM_EXPECT_OK(block.load(weights.parameters));
  const auto x = weights.random_input(1, 40);
  const Matrix expected =
      block_oracle<float>(config, weights.parameters, to_matrix(x.view().select(0, 0)));
  std::vector<double> found;
  for (ssm::index_t t = 0; t < 40; ++t) {
    float y[DModel];
    block.step(&x.view()(0, t, 0), y, state);
    found.insert(found.end(), y, y + DModel);
  }
  SSM_EXPECT_CLOSE(found, flat(expected), block_tolerance<float>());
}

TEST(FixedMambaBlock, EqualsTheOracle) {
  for (bool bias : {false, true}) {
    expect_equals_the_oracle<16, 32, 16, 4, 1>(bias);
    expect_equals_the_oracle<1, 1, 1, 1, 1>(bias);
    expect_equals_the_oracle<5, 7, 3, 2, 2>(bias);
    expect_equals_the_oracle<33, 65, 17, 5, 3>(bias);
    expect_equals_the_oracle<64, 192, 16, 4, 4>(bias);
  }
}

TEST(FixedMambaBlock, WritesOverItsInput) {
  const BlockUnderTest<On<ssm::Reference, float>> weights(ssm::mamba_config(16));
  static ssm::FixedMambaBlock<16> block;
  SSM_EXPECT_OK(block.load(weights.parameters));
  ssm::FixedMambaBlock<16>::State a, b;
  const auto x = weights.random_input(1, 1);
  float apart[16], over[16];
  std::copy(x.data(), x.data() + 16, over);
  block.step(x.data(), apart, a);
  block.step(over, over, b);
  EXPECT_EQ(std::vector<float>(apart, apart + 16), std::vector<float>(over, over + 16));
}

TEST(FixedMambaBlock, NamesTheWeightThatDoesNotFit) {
  const BlockUnderTest<On<ssm::Reference, float>> weights(ssm::mamba_config(16));
  static ssm::FixedMambaBlock<16, 32, 8> block;
  EXPECT_STREQ(block.load(weights.parameters).message().text,
               "FixedMambaBlock::load: x_proj.weight.extent(0) is 33, must equal 17");
}

}  // namespace ssm_test
