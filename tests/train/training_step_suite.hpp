#pragma once

#include <string>
#include <vector>

#include "train/training_under_test.hpp"

// What TrainingStep<T, Backend> must do on every backend and storage type. A device
// backend runs it on memory that the host reaches too.
namespace ssm_test {

template <class On>
class TrainingStepSuite : public ::testing::Test {};
TYPED_TEST_SUITE_P(TrainingStepSuite);

// Against its parts, called one by one.
TYPED_TEST_P(TrainingStepSuite, IsForwardLossBackwardAndAdamW) {
  using T = typename TypeParam::T;
  using Accum = ssm::accum_t<T>;
  using Model = ssm::LanguageModel<T, typename TypeParam::Backend>;
  for (const bool tied : {true, false}) {
    ssm::TrainingConfig config = small_training();
    config.model.tie_embeddings = tied;
    TrainingRun<TypeParam> found(config), wanted(config);
    const auto& backend = wanted.backend;
    found.run(1);

    wanted.fill(1);
    const auto bytes = Model::prepared_bytes(backend, config.model);
    ssm::OwnedWorkspace lists(bytes.host), data(bytes.data);
    Model model;
    SSM_EXPECT_OK(
        model.prepare(backend, config.model, wanted.state.parameters, lists.arena(), data.arena()));
    ssm::OwnedWorkspace tape_memory, grad_memory;
    const auto tape = tape_memory.carve([&](ssm::Arena& arena) {
      return ssm::LanguageModelTape<T>::carve(config.model, 2, 6, arena);
    });
    const auto grads = grad_memory.carve([&](ssm::Arena& arena) {
      return ssm::LanguageModelGrads<T>::carve(config.model, arena, arena);
    });
    ssm::OwnedWorkspace scratch(model.training_workspace_bytes(backend, 2, 6));
    ssm::Owned<Accum, 3> logits({2, 6, 23});
    ssm::Owned<Accum, 1> loss({1});
    SSM_EXPECT_OK(model.forward_train(backend, wanted.batch.ids.select(0, 0), logits.view(), {}, {},
                                      tape, scratch.arena()));
    ssm::CrossEntropyArgs<Accum> ce;
    ce.logits = logits.view();
    ce.targets = wanted.batch.targets.select(0, 0);
    ce.loss = loss.view();
    ce.dlogits = logits.view();
    ssm::OwnedWorkspace loss_scratch(scratch_bytes(backend, ce));
    SSM_EXPECT_OK(cross_entropy(backend, ce, loss_scratch.arena()));
    ssm::LanguageModelGradArgs<T> a;
    a.ids = wanted.batch.ids.select(0, 0);
    a.dlogits = logits.view();
    a.grads = grads;
    SSM_EXPECT_OK(model.backward(backend, a, tape, scratch.arena()));
    wanted.state.optimizer.step(0) = wanted.batch.step(0);
    ssm::OwnedWorkspace optimizer(ssm::adamw_workspace_bytes(backend, wanted.state.parameters));
    SSM_EXPECT_OK(ssm::adamw_step(backend, config.optimizer, wanted.state.parameters, grads,
                                  wanted.state.optimizer, optimizer.arena()));
    EXPECT_EQ(found.values(), wanted.values());
    EXPECT_EQ(static_cast<double>(found.step.losses()(0)), static_cast<double>(loss.data()[0]));
    EXPECT_EQ(found.step.square_norm()(0), wanted.state.optimizer.square_norm(0));
  }
}

TYPED_TEST_P(TrainingStepSuite, LearnsTheSameWayTwice) {
  TrainingRun<TypeParam> first(small_training()), second(small_training());
  const double before = first.run(1);
  second.run(1);
  for (ssm::index_t number = 2; number <= 80; ++number) {
    for (auto* training : {&first, &second}) {
      training->fill(1);
      training->batch.step(0).number = number;
      SSM_EXPECT_OK(training->step.run(training->backend));
    }
  }
  EXPECT_NEAR(before, std::log(23.0), 0.5);
  EXPECT_LT(static_cast<double>(first.step.losses()(0)), 0.2 * before);
  EXPECT_EQ(first.values(), second.values());
}

// Rows of the batch, taken as micro-batches: where they have as many targets, the mean of their
// means is the mean of all.
TYPED_TEST_P(TrainingStepSuite, MicroBatchesAddUp) {
  using T = typename TypeParam::T;
  ssm::TrainingConfig config = small_training();
  config.length = 8;
  config.batch = 4;
  ssm::TrainingConfig parts = config;
  parts.batch = 2;
  parts.micro_batches = 2;
  TrainingRun<TypeParam> whole(config), micro(parts);
  const double a = whole.run(1), b = micro.run(1);
  const double tolerance = std::is_same<T, double>::value ? 1e-13 : sizeof(T) == 4 ? 1e-5 : 1e-2;
  EXPECT_NEAR(a, b, tolerance * a);
  SSM_EXPECT_CLOSE(micro.gradients(), whole.gradients(), tolerance);
}

// A sequence in two steps with the state carried: the second loss is that of its tail in one long
// forward. With a learning rate of zero the model stays as it is.
TYPED_TEST_P(TrainingStepSuite, CarriesStateFromStepToStep) {
  using T = typename TypeParam::T;
  ssm::TrainingConfig config = small_training();
  config.length = 12;
  ssm::TrainingConfig halves = small_training();
  halves.carry_state = true;
  halves.micro_batches = 1;
  TrainingRun<TypeParam> whole(config), half(halves);
  whole.fill(1);
  whole.batch.step(0).learning_rate = 0;
  for (ssm::index_t b = 0; b < 2; ++b) {
    for (ssm::index_t t = 0; t < 6; ++t) whole.batch.targets(0, b, t) = config.ignore;
  }
  SSM_EXPECT_OK(whole.step.run(whole.backend));
  for (ssm::index_t turn = 0; turn < 2; ++turn) {
    for (ssm::index_t b = 0; b < 2; ++b) {
      for (ssm::index_t t = 0; t < 6; ++t) {
        half.batch.ids(0, b, t) = whole.batch.ids(0, b, 6 * turn + t);
        half.batch.targets(0, b, t) = whole.batch.targets(0, b, 6 * turn + t);
      }
    }
    half.batch.step(0) = {0, turn + 1};
    SSM_EXPECT_OK(half.step.run(half.backend, turn));
  }
  const auto a = static_cast<double>(whole.step.losses()(0));
  EXPECT_NEAR(static_cast<double>(half.step.losses()(0)), a,
              a * (std::is_same<T, double>::value ? 1e-13
                   : sizeof(T) == 4               ? 1e-5
                                                  : 1e-2));
}

TYPED_TEST_P(TrainingStepSuite, BadInputIsNamed) {
  using T = typename TypeParam::T;
  TrainingRun<TypeParam> test(small_training());
  typename TrainingRun<TypeParam>::Step step;
  EXPECT_EQ(std::string(step.run(test.backend).message().text),
            "TrainingStep::run: step is not prepared");
  const auto refused = [&](const ssm::TrainingConfig& c, const ssm::TrainingState<T>& state,
                           const ssm::TrainingBatch& batch, ssm::Arena host, ssm::Arena data) {
    const ssm::Status status = step.prepare(test.backend, c, state, batch, host, data);
    EXPECT_FALSE(step.losses().present());
    return std::string(status.message().text);
  };
  const auto host = test.memory[2].arena(), data = test.memory[3].arena();
  ssm::TrainingConfig c = test.config;
  c.micro_batches = 0;
  EXPECT_EQ(refused(c, test.state, test.batch, host, data),
            "TrainingConfig: micro_batches is 0, must be at least 1");
  c = test.config;
  c.length = 7;
  EXPECT_EQ(refused(c, test.state, test.batch, host, data),
            "TrainingStep::prepare: batch.ids.extent(2) is 6, must equal 7");
  c = test.config;
  c.carry_state = true;
  EXPECT_EQ(refused(c, test.state, test.batch, host, data),
            "TrainingStep::prepare: state.carried must be present to carry it");
  EXPECT_NE(refused(test.config, test.state, test.batch, host, ssm::Arena(nullptr, 0))
                .find("workspace bytes is 0, must be at least"),
            std::string::npos);
  if (!ssm::reads_on_host<typename TypeParam::Backend>) return;
  test.fill(1);
  test.batch.ids(0, 1, 2) = 23;
  EXPECT_EQ(std::string(test.step.run(test.backend).message().text),
            "embedding: ids value is 23, must be at most 22");
  test.fill(1);
  test.batch.targets(0, 1, 2) = 23;
  EXPECT_EQ(std::string(test.step.run(test.backend).message().text),
            "cross_entropy: targets value is 23, must be at most 22");
}

REGISTER_TYPED_TEST_SUITE_P(TrainingStepSuite, IsForwardLossBackwardAndAdamW, LearnsTheSameWayTwice,
                            MicroBatchesAddUp, CarriesStateFromStepToStep, BadInputIsNamed);

}  // namespace ssm_test
