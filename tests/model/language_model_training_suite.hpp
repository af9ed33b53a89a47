#pragma once

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "block/gradient_checks.hpp"
#include "model/model_under_test.hpp"
#include "ssm/ops/cross_entropy.hpp"

// What LanguageModel<T, Backend>::forward_train and backward must do, for every backend and storage
// type. A device backend runs it on memory that the host reaches too.
namespace ssm_test {

// One training step: tokens, targets, the loss over them and over the final state, and memory for
// all gradients.
template <class On>
class ModelTrainingUnderTest {
 public:
  using T = typename On::T;
  using Accum = ssm::accum_t<T>;
  using Test = ModelUnderTest<On>;
  using index_t = ssm::index_t;

  ModelTrainingUnderTest(const Test& test_, index_t batch, index_t length, index_t states)
      : test(test_),
        ids(test.random_ids(batch, length)),
        targets({batch, length}),
        logits({batch, length, test.config.vocab_size}),
        dlogits({batch, length, test.config.vocab_size}),
        before(random_state(states, 3)),
        after(test.zero_state(states)),
        dafter(random_state(states, 5)),
        dbefore(test.zero_state(states)) {
    ssm::Random random(21);
    for (std::size_t i = 0; i < targets.size(); ++i) {
      targets.data()[i] = i % 5 == 3 ? -100 : random.below(test.config.vocab_size);
    }
    grads = grad_memory.carve([&](ssm::Arena& arena) {
      return ssm::LanguageModelGrads<T>::carve(test.config, arena, arena);
    });
    grads.for_each([](const char*, const auto& v) { fill_nan(v); });
    tape = tape_memory.carve([&](ssm::Arena& arena) {
      return ssm::LanguageModelTape<T>::carve(test.config, batch, length, arena);
    });
    workspace = ssm::OwnedWorkspace(test.model.training_workspace_bytes(
        test.backend, batch, length, states == batch ? 0 : states));
  }

  typename Test::StateMemory random_state(index_t states, std::uint64_t seed) const {
    auto s = test.zero_state(states);
    ssm::Random random(seed);
    for (auto* view : {&s.state.conv, &s.state.ssm}) {
      for (index_t i = 0; i < view->size(); ++i) {
        view->data()[i] = static_cast<Accum>(0.3 * random.normal());
      }
    }
    return s;
  }

  ssm::LanguageModelGradArgs<T> args() {
    ssm::LanguageModelGradArgs<T> a;
    a.ids = ids.view();
    a.before = before.state;
    a.dlogits = dlogits.view();
    a.dafter = dafter.state;
    a.dbefore = dbefore.state;
    a.grads = grads;
    a.mode = mode;
    a.sequences = sequences;
    return a;
  }
  void forward() {
    SSM_EXPECT_OK(test.model.forward_train(test.backend, ids.view(), logits.view(), before.state,
                                           after.state, tape, workspace.arena(), sequences));
  }
  // The mean cross-entropy, with dlogits.
  double cross_entropy_loss() {
    ssm::Owned<Accum, 1> value({1});
    ssm::CrossEntropyArgs<Accum> ce;
    ce.logits = logits.view();
    ce.targets = targets.view();
    ce.loss = value.view();
    ce.dlogits = dlogits.view();
    const ssm::OwnedWorkspace scratch(scratch_bytes(test.backend, ce));
    SSM_EXPECT_OK(cross_entropy(test.backend, ce, scratch.arena()));
    return static_cast<double>(value.data()[0]);
  }
  void run() {
    forward();
    cross_entropy_loss();
    SSM_EXPECT_OK(test.model.backward(test.backend, args(), tape, workspace.arena()));
  }

  std::vector<double> gradients() const {
    std::vector<double> out;
    grads.for_each([&](const char*, const auto& v) { append(v, out); });
    return out;
  }

