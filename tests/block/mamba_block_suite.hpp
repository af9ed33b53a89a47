#pragma once

#include <string>
#include <vector>

#include "block/block_under_test.hpp"

// What MambaBlock<T, Backend> must do, for every host backend and storage type. A test file names
// the pairs:  INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, MambaBlockSuite, Types<On<Cpu, float>, …>).
namespace ssm_test {

template <class On>
class MambaBlockSuite : public ::testing::Test {};
TYPED_TEST_SUITE_P(MambaBlockSuite);

TYPED_TEST_P(MambaBlockSuite, EqualsTheOracle) {
  using T = typename TypeParam::T;
  std::vector<ssm::MambaConfig> configs(10, small_config());
  configs[1].bias = true;
  configs[2].conv_bias = false;
  configs[3].dt_b_c_norm = true;
  configs[4].b_rule = ssm::BRule::zero_order_hold;
  configs[5].d_conv = 1;
  configs[6].d_conv = 7;
  configs[7] = ssm::mamba_config(1);
  configs[8] = ssm::mamba_config(33);
  configs[8].d_inner = 65;
  configs[8].d_state = 17;
  configs[9].gate = false;
  configs[9].bias = true;
  for (std::size_t i = 0; i < configs.size(); ++i) {
    SCOPED_TRACE("config " + std::to_string(i));
    const BlockUnderTest<TypeParam> test(configs[i]);
    for (ssm::index_t length : {1, 2, 3, 19}) {
      const auto x = test.random_input(2, length);
      const auto y = test.run(x.view(), {});
      for (ssm::index_t b = 0; b < 2; ++b) {
        const Matrix expected =
            block_oracle<T>(configs[i], test.parameters, to_matrix(x.view().select(0, b)));
        SSM_EXPECT_CLOSE(flat(to_matrix(y.view().select(0, b))), flat(expected),
                         block_tolerance<T>());
      }
    }
  }
}

// Lengths around and beyond the chunks of time that a backend may work in, with a state and
// without.
TYPED_TEST_P(MambaBlockSuite, LongSequencesEqualTheOracle) {
  using T = typename TypeParam::T;
  const BlockUnderTest<TypeParam> test(small_config());
  for (ssm::index_t length : {127, 128, 129, 300}) {
    const auto x = test.random_input(1, length);
    const Matrix expected =
        block_oracle<T>(test.config, test.parameters, to_matrix(x.view().select(0, 0)));
    SSM_EXPECT_CLOSE(flat(test.run(x.view(), {}).view()), flat(expected), block_tolerance<T>());
    auto s = test.zero_state(1);
    SSM_EXPECT_CLOSE(flat(test.run(x.view(), s.state).view()), flat(expected),
                     block_tolerance<T>());
    auto parts = test.zero_state(1);
    test.run(x.view().slice(1, 0, 50), parts.state);
    test.run(x.view().slice(1, 50, length - 50), parts.state);
    SSM_EXPECT_CLOSE(flat(parts.state.ssm), flat(s.state.ssm), split_tolerance<T>());
    SSM_EXPECT_CLOSE(flat(parts.state.conv), flat(s.state.conv), split_tolerance<T>());
  }
}

// mamba#258, #101, #175: state in, state out, at any cut, also shorter than the convolution
// (vllm#56196).
TYPED_TEST_P(MambaBlockSuite, EverySplitOfForwardIsTheWhole) {
  using T = typename TypeParam::T;
  const BlockUnderTest<TypeParam> test(small_config());
  const ssm::index_t length = 11;
  const auto x = test.random_input(2, length);
  auto whole_state = test.random_state(2);
  const auto whole = flat(test.run(x.view(), whole_state.state).view());
  for (ssm::index_t cut = 0; cut <= length; ++cut) {
    auto s = test.random_state(2);
    const auto head = test.run(x.view().slice(1, 0, cut), s.state);
    const auto tail = test.run(x.view().slice(1, cut, length - cut), s.state);
    ssm::Owned<T, 3> joined({2, length, test.config.d_model});
    for (ssm::index_t b = 0; b < 2; ++b) {
      for (ssm::index_t t = 0; t < length; ++t) {
        for (ssm::index_t i = 0; i < test.config.d_model; ++i) {
          joined.view()(b, t, i) = t < cut ? head.view()(b, t, i) : tail.view()(b, t - cut, i);
        }
      }
    }
    SSM_EXPECT_CLOSE(flat(joined.view()), whole, split_tolerance<T>());
    SSM_EXPECT_CLOSE(flat(s.state.ssm), flat(whole_state.state.ssm), split_tolerance<T>());
    SSM_EXPECT_CLOSE(flat(s.state.conv), flat(whole_state.state.conv), split_tolerance<T>());
  }
}

// mamba#500, #1024, #1022: step() equals forward().
TYPED_TEST_P(MambaBlockSuite, StepsEqualForward) {
  using T = typename TypeParam::T;
  const BlockUnderTest<TypeParam> test(small_config());
  const ssm::index_t length = 9;
  const auto x = test.random_input(3, length);
  auto whole_state = test.random_state(3);
  const auto whole = test.run(x.view(), whole_state.state);
  auto s = test.random_state(3);
  ssm::OwnedWorkspace scratch(test.block.workspace_bytes(test.backend, 3, 1));
  ssm::Owned<T, 3> y({3, length, test.config.d_model});
  for (ssm::index_t t = 0; t < length; ++t) {
    SSM_EXPECT_OK(test.block.step(test.backend, x.view().select(1, t), y.view().select(1, t),
                                  s.state, scratch.arena()));
  }
  SSM_EXPECT_CLOSE(flat(y.view()), flat(whole.view()), split_tolerance<T>());
  SSM_EXPECT_CLOSE(flat(s.state.ssm), flat(whole_state.state.ssm), split_tolerance<T>());
}

// mamba#180, #758: packed sequences do not see each other, in block and state alike.
TYPED_TEST_P(MambaBlockSuite, PackedSequencesAreSeparate) {
  using T = typename TypeParam::T;
  const BlockUnderTest<TypeParam> test(small_config());
  const ssm::index_t starts[] = {0, 3, 3, 4, 12};
  const auto x = test.random_input(1, 12);
  ssm::Sequences sequences;
  sequences.starts = ssm::View<const ssm::index_t, 1>(starts, {5});
  auto packed_state = test.random_state(4);
  const auto packed = test.run(x.view(), packed_state.state, sequences);
  auto s = test.random_state(4);
  for (ssm::index_t i = 0; i < 4; ++i) {
    const ssm::index_t n = starts[i + 1] - starts[i];
    const auto alone = test.run(x.view().slice(1, starts[i], n), s.state.rows(i, 1));
    SSM_EXPECT_CLOSE(flat(packed.view().slice(1, starts[i], n)), flat(alone.view()),
                     split_tolerance<T>());
  }
  SSM_EXPECT_CLOSE(flat(packed_state.state.ssm), flat(s.state.ssm), split_tolerance<T>());
  SSM_EXPECT_CLOSE(flat(packed_state.state.conv), flat(s.state.conv), split_tolerance<T>());
}

// transformers#48256: right padding neither enters the state nor is written.
TYPED_TEST_P(MambaBlockSuite, PaddingIsLeftAlone) {
  using T = typename TypeParam::T;
  using Accum = ssm::accum_t<T>;
  const BlockUnderTest<TypeParam> test(small_config());
  const ssm::index_t lengths[] = {5, 0, 8};
  auto x = test.random_input(3, 8);
  for (ssm::index_t b = 0; b < 3; ++b) {
    for (ssm::index_t t = lengths[b]; t < 8; ++t) {
      for (ssm::index_t i = 0; i < test.config.d_model; ++i) {
        x.view()(b, t, i) = T(std::numeric_limits<Accum>::quiet_NaN());
      }
    }
  }
  ssm::Sequences sequences;
  sequences.lengths = ssm::View<const ssm::index_t, 1>(lengths, {3});
  auto padded_state = test.random_state(3);
  ssm::Owned<T, 3> y({3, 8, test.config.d_model});
  for (std::size_t i = 0; i < y.size(); ++i) y.data()[i] = T(Accum(77));
  ssm::OwnedWorkspace scratch(test.block.workspace_bytes(test.backend, 3, 8));
  SSM_EXPECT_OK(test.block.forward(test.backend, x.view(), y.view(), padded_state.state,
                                   scratch.arena(), sequences));
  auto s = test.random_state(3);
  for (ssm::index_t b = 0; b < 3; ++b) {
    const ssm::index_t n = lengths[b];
    const auto alone = test.run(x.view().slice(0, b, 1).slice(1, 0, n), s.state.rows(b, 1));
    SSM_EXPECT_CLOSE(flat(y.view().slice(0, b, 1).slice(1, 0, n)), flat(alone.view()),
                     split_tolerance<T>());
    for (double value : flat(y.view().slice(0, b, 1).slice(1, n, 8 - n))) EXPECT_EQ(value, 77.0);
  }
  SSM_EXPECT_CLOSE(flat(padded_state.state.ssm), flat(s.state.ssm), split_tolerance<T>());
  SSM_EXPECT_CLOSE(flat(padded_state.state.conv), flat(s.state.conv), split_tolerance<T>());
}

TYPED_TEST_P(MambaBlockSuite, NaNStaysInItsRow) {
  using T = typename TypeParam::T;
  using Accum = ssm::accum_t<T>;
  const BlockUnderTest<TypeParam> test(small_config());
  auto x = test.random_input(3, 6);
  const auto clean = test.run(x.view(), {});
  x.view()(1, 2, 4) = T(std::numeric_limits<Accum>::quiet_NaN());
  const auto y = test.run(x.view(), {});
  for (ssm::index_t b : {0, 2}) {
    EXPECT_EQ(flat(y.view().slice(0, b, 1)), flat(clean.view().slice(0, b, 1)));
  }
  EXPECT_TRUE(std::isnan(static_cast<double>(y.view()(1, 2, 0))));
  EXPECT_FALSE(std::isnan(static_cast<double>(y.view()(1, 1, 0))));
}

TYPED_TEST_P(MambaBlockSuite, TakesStridedAndOverlaidViews) {
  using T = typename TypeParam::T;
  const BlockUnderTest<TypeParam> test(small_config());
  const ssm::index_t d_model = test.config.d_model;
  const auto x = test.random_input(2, 5);
  const auto expected = flat(test.run(x.view(), {}).view());

  // (length, d_model, batch) memory, read through (batch, length, d_model) strides.
  ssm::Owned<T, 3> memory({5, d_model, 2}), out({5, d_model, 2});
  const auto strided = [](ssm::Owned<T, 3>& m) { return m.view().transpose(0, 2).transpose(1, 2); };
  for (ssm::index_t b = 0; b < 2; ++b) {
    for (ssm::index_t t = 0; t < 5; ++t) {
      for (ssm::index_t i = 0; i < d_model; ++i) strided(memory)(b, t, i) = x.view()(b, t, i);
    }
  }
  ssm::OwnedWorkspace scratch(test.block.workspace_bytes(test.backend, 2, 5));
  SSM_EXPECT_OK(
      test.block.forward(test.backend, strided(memory), strided(out), {}, scratch.arena()));
  SSM_EXPECT_CLOSE(flat(strided(out)), expected, split_tolerance<T>());

  // The output over the input.
  auto same = x;
  SSM_EXPECT_OK(test.block.forward(test.backend, same.view(), same.view(), {}, scratch.arena()));
  SSM_EXPECT_CLOSE(flat(same.view()), expected, split_tolerance<T>());
}

TYPED_TEST_P(MambaBlockSuite, NoTokensLeaveTheStateAsItWas) {
  const BlockUnderTest<TypeParam> test(small_config());
  auto s = test.random_state(2);
  const auto ssm_before = flat(s.state.ssm), conv_before = flat(s.state.conv);
  test.run(test.random_input(2, 0).view(), s.state);
  EXPECT_EQ(flat(s.state.ssm), ssm_before);
  EXPECT_EQ(flat(s.state.conv), conv_before);
  test.run(test.random_input(0, 4).view(), {});
}

TYPED_TEST_P(MambaBlockSuite, BadInputIsNamedAndNothingIsWritten) {
  using T = typename TypeParam::T;
  const BlockUnderTest<TypeParam> test(small_config());
  const auto x = test.random_input(2, 5);
  auto state = test.random_state(2);
  const auto before = flat(state.state.ssm);
  ssm::Owned<T, 3> y({2, 5, 12});
  ssm::OwnedWorkspace scratch(test.block.workspace_bytes(test.backend, 2, 5));
  const auto forward = [&](const ssm::View<const T, 3>& in, const ssm::View<T, 3>& out,
                           const ssm::MambaState<T>& s, ssm::Arena arena,
                           const ssm::Sequences& sequences = {}) {
    const ssm::Status status = test.block.forward(test.backend, in, out, s, arena, sequences);
    for (std::size_t i = 0; i < y.size(); ++i) EXPECT_EQ(static_cast<double>(y.data()[i]), 0.0);
    EXPECT_EQ(flat(state.state.ssm), before);
    return std::string(status.message().text);
  };
  const auto arena = scratch.arena();
  EXPECT_EQ(forward(x.view().slice(2, 0, 11), y.view(), state.state, arena),
            "MambaBlock::forward: x.extent(2) is 11, must equal 12");
  EXPECT_EQ(forward(x.view(), y.view().slice(1, 0, 4), state.state, arena),
            "MambaBlock::forward: y.extent(1) is 4, must equal 5");
  EXPECT_EQ(forward(x.view(), ssm::View<T, 3>(nullptr, {2, 5, 12}), state.state, arena),
            "MambaBlock::forward: y must not be null");
  EXPECT_EQ(forward(x.view(), y.view(), state.state.rows(0, 1), arena),
            "MambaState: conv.extent(0) is 1, must equal 2");
  const std::string small = forward(x.view(), y.view(), state.state, ssm::Arena(nullptr, 0));
  EXPECT_NE(small.find("workspace bytes is 0, must be at least"), std::string::npos) << small;
  const ssm::index_t too_long[] = {5, 6};
  ssm::Sequences sequences;
  sequences.lengths = ssm::View<const ssm::index_t, 1>(too_long, {2});
  EXPECT_EQ(forward(x.view(), y.view(), state.state, arena, sequences),
            "MambaBlock::forward: sequences.lengths value is 6, must be at most 5");
  EXPECT_EQ(std::string(typename BlockUnderTest<TypeParam>::Block()
                            .forward(test.backend, x.view(), y.view(), state.state, arena)
                            .message()
                            .text),
            "MambaBlock::forward: block is not prepared");
}

TYPED_TEST_P(MambaBlockSuite, WorkspaceIsExactlyWhatIsAskedFor) {
  using T = typename TypeParam::T;
  const BlockUnderTest<TypeParam> test(small_config());
  const auto x = test.random_input(2, 5);
  ssm::Owned<T, 3> y({2, 5, 12});
  const std::size_t bytes = test.block.workspace_bytes(test.backend, 2, 5);
  std::vector<unsigned char> memory(bytes + 128, 0xab);
  // At the worst alignment, with guard bytes on both sides.
  const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
  const std::size_t offset = 64 - address % 64 + 1;
  SSM_EXPECT_OK(test.block.forward(test.backend, x.view(), y.view(), {},
                                   ssm::Arena(memory.data() + offset, bytes)));
  for (std::size_t i = 0; i < offset; ++i) EXPECT_EQ(memory[i], 0xab);
  for (std::size_t i = offset + bytes; i < memory.size(); ++i) EXPECT_EQ(memory[i], 0xab);
  EXPECT_FALSE(test.block.forward(test.backend, x.view(), y.view(), {},
                                  ssm::Arena(memory.data() + offset, bytes - 64)));
}

// Continuous batching: rows come and go, their states stay where they are.
TYPED_TEST_P(MambaBlockSuite, StepChoosesItsStates) {
  using T = typename TypeParam::T;
  const BlockUnderTest<TypeParam> test(small_config());
  const auto x = test.random_input(3, 1);
  const ssm::View<const T, 2> rows = x.view().select(1, 0);
  auto pool = test.random_state(5);
  const auto untouched = test.random_state(5);
  auto expected = test.random_state(5);
  ssm::OwnedWorkspace scratch(test.block.workspace_bytes(test.backend, 3, 1));
  ssm::Owned<T, 2> y({3, 12}), wanted({3, 12});
  const ssm::index_t slots[] = {4, -1, 1};
  for (const ssm::index_t row : {0, 2}) {
    SSM_EXPECT_OK(test.block.step(test.backend, rows.slice(0, row, 1),
                                  wanted.view().slice(0, row, 1),
                                  expected.state.rows(slots[row], 1), scratch.arena()));
  }
  SSM_EXPECT_OK(test.block.step(test.backend, rows, y.view(), pool.state, scratch.arena(),
                                ssm::View<const ssm::index_t, 1>(slots, {3})));
  for (const ssm::index_t row : {0, 2}) {
    for (ssm::index_t i = 0; i < 12; ++i) {
      EXPECT_EQ(static_cast<double>(y.view()(row, i)), static_cast<double>(wanted.view()(row, i)));
    }
  }
  EXPECT_EQ(flat(pool.state.ssm), flat(expected.state.ssm));
  EXPECT_EQ(flat(pool.state.conv), flat(expected.state.conv));
  for (const ssm::index_t slot : {0, 2, 3}) {
    EXPECT_EQ(flat(pool.state.ssm.slice(0, slot, 1)), flat(untouched.state.ssm.slice(0, slot, 1)));
  }

  const auto before = flat(pool.state.ssm);
  const auto step = [&](std::vector<ssm::index_t> chosen) {
    const ssm::Status status =
        test.block.step(test.backend, rows, y.view(), pool.state, scratch.arena(),
                        ssm::View<const ssm::index_t, 1>(
                            chosen.data(), {static_cast<ssm::index_t>(chosen.size())}));
    EXPECT_EQ(flat(pool.state.ssm), before);
    return std::string(status.message().text);
  };
  EXPECT_EQ(step({0, 1, 5}), "MambaBlock::step: slots value is 5, must be at most 4");
  EXPECT_EQ(step({0, -2, 1}), "MambaBlock::step: slots value is -2, must be at least -1");
  EXPECT_EQ(step({0, 1}), "MambaBlock::step: slots.extent(0) is 2, must equal 3");
}

REGISTER_TYPED_TEST_SUITE_P(MambaBlockSuite, EqualsTheOracle, LongSequencesEqualTheOracle,
                            EverySplitOfForwardIsTheWhole, StepsEqualForward,
                            PackedSequencesAreSeparate, PaddingIsLeftAlone, NaNStaysInItsRow,
                            TakesStridedAndOverlaidViews, NoTokensLeaveTheStateAsItWas,
                            BadInputIsNamedAndNothingIsWritten, WorkspaceIsExactlyWhatIsAskedFor,
                            StepChoosesItsStates);

}  // namespace ssm_test
