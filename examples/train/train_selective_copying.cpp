// Trains a small Mamba on selective copying (Gu and Dao 2023, section 4.1.1): data tokens among
// noise are to be repeated, in order, at the markers that end the sequence. The noise must be
// ignored by content, which a time-invariant layer cannot do.
//
//   train_selective_copying --help

#include <algorithm>
#include <cstdio>

#include "program.hpp"

#include <ssm/owned.hpp>
#include <ssm/train/tasks.hpp>

namespace {

using ssm::index_t;

class SelectiveCopyingTask final : public Task {
 public:
  SelectiveCopyingTask(const Options& options, bool gate, const ssm::SelectiveCopying& task,
                       const LearnerConfig& config)
      : task_(task), options_(options), gate_(gate), config_(config) {}

  void fill(index_t number, const ssm::TrainingBatch& batch) override {
    const index_t rows = batch.ids.extent(0) * batch.ids.extent(1);
    const index_t begin = task_.length - task_.data;
    for (index_t m = 0; m < batch.ids.extent(0); ++m) {
      for (index_t b = 0; b < batch.ids.extent(1); ++b) {
        const index_t n = (number - 1) * rows + m * batch.ids.extent(1) + b;
        const auto targets = batch.targets.select(0, m).select(0, b);
        for (index_t t = 0; t < begin; ++t) targets(t) = config_.training.ignore;
        generate(task_, ssm::sequence_random(static_cast<std::uint64_t>(options_.seed), n),
                 batch.ids.select(0, m).select(0, b), targets.slice(0, begin, task_.data));
      }
    }
  }

  // Per data token, over a fixed set of sequences.
  bool evaluate(Learner& learner, double* accuracy) override {
    constexpr std::uint64_t kValidation = 0x76616c6964617465u;  // no run's seed
    const index_t most = config_.evaluation_batch;
    const index_t begin = task_.length - task_.data;
    ssm::Owned<index_t, 2> ids({most, task_.length});
    ssm::Owned<index_t, 2> targets({most, task_.data});
    ssm::Owned<float, 3> logits({most, task_.data, task_.vocabulary});
    index_t right = 0;
    for (index_t done = 0; done < options_.validation;) {
      const index_t rows = std::min(most, options_.validation - done);
      for (index_t b = 0; b < rows; ++b) {
        generate(task_, ssm::sequence_random(kValidation, done + b), ids.view().select(0, b),
                 targets.view().select(0, b));
      }
      const auto some = ids.view().slice(0, 0, rows);
      if (!learner.feed(some.slice(1, 0, begin), {}, ssm::Logits::all, true) ||
          !learner.feed(some.slice(1, begin, task_.data), logits.view().slice(0, 0, rows),
                        ssm::Logits::all, false)) {
        return false;
      }
      for (index_t b = 0; b < rows; ++b) {
        for (index_t i = 0; i < task_.data; ++i) {
          const float* const row = &logits.view()(b, i, 0);
          const index_t best = std::max_element(row, row + task_.vocabulary) - row;
          right += best == targets.view()(b, i) ? 1 : 0;
        }
      }
      done += rows;
    }
    *accuracy = static_cast<double>(right) / static_cast<double>(options_.validation * task_.data);
    std::printf("  accuracy %.2f %% of %lld x %lld tokens at length %lld\n", 100 * *accuracy,
                static_cast<long long>(options_.validation), static_cast<long long>(task_.data),
                static_cast<long long>(task_.length));
    return true;
  }

  bool finish(Learner& learner) override {
    double accuracy = 0;
    return evaluate(learner, &accuracy);
  }

  std::map<std::string, std::string> settings() const override {
    return {{"task", "selective copying"},
            {"data", std::to_string(task_.data)},
            {"gate", gate_ ? "yes" : "no"}};
  }

 private:
  ssm::SelectiveCopying task_;
  Options options_;
  bool gate_;
  LearnerConfig config_;
};

}  // namespace

int main(int argc, char** argv) {
  // A setting that a laptop learns within minutes; the paper's is --length 4096 --data 16
  // --batch 64.
  Options options;
  options.length = 64;
  options.batch = 16;
  options.lr = 2e-3;
  options.warmup = 100;
  options.steps = 5000;
  ssm::SelectiveCopying task;
  task.data = 8;
  bool no_gate = false;
  Flags flags(&options);
  flags.add("--target", &options.target, "stop at this accuracy, in [0, 1]; 0: take all steps");
  flags.add("--data", &task.data, "data tokens of a sequence");
  flags.add("--no-gate", &no_gate, "blocks without the gate z: the paper's S6 without a gate");
  int exit_code = 0;
  if (!flags.parse(argc, argv, "Trains a Mamba language model on selective copying.", &exit_code)) {
    return exit_code;
  }
  task.length = options.length;
  if (!succeeded(validate(task))) return 2;
  LearnerConfig config = learner_config(options, task.vocabulary);
  config.training.model.block.gate = !no_gate;
  config.evaluation_batch = std::min<index_t>(options.validation, 64);
  config.evaluation_length = std::max(task.length - task.data, task.data);
  SelectiveCopyingTask copying(options, !no_gate, task, config);
  return train(options, config, copying);
}
