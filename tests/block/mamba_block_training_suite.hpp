#pragma once

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "block/gradient_checks.hpp"

// What MambaBlock<T, Backend>::forward_train and backward must do, for every backend and storage
// type:  INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, MambaBlockTrainingSuite, Types<On<Cpu, float>, …>).
// A device backend runs it on memory that the host reaches too.
namespace ssm_test {

// One training step of a block: its input, the gradients that arrive, and memory for all that
// leaves.
template <class On>
class TrainingUnderTest {
 public:
  using T = typename On::T;
  using Accum = ssm::accum_t<T>;
  using Block = BlockUnderTest<On>;
  using index_t = ssm::index_t;

  TrainingUnderTest(const Block& block_, index_t batch, index_t length, index_t states)
      : block(block_),
        x(block.random_input(batch, length)),
        y({batch, length, block.config.d_model}),
        dy(block.random_input(batch, length, 11)),
        dx({batch, length, block.config.d_model}),
        before(block.random_state(states, 3)),
        after(block.zero_state(states)),
        dafter(block.random_state(states, 5)),
        dbefore(block.zero_state(states)) {
    Block::poison(y);
    Block::poison(dx);
    grads = grad_memory.carve(
        [&](ssm::Arena& arena) { return ssm::MambaGrads<T>::carve(block.config, arena); });
    grads.for_each([](const char*, const auto& v) { fill_nan(v); });
    tape = tape_memory.carve([&](ssm::Arena& arena) {
      return ssm::MambaTape<T>::carve(block.config, batch, length, arena);
    });
    workspace = ssm::OwnedWorkspace(block.block.training_workspace_bytes(
        block.backend, batch, length, states == batch ? 0 : states));
  }

  ssm::MambaGradArgs<T> args() {
    ssm::MambaGradArgs<T> a;
    a.x = x.view();
    a.before = before.state;
    a.dy = dy.view();
    a.dafter = dafter.state;
    a.dx = dx.view();
    a.dbefore = dbefore.state;
    a.grads = grads;
    a.mode = mode;
    a.sequences = sequences;
    return a;
  }
  void forward() {
    SSM_EXPECT_OK(block.block.forward_train(block.backend, x.view(), y.view(), before.state,
                                            after.state, tape, workspace.arena(), sequences));
  }
  void backward() {
    SSM_EXPECT_OK(block.block.backward(block.backend, args(), tape, workspace.arena()));
  }
  void run() {
    forward();
    backward();
  }

  // Every gradient of the weights in one list.
  std::vector<double> weight_gradients() const {
    std::vector<double> out;
    grads.for_each([&](const char*, const auto& v) { append(v, out); });
    return out;
  }

