#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "model/model_under_test.hpp"

// Laws of LanguageModel<T, Backend> on random weights, for every host backend and storage type.
namespace ssm_test {

template <class On>
class LanguageModelSuite : public ::testing::Test {};
TYPED_TEST_SUITE_P(LanguageModelSuite);

TYPED_TEST_P(LanguageModelSuite, EverySplitAndEveryStepIsTheWhole) {
  using T = typename TypeParam::T;
  for (bool tied : {true, false}) {
    const ModelUnderTest<TypeParam> test(tied);
    const ssm::index_t length = 8;
    const auto ids = test.random_ids(2, length);
    const auto whole = test.run(ids.view(), {});
    for (ssm::index_t cut = 0; cut <= length; ++cut) {
      auto s = test.zero_state(2);
      test.run(ids.view().slice(1, 0, cut), s.state);
      SSM_EXPECT_CLOSE(flat(test.run(ids.view().slice(1, cut, length - cut), s.state).view()),
                       flat(whole.view().slice(1, cut, length - cut)), split_tolerance<T>());
    }
    auto s = test.zero_state(2);
    ssm::OwnedWorkspace scratch(test.model.workspace_bytes(test.backend, 2, 1));
    for (ssm::index_t t = 0; t < length; ++t) {
      typename ModelUnderTest<TypeParam>::LogitsArray logits({2, 1, test.config.vocab_size});
      SSM_EXPECT_OK(test.model.step(test.backend, ids.view().select(1, t),
                                    logits.view().select(1, 0), s.state, scratch.arena()));
      SSM_EXPECT_CLOSE(flat(logits.view()), flat(whole.view().slice(1, t, 1)),
                       split_tolerance<T>());
    }
  }
}

// Longer than any chunk of time that a backend works in.
TYPED_TEST_P(LanguageModelSuite, LongSequencesAreTheirParts) {
  using T = typename TypeParam::T;
  const ModelUnderTest<TypeParam> test;
  const ssm::index_t length = 300;
  const auto ids = test.random_ids(2, length);
  const auto whole = test.run(ids.view(), {});
  auto s = test.zero_state(2);
  for (ssm::index_t t = 0; t < length; t += 43) {
    const ssm::index_t n = std::min<ssm::index_t>(43, length - t);
    SSM_EXPECT_CLOSE(flat(test.run(ids.view().slice(1, t, n), s.state).view()),
                     flat(whole.view().slice(1, t, n)), split_tolerance<T>());
  }
  SSM_EXPECT_CLOSE(flat(test.run(ids.view(), {}, ssm::Logits::last).view()),
                   flat(whole.view().slice(1, length - 1, 1)), split_tolerance<T>());
}

TYPED_TEST_P(LanguageModelSuite, LastLogitsAreTheLastOfAll) {
  using T = typename TypeParam::T;
  const ModelUnderTest<TypeParam> test;
  const auto ids = test.random_ids(3, 7);
  const auto all = test.run(ids.view(), {});
  SSM_EXPECT_CLOSE(flat(test.run(ids.view(), {}, ssm::Logits::last).view()),
                   flat(all.view().slice(1, 6, 1)), split_tolerance<T>());
}

TYPED_TEST_P(LanguageModelSuite, PaddedAndPackedSequencesAreSeparate) {
  using T = typename TypeParam::T;
  const ModelUnderTest<TypeParam> test;
  const ssm::index_t lengths[] = {3, 6};
  auto ids = test.random_ids(2, 6);
  ids.view()(0, 4) = -1;  // padding may hold anything
  ssm::Sequences padded;
  padded.lengths = ssm::View<const ssm::index_t, 1>(lengths, {2});
  auto s = test.zero_state(2);
  const auto last = test.run(ids.view(), s.state, ssm::Logits::last, padded);

  const ssm::index_t starts[] = {0, 3, 9};
  ssm::Owned<ssm::index_t, 2> joined({1, 9});
  for (ssm::index_t t = 0; t < 9; ++t) {
    joined.view()(0, t) = t < 3 ? ids.view()(0, t) : ids.view()(1, t - 3);
  }
  ssm::Sequences packed;
  packed.starts = ssm::View<const ssm::index_t, 1>(starts, {3});
  auto s2 = test.zero_state(2);
  const auto all = test.run(joined.view(), s2.state, ssm::Logits::all, packed);

  for (ssm::index_t b = 0; b < 2; ++b) {
    auto alone_state = test.zero_state(1);
    const auto alone =
        test.run(ids.view().slice(0, b, 1).slice(1, 0, lengths[b]), alone_state.state);
    SSM_EXPECT_CLOSE(flat(last.view().slice(0, b, 1)),
                     flat(alone.view().slice(1, lengths[b] - 1, 1)), split_tolerance<T>());
    SSM_EXPECT_CLOSE(flat(all.view().slice(1, starts[b], lengths[b])), flat(alone.view()),
                     split_tolerance<T>());
    for (ssm::index_t l = 0; l < test.config.n_layer; ++l) {
      const auto wanted = flat(alone_state.state.layer(l).ssm);
      SSM_EXPECT_CLOSE(flat(s.state.layer(l).rows(b, 1).ssm), wanted, split_tolerance<T>());
      SSM_EXPECT_CLOSE(flat(s2.state.layer(l).rows(b, 1).ssm), wanted, split_tolerance<T>());
    }
  }
}

// llama.cpp#26695, TensorRT-LLM#13453: a snapshot is a copy of the two arrays.
TYPED_TEST_P(LanguageModelSuite, SnapshotAndRollback) {
  const ModelUnderTest<TypeParam> test;
  const auto ids = test.random_ids(2, 6);
  auto s = test.zero_state(2);
  test.run(ids.view().slice(1, 0, 3), s.state);
  const std::vector<unsigned char> snapshot(
      reinterpret_cast<const unsigned char*>(s.memory.arena().template allocate<char>(1)),
      reinterpret_cast<const unsigned char*>(s.memory.arena().template allocate<char>(1)) +
          s.memory.size() - 63);
  const auto first = flat(test.run(ids.view().slice(1, 3, 3), s.state).view());
  std::copy(snapshot.begin(), snapshot.end(), s.memory.arena().template allocate<unsigned char>(1));
  EXPECT_EQ(flat(test.run(ids.view().slice(1, 3, 3), s.state).view()), first);
}

TYPED_TEST_P(LanguageModelSuite, ShowsEveryLayerToAnObserver) {
  using T = typename TypeParam::T;
  const ModelUnderTest<TypeParam> test;
  const auto ids = test.random_ids(1, 4);
  ssm::OwnedWorkspace scratch(test.model.workspace_bytes(test.backend, 1, 4));
  std::vector<std::vector<double>> residuals, mixed;
  SSM_EXPECT_OK(test.model.forward(test.backend, ids.view(), {}, {}, scratch.arena(),
                                   ssm::Logits::all, {}, [&](const ssm::LayerTrace<T>& trace) {
                                     EXPECT_EQ(trace.layer,
                                               static_cast<ssm::index_t>(residuals.size()));
                                     residuals.push_back(flat(trace.residual));
                                     if (trace.mixer_out.present())
                                       mixed.push_back(flat(trace.mixer_out));
                                   }));
  ASSERT_EQ(residuals.size(), 4u);
  ASSERT_EQ(mixed.size(), 3u);
  for (std::size_t i = 0; i < 3; ++i) {
    std::vector<double> sum = residuals[i];
    for (std::size_t j = 0; j < sum.size(); ++j) sum[j] += mixed[i][j];
    SSM_EXPECT_CLOSE(residuals[i + 1], sum, 1e-6);
  }
}

TYPED_TEST_P(LanguageModelSuite, BadInputIsNamedAndNothingIsWritten) {
  using T = typename TypeParam::T;
  using Accum = ssm::accum_t<T>;
  using Model = typename ModelUnderTest<TypeParam>::Model;
  const ModelUnderTest<TypeParam> test;
  auto ids = test.random_ids(2, 4);
  ssm::Owned<Accum, 3> logits({2, 4, 23});
  ssm::OwnedWorkspace scratch(test.model.workspace_bytes(test.backend, 2, 4));
  const auto forward = [&](const ssm::View<Accum, 3>& out, ssm::Logits which, ssm::Arena arena) {
    const ssm::Status status = test.model.forward(test.backend, ids.view(), out, {}, arena, which);
    for (std::size_t i = 0; i < logits.size(); ++i) EXPECT_EQ(logits.data()[i], Accum(0));
    return std::string(status.message().text);
  };
  ids.view()(1, 2) = 23;
  EXPECT_EQ(forward(logits.view(), ssm::Logits::all, scratch.arena()),
            "embedding: ids value is 23, must be at most 22");
  ids.view()(1, 2) = 0;
  EXPECT_EQ(forward(logits.view(), ssm::Logits::last, scratch.arena()),
            "LanguageModel::forward: logits.extent(1) is 4, must equal 1");
  EXPECT_NE(forward(logits.view(), ssm::Logits::all, ssm::Arena(nullptr, 0))
                .find("workspace bytes is 0, must be at least"),
            std::string::npos);

  Model other;
  auto config = test.config;
  config.tie_embeddings = false;
  EXPECT_EQ(std::string(other
                            .prepare(test.backend, config, test.weights, test.host_memory.arena(),
                                     test.data_memory.arena())
                            .message()
                            .text),
            "LanguageModel: lm_head.weight.extent(0) is 0, must equal 23");
  config = test.config;
  config.n_layer = 0;
  EXPECT_EQ(std::string(Model::validate(config, test.weights).message().text),
            "LanguageModelConfig: n_layer is 0, must be at least 1");
  EXPECT_EQ(std::string(other.forward(test.backend, ids.view(), logits.view(), {}, scratch.arena())
                            .message()
                            .text),
            "LanguageModel::forward: model is not prepared");
}

TYPED_TEST_P(LanguageModelSuite, StepChoosesItsStates) {
  using T = typename TypeParam::T;
  using Accum = ssm::accum_t<T>;
  const ModelUnderTest<TypeParam> test;
  const auto ids = test.random_ids(3, 2);
  // The prompts of four sequences; the last two of them go on, in another order.
  auto pool = test.zero_state(4);
  auto expected = test.zero_state(4);
  for (const ssm::LanguageModelState<T>& s : {pool.state, expected.state}) {
    for (ssm::index_t i = 0; i < 4; ++i) test.run(ids.view().slice(0, i % 3, 1), s.rows(i, 1));
  }
  const ssm::index_t slots[] = {3, -1, 2};
  ssm::Owned<Accum, 2> logits({3, 23}), wanted({3, 23});
  ssm::OwnedWorkspace scratch(test.model.workspace_bytes(test.backend, 3, 1));
  const auto next = ids.view().select(1, 0);
  for (const ssm::index_t row : {0, 2}) {
    SSM_EXPECT_OK(test.model.step(test.backend, next.slice(0, row, 1),
                                  wanted.view().slice(0, row, 1),
                                  expected.state.rows(slots[row], 1), scratch.arena()));
  }
  const auto step = [&](const ssm::index_t* chosen, ssm::index_t count) {
    return test.model.step(test.backend, next, logits.view(), pool.state, scratch.arena(),
                           ssm::View<const ssm::index_t, 1>(chosen, {count}));
  };
  SSM_EXPECT_OK(step(slots, 3));
  for (const ssm::index_t row : {0, 2}) {
    for (ssm::index_t i = 0; i < 23; ++i) EXPECT_EQ(logits.view()(row, i), wanted.view()(row, i));
  }
  for (ssm::index_t i = 0; i < 23; ++i) EXPECT_EQ(logits.view()(1, i), Accum(0));
  for (ssm::index_t l = 0; l < test.config.n_layer; ++l) {
    EXPECT_EQ(flat(pool.state.ssm.select(0, l)), flat(expected.state.ssm.select(0, l)));
    EXPECT_EQ(flat(pool.state.conv.select(0, l)), flat(expected.state.conv.select(0, l)));
  }
  const ssm::index_t outside[] = {3, 4, 2};
  EXPECT_EQ(std::string(step(outside, 3).message().text),
            "LanguageModel::step: slots value is 4, must be at most 3");
  EXPECT_EQ(std::string(step(slots, 2).message().text),
            "LanguageModel::step: slots.extent(0) is 2, must equal 3");
}

REGISTER_TYPED_TEST_SUITE_P(LanguageModelSuite, EverySplitAndEveryStepIsTheWhole,
                            LongSequencesAreTheirParts, LastLogitsAreTheLastOfAll,
                            PaddedAndPackedSequencesAreSeparate, SnapshotAndRollback,
                            ShowsEveryLayerToAnObserver, BadInputIsNamedAndNothingIsWritten,
                            StepChoosesItsStates);

}  // namespace ssm_test
