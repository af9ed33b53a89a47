#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "block/block_oracle.hpp"
#include "ssm/block/initialize.hpp"
#include "ssm/block/mamba_block.hpp"
#include "ssm/owned.hpp"

// What MambaBlock<T, Backend> must do, for every host backend and storage type. A test file names
// the pairs:  INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, MambaBlockSuite, Types<On<Cpu, float>, …>).
namespace ssm_test {

template <class BackendType, class Scalar>
struct On {
  using Backend = BackendType;
  using T = Scalar;
};

// Norm-relative bound against the double oracle: sums of a few dozen terms in float; one rounding
// per stored intermediate for the two-byte types (2^-9 and 2^-12), of which a block has five.
template <class T>
double block_tolerance() {
  if (std::is_same<T, double>::value) return 1e-13;
  if (std::is_same<T, float>::value) return 2e-6;
  return std::is_same<T, ssm::bf16>::value ? 2e-2 : 3e-3;
}
// Bound between two ways of running the same sequence on one backend.
template <class T>
double split_tolerance() {
  if (std::is_same<T, double>::value) return 1e-14;
  if (std::is_same<T, float>::value) return 1e-6;
  return block_tolerance<T>();
}

// || a - b || / || b ||; NaN if either holds NaN, which no tolerance accepts.
inline double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, norm = 0;
  if (a.size() != b.size()) return std::numeric_limits<double>::quiet_NaN();
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference) / (norm > 0 ? std::sqrt(norm) : 1);
}

template <class V>
std::vector<double> flat(const V& v) {
  std::vector<double> out;
  for (ssm::index_t i = 0; i < v.extent(0); ++i) {
    for (ssm::index_t j = 0; j < v.extent(1); ++j) {
      for (ssm::index_t k = 0; k < v.extent(2); ++k) out.push_back(static_cast<double>(v(i, j, k)));
    }
  }
  return out;
}

inline std::vector<double> flat(const Matrix& m) {
  std::vector<double> out;
  for (const auto& r : m) out.insert(out.end(), r.begin(), r.end());
  return out;
}

#define SSM_EXPECT_CLOSE(a, b, tolerance)                            \
  do {                                                               \
    const double error = ::ssm_test::relative_error((a), (b));       \
    EXPECT_TRUE(error <= (tolerance)) << #a " vs " #b ": " << error; \
  } while (false)

#define SSM_EXPECT_OK(call)                         \
  do {                                              \
    const ::ssm::Status outcome = (call);           \
    EXPECT_TRUE(outcome) << outcome.message().text; \
  } while (false)

// A prepared block with memory of its own, and the calls on it.
template <class On>
class BlockUnderTest {
 public:
  using T = typename On::T;
  using Accum = ssm::accum_t<T>;
  using Backend = typename On::Backend;
  using Block = ssm::MambaBlock<T, Backend>;
  using Activations = ssm::Owned<T, 3>;

  explicit BlockUnderTest(const ssm::MambaConfig& c, std::uint64_t seed = 1) : config(c) {
    ssm::Arena counter;
    ssm::MambaParameters<T>::carve(c, counter);
    weight_memory = ssm::OwnedWorkspace(counter.bytes_needed());
    ssm::Arena arena = weight_memory.arena();
    parameters = ssm::MambaParameters<T>::carve(c, arena);
    ssm::Random random(seed);
    ssm::initialize(c, parameters, random);
    // Initialisation leaves these regular; a test wants them all different.
    perturb(parameters.A_log, 0.3, random);
    perturb(parameters.D, 0.3, random);
    if (c.bias) {
      perturb(parameters.in_proj_bias, 0.2, random);
      perturb(parameters.out_proj_bias, 0.2, random);
    }
    prepared_memory = ssm::OwnedWorkspace(Block::prepared_bytes(backend, c));
    SSM_EXPECT_OK(block.prepare(backend, c, parameters, prepared_memory.arena()));
  }

  Activations random_input(ssm::index_t batch, ssm::index_t length, std::uint64_t seed = 7) const {
    ssm::Random random(seed);
    Activations x({batch, length, config.d_model});
    for (std::size_t i = 0; i < x.size(); ++i) x.data()[i] = T(static_cast<Accum>(random.normal()));
    return x;
  }

  struct StateMemory {
    ssm::OwnedWorkspace memory;
    ssm::MambaState<T> state;
  };
  StateMemory zero_state(ssm::index_t sequences) const {
    ssm::Arena counter;
    ssm::MambaState<T>::carve(config, sequences, counter);
    StateMemory s;
    s.memory = ssm::OwnedWorkspace(counter.bytes_needed());
    ssm::Arena arena = s.memory.arena();
    s.state = ssm::MambaState<T>::carve(config, sequences, arena);
    ssm::set_zero(s.state);
    return s;
  }
  StateMemory random_state(ssm::index_t sequences, std::uint64_t seed = 3) const {
    StateMemory s = zero_state(sequences);
    ssm::Random random(seed);
    for (auto* view : {&s.state.conv, &s.state.ssm}) {
      for (ssm::index_t i = 0; i < view->size(); ++i) {
        view->data()[i] = static_cast<Accum>(random.normal());
      }
    }
    return s;
  }

  // Runs forward with exactly the workspace it asks for, into a poisoned output.
  Activations run(const ssm::View<const T, 3>& x, const ssm::MambaState<T>& state,
                  const ssm::Sequences& sequences = {}) const {
    Activations y({x.extent(0), x.extent(1), x.extent(2)});
    poison(y);
    ssm::OwnedWorkspace scratch(block.workspace_bytes(backend, x.extent(0), x.extent(1)));
    SSM_EXPECT_OK(block.forward(backend, x, y.view(), state, scratch.arena(), sequences));
    return y;
  }

  static void poison(Activations& y) {
    for (std::size_t i = 0; i < y.size(); ++i) {
      y.data()[i] = T(std::numeric_limits<Accum>::quiet_NaN());
    }
  }

  ssm::MambaConfig config;
  Backend backend;
  ssm::OwnedWorkspace weight_memory, prepared_memory;
  ssm::MambaParameters<T> parameters;
  Block block;

 private:
  template <class V>
  static void perturb(const V& view, double scale, ssm::Random& random) {
    using E = typename V::value_type;
    for (ssm::index_t i = 0; i < view.size(); ++i) {
      view.data()[i] =
          E(static_cast<Accum>(view.data()[i]) + static_cast<Accum>(scale * random.normal()));
    }
  }
};

inline ssm::MambaConfig small_config() {
  ssm::MambaConfig c = ssm::mamba_config(12);
  c.d_inner = 20;
  c.d_state = 5;
  c.dt_rank = 3;
  return c;
}

template <class On>
class MambaBlockSuite : public ::testing::Test {};
TYPED_TEST_SUITE_P(MambaBlockSuite);

TYPED_TEST_P(MambaBlockSuite, EqualsTheOracle) {
  using T = typename TypeParam::T;
  std::vector<ssm::MambaConfig> configs(9, small_config());
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

REGISTER_TYPED_TEST_SUITE_P(MambaBlockSuite, EqualsTheOracle, EverySplitOfForwardIsTheWhole,
                            StepsEqualForward, PackedSequencesAreSeparate, PaddingIsLeftAlone,
                            NaNStaysInItsRow, TakesStridedAndOverlaidViews,
                            NoTokensLeaveTheStateAsItWas, BadInputIsNamedAndNothingIsWritten,
                            WorkspaceIsExactlyWhatIsAskedFor);

}  // namespace ssm_test