  const Block& block;
  ssm::Owned<T, 3> x, y, dy, dx;
  typename Block::StateMemory before, after, dafter, dbefore;
  ssm::OwnedWorkspace grad_memory, tape_memory, workspace;
  ssm::MambaGrads<T> grads;
  ssm::MambaTape<T> tape;
  ssm::Sequences sequences;
  ssm::GradMode mode = ssm::GradMode::overwrite;
};

inline ssm::MambaConfig tiny_config() {
  ssm::MambaConfig c = ssm::mamba_config(3);
  c.d_inner = 4;
  c.d_state = 2;
  c.dt_rank = 2;
  c.d_conv = 3;
  return c;
}

inline std::vector<ssm::MambaConfig> training_configs() {
  std::vector<ssm::MambaConfig> configs(8, tiny_config());
  configs[1].bias = true;
  configs[2].conv_bias = false;
  configs[3].dt_b_c_norm = true;
  configs[3].dt_b_c_eps = 0.05;  // smooth enough for differences where the projections are small
  configs[4].b_rule = ssm::BRule::zero_order_hold;
  configs[5].d_conv = 1;
  configs[6].d_conv = 6;
  configs[6].d_state = 5;
  configs[7].gate = false;
  configs[7].bias = true;
  return configs;
}

template <class On>
class MambaBlockTrainingSuite : public ::testing::Test {};
TYPED_TEST_SUITE_P(MambaBlockTrainingSuite);

TYPED_TEST_P(MambaBlockTrainingSuite, ForwardIsForward) {
  for (const ssm::MambaConfig& config : training_configs()) {
    const BlockUnderTest<TypeParam> block(config);
    TrainingUnderTest<TypeParam> test(block, 2, 7, 2);
    test.forward();
    auto state = block.random_state(2, 3);
    const auto y = block.run(test.x.view(), state.state);
    SSM_EXPECT_CLOSE(flat(test.y.view()), flat(y.view()), split_tolerance<typename TypeParam::T>());
    SSM_EXPECT_CLOSE(flat(test.after.state.ssm), flat(state.state.ssm),
                     split_tolerance<typename TypeParam::T>());
    SSM_EXPECT_CLOSE(flat(test.after.state.conv), flat(state.state.conv),
                     split_tolerance<typename TypeParam::T>());
  }
}

// Every gradient against differences of the plain loops of block_oracle.hpp, from zero state.
TYPED_TEST_P(MambaBlockTrainingSuite, GradientsEqualDifferencesOfTheOracle) {
  using T = typename TypeParam::T;
  for (std::size_t i = 0; i < training_configs().size(); ++i) {
    SCOPED_TRACE("config " + std::to_string(i));
    const ssm::MambaConfig config = training_configs()[i];
    const BlockUnderTest<TypeParam> block(config);
    enlarge_delta(block.parameters);
    TrainingUnderTest<TypeParam> test(block, 1, 5, 1);
    test.before.state = test.after.state = test.dafter.state = test.dbefore.state = {};
    test.run();

    ssm::OwnedWorkspace memory;
    const auto weights = memory.carve(
        [&](ssm::Arena& arena) { return ssm::MambaParameters<double>::carve(config, arena); });
    std::vector<double> exact;  // the weights as stored
    block.parameters.for_each([&](const char*, const auto& v) { append(v, exact); });
    std::size_t next = 0;
    weights.for_each([&](const char*, const auto& v) {
      for (ssm::index_t k = 0; k < v.size(); ++k) v.data()[k] = exact[next++];
    });
    Matrix u = to_matrix(test.x.view().select(0, 0));
    const std::vector<double> dy = flat(test.dy.view());
    const auto loss = [&] {
      const auto out = flat(block_oracle<double>(config, weights, u));
      double sum = 0;
      for (std::size_t k = 0; k < dy.size(); ++k) sum += dy[k] * out[k];
      return sum;
    };
    const auto by = [&](double& v) {
      const double at = v;
      const double slope = derivative([&](double step) {
        v = at + step;
        return loss();
      });
      v = at;
      return slope;
    };
    std::vector<double> dx;
    for (auto& row : u) {
      for (double& v : row) dx.push_back(by(v));
    }
    SSM_EXPECT_CLOSE(flat(test.dx.view()), dx, gradient_tolerance<T>());
    std::vector<std::pair<std::string, std::vector<double>>> wanted;
    weights.for_each([&](const char* name, const auto& v) {
      std::vector<double> g;
      for (ssm::index_t k = 0; k < v.size(); ++k) g.push_back(by(v.data()[k]));
      wanted.emplace_back(name, g);
    });
    std::size_t parameter = 0;
    test.grads.for_each([&](const char* name, const auto& v) {
      ASSERT_LT(parameter, wanted.size());
      ASSERT_EQ(name, wanted[parameter].first);
      SCOPED_TRACE(name);
      SSM_EXPECT_CLOSE(values_of(v), wanted[parameter++].second, gradient_tolerance<T>());
    });
    EXPECT_EQ(parameter, wanted.size());
  }
}

// mamba#258, #296: into the initial state and from the final one, against differences of forward.
TYPED_TEST_P(MambaBlockTrainingSuite, StateGradientsEqualDifferences) {
  using T = typename TypeParam::T;
  if constexpr (std::is_same<T, double>::value) {
    for (const ssm::index_t length : {1, 2, 4}) {
      for (const bool norm : {false, true}) {
        ssm::MambaConfig config = tiny_config();
        config.dt_b_c_norm = norm;
        config.dt_b_c_eps = 0.05;
        const BlockUnderTest<TypeParam> block(config);
        enlarge_delta(block.parameters);
        TrainingUnderTest<TypeParam> test(block, 2, length, 2);
        test.run();
        auto start = block.random_state(2, 3);
        const auto loss = [&] {
          auto state = block.zero_state(2);
          ssm::Owned<T, 3> y({2, length, config.d_model});
          ssm::OwnedWorkspace scratch(block.block.workspace_bytes(block.backend, 2, length));
          SSM_EXPECT_OK(block.block.forward(block.backend, test.x.view(), y.view(), start.state,
                                            state.state, scratch.arena()));
          double sum = 0;
          const auto add = [&](const auto& found, const auto& weight) {
            const auto f = flat(found), w = flat(weight);
            for (std::size_t k = 0; k < f.size(); ++k) sum += f[k] * w[k];
          };
          add(y.view(), test.dy.view());
          add(state.state.ssm, test.dafter.state.ssm);
          add(state.state.conv, test.dafter.state.conv);
          return sum;
        };
        for (const auto& [value, gradient] :
             {std::pair(start.state.ssm, test.dbefore.state.ssm),
              std::pair(start.state.conv, test.dbefore.state.conv)}) {
          std::vector<double> wanted;
          for (ssm::index_t a = 0; a < value.extent(0); ++a) {
            for (ssm::index_t b = 0; b < value.extent(1); ++b) {
              for (ssm::index_t c = 0; c < value.extent(2); ++c) {
                double& v = value(a, b, c);
                const double at = v;
                wanted.push_back(derivative([&](double step) {
                  v = at + step;
                  return loss();
                }));
                v = at;
              }
            }
          }
          SSM_EXPECT_CLOSE(flat(gradient), wanted, gradient_tolerance<T>());
        }
      }
    }
  }
}

// Truncated backpropagation through time whose truncation lets everything through.
TYPED_TEST_P(MambaBlockTrainingSuite, ChunksWithCarriedStateAndGradientAreTheWhole) {
  using T = typename TypeParam::T;
  const double tolerance = reordered_tolerance<T>();
  ssm::MambaConfig config = small_config();
  config.dt_b_c_norm = true;
  const BlockUnderTest<TypeParam> block(config);
  const ssm::index_t length = 9;
  TrainingUnderTest<TypeParam> whole(block, 2, length, 2);
  whole.run();
  for (ssm::index_t cut = 0; cut <= length; ++cut) {
    SCOPED_TRACE("cut at " + std::to_string(cut));
    TrainingUnderTest<TypeParam> test(block, 2, length, 2);
    auto middle = block.zero_state(2), dmiddle = block.zero_state(2);
    const auto part = [&](const auto& v, bool tail) {
      return tail ? v.slice(1, cut, length - cut) : v.slice(1, 0, cut);
    };
    const auto tape = [&](bool tail) {
      return ssm::MambaTape<T>{part(test.tape.xz, tail), part(test.tape.dt_BC, tail)};
    };
    const auto scratch = test.workspace.arena();
    SSM_EXPECT_OK(block.block.forward_train(block.backend, part(test.x.view(), false),
                                            part(test.y.view(), false), test.before.state,
                                            middle.state, tape(false), scratch));
    SSM_EXPECT_OK(block.block.forward_train(block.backend, part(test.x.view(), true),
                                            part(test.y.view(), true), middle.state,
                                            test.after.state, tape(true), scratch));
    ssm::MambaGradArgs<T> tail = test.args(), head = test.args();
    tail.x = part(tail.x, true);
    tail.dy = part(tail.dy, true);
    tail.dx = part(tail.dx, true);
    tail.before = middle.state;
    tail.dbefore = dmiddle.state;
    SSM_EXPECT_OK(block.block.backward(block.backend, tail, tape(true), scratch));
    head.x = part(head.x, false);
    head.dy = part(head.dy, false);
    head.dx = part(head.dx, false);
    head.dafter = dmiddle.state;
    head.mode = ssm::GradMode::accumulate;
    SSM_EXPECT_OK(block.block.backward(block.backend, head, tape(false), scratch));
    SSM_EXPECT_CLOSE(flat(test.y.view()), flat(whole.y.view()), split_tolerance<T>());
    SSM_EXPECT_CLOSE(flat(test.dx.view()), flat(whole.dx.view()), tolerance);
    SSM_EXPECT_CLOSE(test.weight_gradients(), whole.weight_gradients(), tolerance);
    SSM_EXPECT_CLOSE(flat(test.dbefore.state.ssm), flat(whole.dbefore.state.ssm), tolerance);
    SSM_EXPECT_CLOSE(flat(test.dbefore.state.conv), flat(whole.dbefore.state.conv), tolerance);
  }
}

// Packed and padded batches against the sequences alone; padding holds NaN, before and after.
TYPED_TEST_P(MambaBlockTrainingSuite, PackedAndPaddedSequencesAreSeparate) {
  using T = typename TypeParam::T;
  using Accum = ssm::accum_t<T>;
  const double tolerance = reordered_tolerance<T>();
  const ssm::MambaConfig config = small_config();
  const BlockUnderTest<TypeParam> block(config);
  for (const bool packed : {true, false}) {
    SCOPED_TRACE(packed ? "packed" : "padded");
    const auto starts = index_array({0, 3, 3, 4, 12});
    const auto lengths = index_array({3, 0, 1, 8});
    TrainingUnderTest<TypeParam> test(block, packed ? 1 : 4, packed ? 12 : 8, 4);
    if (packed) {
      test.sequences.starts = starts.view();
    } else {
      test.sequences.lengths = lengths.view();
    }
    if (!packed && !ssm::reads_on_host<typename TypeParam::Backend>) {
      EXPECT_EQ(std::string(block.block
                                .forward_train(block.backend, test.x.view(), test.y.view(),
                                               test.before.state, test.after.state, test.tape,
                                               test.workspace.arena(), test.sequences)
                                .message()
                                .text),
                "MambaBlock::forward_train: sequences.lengths must be absent: pack the sequences "
                "instead");
      continue;
    }
    const auto range = [&](ssm::index_t i) { return test.sequences.range(i, test.x.extent(1)); };
    const auto part = [&](const auto& v, ssm::index_t i) {
      return v.slice(0, range(i).row, 1).slice(1, range(i).begin, lengths.data()[i]);
    };
    const T nan = T(std::numeric_limits<Accum>::quiet_NaN());
    for (ssm::index_t i = 0; i < 4 && !packed; ++i) {
      for (ssm::index_t t = lengths.data()[i]; t < 8; ++t) {
        for (ssm::index_t k = 0; k < config.d_model; ++k) {
          test.x.view()(i, t, k) = test.dy.view()(i, t, k) = nan;
        }
      }
    }
    test.run();

    TrainingUnderTest<TypeParam> alone(block, 1, 8, 4);
    alone.mode = ssm::GradMode::overwrite;
    for (ssm::index_t i = 0; i < 4; ++i) {
      const auto first = [&](const auto& v) { return v.slice(1, 0, lengths.data()[i]); };
      const ssm::MambaTape<T> tape{first(alone.tape.xz), first(alone.tape.dt_BC)};
      SSM_EXPECT_OK(block.block.forward_train(block.backend, part(test.x.view(), i),
                                              first(alone.y.view()), test.before.state.rows(i, 1),
                                              alone.after.state.rows(i, 1), tape,
                                              alone.workspace.arena()));
      ssm::MambaGradArgs<T> a = alone.args();
      a.x = part(test.x.view(), i);
      a.dy = part(test.dy.view(), i);
      a.dx = first(alone.dx.view());
      a.before = test.before.state.rows(i, 1);
      a.dafter = test.dafter.state.rows(i, 1);
      a.dbefore = alone.dbefore.state.rows(i, 1);
      SSM_EXPECT_OK(block.block.backward(block.backend, a, tape, alone.workspace.arena()));
      alone.mode = ssm::GradMode::accumulate;
      SSM_EXPECT_CLOSE(flat(part(test.y.view(), i)), flat(first(alone.y.view())),
                       split_tolerance<T>());
      SSM_EXPECT_CLOSE(flat(part(test.dx.view(), i)), flat(first(alone.dx.view())), tolerance);
      if (packed) continue;
      const auto rest = [&](const auto& v) {
        return flat(v.slice(0, i, 1).slice(1, lengths.data()[i], 8 - lengths.data()[i]));
      };
      for (double v : rest(test.y.view())) EXPECT_TRUE(std::isnan(v));
      for (double v : rest(test.dx.view())) EXPECT_TRUE(std::isnan(v));
    }
    SSM_EXPECT_CLOSE(test.weight_gradients(), alone.weight_gradients(), tolerance);
    SSM_EXPECT_CLOSE(flat(test.after.state.ssm), flat(alone.after.state.ssm), split_tolerance<T>());
    SSM_EXPECT_CLOSE(flat(test.dbefore.state.ssm), flat(alone.dbefore.state.ssm), tolerance);
    SSM_EXPECT_CLOSE(flat(test.dbefore.state.conv), flat(alone.dbefore.state.conv), tolerance);
  }
}

TYPED_TEST_P(MambaBlockTrainingSuite, IgnoreOverwriteAccumulate) {
  using T = typename TypeParam::T;
  const BlockUnderTest<TypeParam> block(small_config());
  TrainingUnderTest<TypeParam> test(block, 2, 5, 2);
  test.mode = ssm::GradMode::ignore;
  test.run();
  const auto dx = flat(test.dx.view());
  for (double v : test.weight_gradients()) EXPECT_TRUE(std::isnan(v));
  test.mode = ssm::GradMode::overwrite;
  test.backward();
  const auto once = test.weight_gradients();
  test.mode = ssm::GradMode::accumulate;
  test.backward();
  std::vector<double> twice = once;
  for (double& v : twice) v *= 2;
  SSM_EXPECT_CLOSE(test.weight_gradients(), twice, 1e-6);
  EXPECT_EQ(flat(test.dx.view()), dx);

  // Each gradient alone, and none.
  ssm::MambaGradArgs<T> a = test.args();
  a.mode = ssm::GradMode::overwrite;
  a.grads = {};
  a.dx = {};
  a.dbefore = {};
  SSM_EXPECT_OK(block.block.backward(block.backend, a, test.tape, test.workspace.arena()));
  a.grads.A_log = test.grads.A_log;
  a.grads.conv1d_bias = test.grads.conv1d_bias;
  SSM_EXPECT_OK(block.block.backward(block.backend, a, test.tape, test.workspace.arena()));
  std::vector<double> again;
  test.grads.for_each([&](const char* name, const auto& v) {
    std::vector<double> g = values_of(v);
    const bool alone = std::string(name) == "A_log" || std::string(name) == "conv1d.bias";
    for (double& value : g) value *= alone ? 2 : 1;
    again.insert(again.end(), g.begin(), g.end());
  });
  SSM_EXPECT_CLOSE(again, twice, 1e-6);
}

// mamba#137, #493: the same bits; and the memory that carries the gradient may be reused.
TYPED_TEST_P(MambaBlockTrainingSuite, TwoRunsGiveTheSameBitsAlsoInPlace) {
  using T = typename TypeParam::T;
  const BlockUnderTest<TypeParam> block(small_config());
  TrainingUnderTest<TypeParam> first(block, 2, 9, 2), second(block, 2, 9, 2);
  first.run();
  second.forward();
  ssm::MambaGradArgs<T> a = second.args();
  a.dx = second.dy.view();
  a.dbefore = second.dafter.state;
  SSM_EXPECT_OK(block.block.backward(block.backend, a, second.tape, second.workspace.arena()));
  EXPECT_EQ(first.weight_gradients(), second.weight_gradients());
  EXPECT_EQ(flat(first.dx.view()), flat(second.dy.view()));
  EXPECT_EQ(flat(first.dbefore.state.ssm), flat(second.dafter.state.ssm));
  EXPECT_EQ(flat(first.dbefore.state.conv), flat(second.dafter.state.conv));
}

TYPED_TEST_P(MambaBlockTrainingSuite, NothingToDoPassesTheStatesGradientOn) {
  const BlockUnderTest<TypeParam> block(small_config());
  for (const ssm::index_t batch : {0, 2}) {
    TrainingUnderTest<TypeParam> test(block, batch, batch == 0 ? 4 : 0, batch);
    test.run();
    for (double v : test.weight_gradients()) EXPECT_EQ(v, 0.0);
    EXPECT_EQ(flat(test.dbefore.state.ssm), flat(test.dafter.state.ssm));
    EXPECT_EQ(flat(test.dbefore.state.conv), flat(test.dafter.state.conv));
  }
}

// What is kept per token is what the documentation says, and less than mamba_ssm's mamba_inner_fn,
// which keeps xz, the projected dt, B and C, the scan's output and fp32 states of each chunk.
TYPED_TEST_P(MambaBlockTrainingSuite, TapeHoldsTwoProjections) {
  const ssm::MambaConfig c = ssm::mamba_config(768);
  using T = typename TypeParam::T;
  const std::size_t tokens = 2 * 2048;
  const std::size_t wanted =
      tokens * sizeof(T) * static_cast<std::size_t>(2 * c.d_inner + c.dt_rank + 2 * c.d_state);
  const std::size_t bytes = ssm::MambaTape<T>::bytes(c, 2, 2048);
  EXPECT_GE(bytes, wanted);
  EXPECT_LE(bytes, wanted + 3 * ssm::Arena::kAlignment);
}

TYPED_TEST_P(MambaBlockTrainingSuite, BadInputIsNamedAndNothingIsWritten) {
  using T = typename TypeParam::T;
  using Args = ssm::MambaGradArgs<T>;
  const BlockUnderTest<TypeParam> block(small_config());
  TrainingUnderTest<TypeParam> test(block, 2, 5, 2);
  const auto forward = [&](const ssm::View<const T, 3>& x, const ssm::View<T, 3>& y,
                           const ssm::MambaState<T>& after, const ssm::MambaTape<T>& tape,
                           ssm::Arena arena) {
    const ssm::Status status =
        block.block.forward_train(block.backend, x, y, test.before.state, after, tape, arena);
    for (double v : flat(test.y.view())) EXPECT_TRUE(std::isnan(v));
    return std::string(status.message().text);
  };
  const auto arena = test.workspace.arena();
  EXPECT_EQ(
      forward(test.x.view().slice(2, 0, 11), test.y.view(), test.after.state, test.tape, arena),
      "MambaBlock::forward_train: x.extent(2) is 11, must equal 12");
  EXPECT_EQ(
      forward(test.x.view(), test.y.view().slice(1, 0, 4), test.after.state, test.tape, arena),
      "MambaBlock::forward_train: y.extent(1) is 4, must equal 5");
  EXPECT_EQ(forward(test.x.view(), test.y.view(), test.before.state, test.tape, arena),
            "MambaBlock::forward_train: after must not be before: backward reads that");
  EXPECT_EQ(forward(test.x.view(), test.y.view(), test.after.state, {}, arena),
            "MambaTape: xz.extent(0) is 0, must equal 2");
  EXPECT_NE(
      forward(test.x.view(), test.y.view(), test.after.state, test.tape, ssm::Arena(nullptr, 0))
          .find("MambaBlock::forward_train: workspace bytes is 0, must be at least"),
      std::string::npos);
  test.forward();

  const auto backward = [&](const std::function<void(Args&)>& spoil, ssm::Arena memory) {
    Args a = test.args();
    spoil(a);
    const ssm::Status status = block.block.backward(block.backend, a, test.tape, memory);
    for (double v : test.weight_gradients()) EXPECT_TRUE(std::isnan(v));
    for (double v : flat(test.dx.view())) EXPECT_TRUE(std::isnan(v));
    return std::string(status.message().text);
  };
  EXPECT_EQ(backward([](Args& a) { a.dy = {}; }, arena),
            "MambaBlock::backward: dy.extent(0) is 0, must equal 2");
  EXPECT_EQ(backward([](Args& a) { a.dx = a.dx.slice(2, 0, 3); }, arena),
            "MambaBlock::backward: dx.extent(2) is 3, must equal 12");
  EXPECT_EQ(backward([](Args& a) { a.dafter = a.dafter.rows(0, 1); }, arena),
            "MambaState: conv.extent(0) is 1, must equal 2");
  EXPECT_EQ(backward([](Args& a) { a.grads.A_log = a.grads.A_log.slice(1, 0, 4); }, arena),
            "MambaGrads: A_log.extent(1) is 4, must equal 5");
  EXPECT_NE(backward([](Args&) {}, ssm::Arena(nullptr, 0))
                .find("MambaBlock::backward: workspace bytes is 0, must be at least"),
            std::string::npos);
  EXPECT_EQ(std::string(typename BlockUnderTest<TypeParam>::Block()
                            .backward(block.backend, test.args(), test.tape, arena)
                            .message()
                            .text),
            "MambaBlock::backward: block is not prepared");
}

REGISTER_TYPED_TEST_SUITE_P(MambaBlockTrainingSuite, ForwardIsForward,
                            GradientsEqualDifferencesOfTheOracle, StateGradientsEqualDifferences,
                            ChunksWithCarriedStateAndGradientAreTheWhole,
                            PackedAndPaddedSequencesAreSeparate, IgnoreOverwriteAccumulate,
                            TwoRunsGiveTheSameBitsAlsoInPlace, NothingToDoPassesTheStatesGradientOn,
                            TapeHoldsTwoProjections, BadInputIsNamedAndNothingIsWritten);

}  // namespace ssm_test
