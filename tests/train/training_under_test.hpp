#pragma once

#include <vector>

#include "block/gradient_checks.hpp"
#include "model/model_under_test.hpp"
#include "ssm/train/training_step.hpp"

namespace ssm_test {

// A training with memory of its own, on batches that depend on the number of the step alone.
template <class On>
class TrainingRun {
 public:
  using T = typename On::T;
  using Accum = ssm::accum_t<T>;
  using Step = ssm::TrainingStep<T, typename On::Backend>;
  using index_t = ssm::index_t;

  explicit TrainingRun(const ssm::TrainingConfig& config_) : config(config_) {
    state = memory[0].carve(
        [&](ssm::Arena& arena) { return ssm::TrainingState<T>::carve(config, arena, arena); });
    batch = memory[1].carve(
        [&](ssm::Arena& arena) { return ssm::TrainingBatch::carve(config, arena); });
    ssm::Random random(11);
    initialize(config, state, random);
    const auto bytes = Step::bytes(backend, config, state);
    memory[2] = ssm::OwnedWorkspace(bytes.host);
    memory[3] = ssm::OwnedWorkspace(bytes.data);
    SSM_EXPECT_OK(
        step.prepare(backend, config, state, batch, memory[2].arena(), memory[3].arena()));
  }

  void fill(index_t number) {
    ssm::Random random(static_cast<std::uint64_t>(100 + number));
    for (index_t i = 0; i < batch.ids.size(); ++i) {
      batch.ids.data()[i] = random.below(config.model.vocab_size);
      batch.targets.data()[i] = i % 4 == 1 ? config.ignore : random.below(config.model.vocab_size);
    }
    batch.step(0) = {0.02, number};
  }
  // The loss of step `number`.
  double run(index_t number) {
    fill(number);
    SSM_EXPECT_OK(step.run(backend, number));
    double loss = 0;
    for (index_t m = 0; m < config.micro_batches; ++m) {
      loss += static_cast<double>(step.losses()(m));
    }
    return loss;
  }

  std::vector<double> values() const {
    std::vector<double> out;
    state.for_each([&](const char*, const auto& v) {
      for (index_t i = 0; i < v.size(); ++i) out.push_back(static_cast<double>(v.data()[i]));
    });
    return out;
  }
  std::vector<double> gradients() const {
    std::vector<double> out;
    step.grads().for_each([&](const char*, const auto& v) { append(v, out); });
    return out;
  }

  ssm::TrainingConfig config;
  typename On::Backend backend = On::backend();
  ssm::OwnedWorkspace memory[4];
  ssm::TrainingState<T> state;
  ssm::TrainingBatch batch;
  Step step;
};

inline ssm::TrainingConfig small_training() {
  ssm::TrainingConfig c;
  c.model.block = ssm::mamba_config(10);
  c.model.block.d_state = 4;
  c.model.n_layer = 2;
  c.model.vocab_size = 23;
  c.batch = 2;
  c.length = 6;
  return c;
}

}  // namespace ssm_test