  const Test& test;
  ssm::Owned<index_t, 2> ids, targets;
  ssm::Owned<Accum, 3> logits, dlogits;
  typename Test::StateMemory before, after, dafter, dbefore;
  ssm::OwnedWorkspace grad_memory, tape_memory, workspace;
  ssm::LanguageModelGrads<T> grads;
  ssm::LanguageModelTape<T> tape;
  ssm::Sequences sequences;
  ssm::GradMode mode = ssm::GradMode::overwrite;
};

template <class On>
class LanguageModelTrainingSuite : public ::testing::Test {};
TYPED_TEST_SUITE_P(LanguageModelTrainingSuite);

TYPED_TEST_P(LanguageModelTrainingSuite, ForwardIsForward) {
  using T = typename TypeParam::T;
  for (const bool tied : {true, false}) {
    const ModelUnderTest<TypeParam> model(tied);
    ModelTrainingUnderTest<TypeParam> test(model, 2, 7, 2);
    test.forward();
    auto state = test.random_state(2, 3);
    const auto logits = model.run(test.ids.view(), state.state);
    SSM_EXPECT_CLOSE(flat(test.logits.view()), flat(logits.view()), split_tolerance<T>());
    SSM_EXPECT_CLOSE(values_of(test.after.state.ssm), values_of(state.state.ssm),
                     split_tolerance<T>());
    SSM_EXPECT_CLOSE(values_of(test.after.state.conv), values_of(state.state.conv),
                     split_tolerance<T>());
  }
}

// In double, a dozen elements of every array against differences of forward and the loss; the
// initial state too.
TYPED_TEST_P(LanguageModelTrainingSuite, GradientsEqualDifferences) {
  using T = typename TypeParam::T;
  if constexpr (std::is_same<T, double>::value) {
    for (const bool tied : {true, false}) {
      SCOPED_TRACE(tied ? "tied" : "untied");
      ModelUnderTest<TypeParam> model(tied);
      // Of order one, so that the first norm is smooth on the scale of the differences' steps.
      const auto embedding = model.weights.embedding;
      for (ssm::index_t i = 0; i < embedding.size(); ++i) embedding.data()[i] *= 40;
      for (ssm::index_t i = 0; i < model.config.n_layer; ++i) {
        enlarge_delta(model.weights.layers[i].mixer);
      }
      model.prepare(ssm::WeightFormat::native);
      ModelTrainingUnderTest<TypeParam> test(model, 2, 3, 2);
      test.run();
      const std::vector<double> dafter = values_of(test.dafter.state.ssm);
      const std::vector<double> dafter_conv = values_of(test.dafter.state.conv);
      ModelTrainingUnderTest<TypeParam> again(model, 2, 3, 2);
      const auto loss = [&] {
        model.prepare(ssm::WeightFormat::native);
        again.forward();
        double sum = again.cross_entropy_loss();
        const auto ssm = values_of(again.after.state.ssm);
        const auto conv = values_of(again.after.state.conv);
        for (std::size_t i = 0; i < ssm.size(); ++i) sum += ssm[i] * dafter[i];
        for (std::size_t i = 0; i < conv.size(); ++i) sum += conv[i] * dafter_conv[i];
        return sum;
      };
      const auto sampled = [&](double* value, double* gradient, ssm::index_t size) {
        std::vector<double> found, wanted;
        for (ssm::index_t i = 0; i < size; i += 1 + size / 12) {
          const double at = value[i];
          wanted.push_back(derivative([&](double step) {
            value[i] = at + step;
            return loss();
          }));
          value[i] = at;
          found.push_back(gradient[i]);
        }
        SSM_EXPECT_CLOSE(found, wanted, gradient_tolerance<T>());
      };
      std::vector<std::pair<double*, ssm::index_t>> gradients;
      test.grads.for_each(
          [&](const char*, const auto& v) { gradients.emplace_back(v.data(), v.size()); });
      std::size_t next = 0;
      model.weights.for_each([&](const char* name, const auto& v) {
        SCOPED_TRACE(name);
        ASSERT_EQ(v.size(), gradients[next].second);
        sampled(v.data(), gradients[next++].first, v.size());
      });
      EXPECT_EQ(next, gradients.size());
      model.prepare(ssm::WeightFormat::native);
      sampled(again.before.state.ssm.data(), test.dbefore.state.ssm.data(),
              again.before.state.ssm.size());
      sampled(again.before.state.conv.data(), test.dbefore.state.conv.data(),
              again.before.state.conv.size());
    }
  }
}

// The two-byte types and float give the gradient of the next wider type on the same weights.
TYPED_TEST_P(LanguageModelTrainingSuite, NarrowTypesAgreeWithWideOnes) {
  using T = typename TypeParam::T;
  using Wide = std::conditional_t<sizeof(T) == 2, float, double>;
  if constexpr (!std::is_same<T, Wide>::value) {
    const ModelUnderTest<TypeParam> model(false);
    ModelUnderTest<typename TypeParam::template With<Wide>> wide(false);
    std::vector<double> weights;
    model.weights.for_each([&](const char*, const auto& v) { append(v, weights); });
    std::size_t next = 0;
    wide.weights.for_each([&](const char*, const auto& v) {
      using E = typename std::decay_t<decltype(v)>::value_type;
      for (ssm::index_t i = 0; i < v.size(); ++i) v.data()[i] = E(weights[next++]);
    });
    wide.prepare(ssm::WeightFormat::native);
    ModelTrainingUnderTest<TypeParam> narrow_step(model, 2, 9, 2);
    ModelTrainingUnderTest<typename TypeParam::template With<Wide>> wide_step(wide, 2, 9, 2);
    narrow_step.run();
    wide_step.run();
    SSM_EXPECT_CLOSE(narrow_step.gradients(), wide_step.gradients(), gradient_tolerance<T>());
    SSM_EXPECT_CLOSE(values_of(narrow_step.dbefore.state.ssm),
                     values_of(wide_step.dbefore.state.ssm), gradient_tolerance<T>());
  }
}

// mamba#258, #296.
TYPED_TEST_P(LanguageModelTrainingSuite, ChunksWithCarriedStateAndGradientAreTheWhole) {
  using T = typename TypeParam::T;
  const ModelUnderTest<TypeParam> model;
  const ssm::index_t length = 6;
  ModelTrainingUnderTest<TypeParam> whole(model, 2, length, 2);
  whole.run();
  for (const ssm::index_t cut : {0, 1, 3, 5, 6}) {
    SCOPED_TRACE("cut at " + std::to_string(cut));
    ModelTrainingUnderTest<TypeParam> test(model, 2, length, 2);
    auto middle = model.zero_state(2), dmiddle = model.zero_state(2);
    const auto part = [&](const auto& v, bool tail) {
      return tail ? v.slice(1, cut, length - cut) : v.slice(1, 0, cut);
    };
    const auto tape = [&](bool tail) {
      const auto cut_tape = [&](const auto& v) {
        return tail ? v.slice(2, cut, length - cut) : v.slice(2, 0, cut);
      };
      return ssm::LanguageModelTape<T>{cut_tape(test.tape.residual), cut_tape(test.tape.xz),
                                       cut_tape(test.tape.dt_BC)};
    };
    const auto scratch = test.workspace.arena();
    SSM_EXPECT_OK(model.model.forward_train(model.backend, part(test.ids.view(), false),
                                            part(test.logits.view(), false), test.before.state,
                                            middle.state, tape(false), scratch));
    SSM_EXPECT_OK(model.model.forward_train(model.backend, part(test.ids.view(), true),
                                            part(test.logits.view(), true), middle.state,
                                            test.after.state, tape(true), scratch));
    test.cross_entropy_loss();
    auto tail = test.args(), head = test.args();
    tail.ids = part(tail.ids, true);
    tail.dlogits = part(tail.dlogits, true);
    tail.before = middle.state;
    tail.dbefore = dmiddle.state;
    SSM_EXPECT_OK(model.model.backward(model.backend, tail, tape(true), scratch));
    head.ids = part(head.ids, false);
    head.dlogits = part(head.dlogits, false);
    head.dafter = dmiddle.state;
    head.mode = ssm::GradMode::accumulate;
    SSM_EXPECT_OK(model.model.backward(model.backend, head, tape(false), scratch));
    SSM_EXPECT_CLOSE(test.gradients(), whole.gradients(), reordered_tolerance<T>());
    SSM_EXPECT_CLOSE(values_of(test.dbefore.state.ssm), values_of(whole.dbefore.state.ssm),
                     reordered_tolerance<T>());
  }
}

TYPED_TEST_P(LanguageModelTrainingSuite, PackedAndPaddedSequencesAreSeparate) {
  using T = typename TypeParam::T;
  using Accum = ssm::accum_t<T>;
  const ModelUnderTest<TypeParam> model;
  const auto lengths = index_array({3, 6}), starts = index_array({0, 3, 9});
  ModelTrainingUnderTest<TypeParam> padded(model, 2, 6, 2), packed(model, 1, 9, 2);
  for (ssm::index_t t = 0; t < 9; ++t) {
    const ssm::index_t b = t < 3 ? 0 : 1, at = t < 3 ? t : t - 3;
    packed.ids.view()(0, t) = padded.ids.view()(b, at);
    packed.targets.view()(0, t) = padded.targets.view()(b, at);
  }
  for (ssm::index_t t = 3; t < 6; ++t) {
    padded.ids.view()(0, t) = -1;  // padding may hold anything
    padded.targets.view()(0, t) = -100;
    for (ssm::index_t v = 0; v < model.config.vocab_size; ++v) {
      padded.logits.view()(0, t, v) = std::numeric_limits<Accum>::quiet_NaN();
    }
  }
  padded.sequences.lengths = lengths.view();
  packed.sequences.starts = starts.view();
  packed.run();
  if (!ssm::reads_on_host<typename TypeParam::Backend>) {
    EXPECT_EQ(std::string(model.model
                              .forward_train(model.backend, padded.ids.view(), padded.logits.view(),
                                             padded.before.state, padded.after.state, padded.tape,
                                             padded.workspace.arena(), padded.sequences)
                              .message()
                              .text),
              "LanguageModel::forward_train: sequences.lengths must be absent: pack the sequences "
              "instead");
    return;
  }
  padded.run();
  SSM_EXPECT_CLOSE(padded.gradients(), packed.gradients(), reordered_tolerance<T>());
  SSM_EXPECT_CLOSE(values_of(padded.dbefore.state.ssm), values_of(packed.dbefore.state.ssm),
                   reordered_tolerance<T>());
  SSM_EXPECT_CLOSE(flat(packed.logits.view().slice(1, 3, 6)),
                   flat(padded.logits.view().slice(0, 1, 1)), split_tolerance<T>());
  for (double v : flat(padded.logits.view().slice(0, 0, 1).slice(1, 3, 3))) {
    EXPECT_TRUE(std::isnan(v));
  }
}

// mamba#137, #493; and twice the gradient of two micro-batches that are the same.
TYPED_TEST_P(LanguageModelTrainingSuite, SameBitsAndAccumulation) {
  for (const bool tied : {true, false}) {
    const ModelUnderTest<TypeParam> model(tied);
    ModelTrainingUnderTest<TypeParam> first(model, 2, 6, 2), second(model, 2, 6, 2);
    first.run();
    second.run();
    EXPECT_EQ(first.gradients(), second.gradients());
    second.mode = ssm::GradMode::accumulate;
    second.run();
    std::vector<double> twice = first.gradients();
    for (double& v : twice) v *= 2;
    SSM_EXPECT_CLOSE(second.gradients(), twice, 1e-6);
    second.mode = ssm::GradMode::ignore;
    const auto kept = second.gradients();
    second.run();
    EXPECT_EQ(second.gradients(), kept);
    // The norm of the last layer alone.
    auto a = first.args();
    const auto wanted = values_of(first.grads.norm_f_weight);
    fill_nan(first.grads.norm_f_weight);
    a.grads = {};
    a.grads.norm_f_weight = first.grads.norm_f_weight;
    SSM_EXPECT_OK(model.model.backward(model.backend, a, first.tape, first.workspace.arena()));
    EXPECT_EQ(values_of(first.grads.norm_f_weight), wanted);
  }
}

TYPED_TEST_P(LanguageModelTrainingSuite, BadInputIsNamedAndNothingIsWritten) {
  using T = typename TypeParam::T;
  const ModelUnderTest<TypeParam> model;
  ModelTrainingUnderTest<TypeParam> test(model, 2, 4, 2);
  for (std::size_t i = 0; i < test.logits.size(); ++i) test.logits.data()[i] = 77;
  const auto forward = [&](const ssm::LanguageModelTape<T>& tape,
                           const ssm::LanguageModelState<T>& after, ssm::Arena arena) {
    const ssm::Status status = model.model.forward_train(
        model.backend, test.ids.view(), test.logits.view(), test.before.state, after, tape, arena);
    for (std::size_t i = 0; i < test.logits.size(); ++i) EXPECT_EQ(test.logits.data()[i], 77);
    return std::string(status.message().text);
  };
  const auto arena = test.workspace.arena();
  if (ssm::reads_on_host<typename TypeParam::Backend>) {
    test.ids.view()(1, 2) = 23;
    EXPECT_EQ(forward(test.tape, test.after.state, arena),
              "embedding: ids value is 23, must be at most 22");
    test.ids.view()(1, 2) = 0;
  }
  EXPECT_EQ(forward({}, test.after.state, arena),
            "LanguageModelTape: residual.extent(0) is 0, must equal 4");
  EXPECT_EQ(forward(test.tape, test.before.state, arena),
            "LanguageModel::forward_train: after must not be before: backward reads that");
  EXPECT_NE(forward(test.tape, test.after.state, ssm::Arena(nullptr, 0))
                .find("workspace bytes is 0, must be at least"),
            std::string::npos);
  test.forward();
  const auto backward = [&](auto spoil) {
    auto a = test.args();
    spoil(a);
    const ssm::Status status = model.model.backward(model.backend, a, test.tape, arena);
    for (double v : test.gradients()) EXPECT_TRUE(std::isnan(v));
    return std::string(status.message().text);
  };
  EXPECT_EQ(backward([](auto& a) { a.dlogits = a.dlogits.slice(2, 0, 22); }),
            "LanguageModel::backward: dlogits.extent(2) is 22, must equal 23");
  EXPECT_EQ(backward([](auto& a) { a.grads.embedding = a.grads.embedding.slice(0, 0, 22); }),
            "LanguageModelGrads: backbone.embeddings.weight.extent(0) is 22, must equal 23");
  EXPECT_EQ(backward([](auto& a) { a.grads.lm_head = a.grads.embedding; }),
            "LanguageModelGrads: lm_head.weight must be absent: the configuration ties it to the "
            "embedding");
  EXPECT_EQ(backward([](auto& a) { a.dafter = a.dafter.rows(0, 1); }),
            "LanguageModel::backward: state.conv.extent(1) is 1, must equal 2");
}

REGISTER_TYPED_TEST_SUITE_P(LanguageModelTrainingSuite, ForwardIsForward, GradientsEqualDifferences,
                            NarrowTypesAgreeWithWideOnes,
                            ChunksWithCarriedStateAndGradientAreTheWhole,
                            PackedAndPaddedSequencesAreSeparate, SameBitsAndAccumulation,
                            BadInputIsNamedAndNothingIsWritten);

}  // namespace ssm_test
