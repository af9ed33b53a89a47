// Trains a small Mamba on induction heads (Gu and Dao 2023, section 4.1.2): a sequence of random
// tokens holds a prefix token once and ends in it again; what followed it the first time? Training
// is at one length; afterwards the program is asked at every power of two up to --longest (2^20 in
// the paper), the state being carried from piece to piece.
//
//   train_induction_heads --help

#include <algorithm>
#include <cstdio>
#include <vector>

#include "program.hpp"

#include <ssm/owned.hpp>
#include <ssm/train/tasks.hpp>

namespace {

using ssm::index_t;

class InductionHeadsTask final : public Task {
 public:
  InductionHeadsTask(const Options& options, index_t longest, const LearnerConfig& config)
      : options_(options), longest_(longest), config_(config) {
    task_.length = options.length;
  }

  void fill(index_t number, const ssm::TrainingBatch& batch) override {
    const index_t rows = batch.ids.extent(0) * batch.ids.extent(1);
    for (index_t m = 0; m < batch.ids.extent(0); ++m) {
      for (index_t b = 0; b < batch.ids.extent(1); ++b) {
        const index_t n = (number - 1) * rows + m * batch.ids.extent(1) + b;
        const auto targets = batch.targets.select(0, m).select(0, b);
        // The loss is the last token's alone.
        for (index_t t = 0; t + 1 < task_.length; ++t) targets(t) = config_.training.ignore;
        targets(task_.length - 1) =
            generate(task_, ssm::sequence_random(static_cast<std::uint64_t>(options_.seed), n),
                     batch.ids.select(0, m).select(0, b));
      }
    }
  }

  bool evaluate(Learner& learner, double* accuracy) override {
    if (!accuracy_at(learner, task_.length, accuracy)) return false;
    std::printf("  accuracy %.2f %% of %lld at length %lld\n", 100 * *accuracy,
                static_cast<long long>(options_.validation), static_cast<long long>(task_.length));
    return true;
  }

  bool finish(Learner& learner) override {
    std::printf("length,accuracy\n");
    for (index_t length = 64; length <= longest_; length *= 2) {
      double accuracy = 0;
      if (!accuracy_at(learner, length, &accuracy)) return false;
      std::printf("%lld,%.4f\n", static_cast<long long>(length), accuracy);
      std::fflush(stdout);
    }
    return true;
  }

  std::map<std::string, std::string> settings() const override {
    return {{"task", "induction heads"}};
  }

 private:
  // Of a fixed set of sequences of that length.
  bool accuracy_at(Learner& learner, index_t length, double* accuracy) const {
    constexpr std::uint64_t kValidation = 0x76616c6964617465u;  // no run's seed
    ssm::InductionHeads task = task_;
    task.length = length;
    // As many at once as 64 MiB of tokens hold.
    const index_t most =
        std::clamp<index_t>((index_t{1} << 23) / length, 1, config_.evaluation_batch);
    const index_t piece = config_.evaluation_length;
    ssm::Owned<index_t, 2> ids({std::min(most, options_.validation), length});
    std::vector<index_t> answers(static_cast<std::size_t>(most));
    ssm::Owned<float, 3> logits({most, 1, task.vocabulary});
    index_t right = 0;
    for (index_t done = 0; done < options_.validation;) {
      const index_t rows = std::min(most, options_.validation - done);
      for (index_t b = 0; b < rows; ++b) {
        answers[static_cast<std::size_t>(b)] = generate(
            task, ssm::sequence_random(kValidation + static_cast<std::uint64_t>(length), done + b),
            ids.view().select(0, b));
      }
      for (index_t t = 0; t < length; t += piece) {
        const index_t tokens = std::min(piece, length - t);
        const bool last = t + tokens == length;
        if (!learner.feed(ids.view().slice(0, 0, rows).slice(1, t, tokens),
                          last ? logits.view().slice(0, 0, rows) : ssm::View<float, 3>(),
                          ssm::Logits::last, t == 0)) {
          return false;
        }
      }
      for (index_t b = 0; b < rows; ++b) {
        const float* const row = &logits.view()(b, 0, 0);
        const index_t best = std::max_element(row, row + task.vocabulary) - row;
        right += best == answers[static_cast<std::size_t>(b)] ? 1 : 0;
      }
      done += rows;
    }
    *accuracy = static_cast<double>(right) / static_cast<double>(options_.validation);
    return true;
  }

  ssm::InductionHeads task_;
  Options options_;
  index_t longest_;
  LearnerConfig config_;
};

}  // namespace

int main(int argc, char** argv) {
  // A setting that a laptop learns within a minute; the paper's is --length 256 --batch 8.
  Options options;
  options.length = 64;
  options.batch = 16;
  options.lr = 4e-3;
  options.evaluate_every = 200;
  index_t longest = 1 << 14;
  Flags flags(&options);
  flags.add("--target", &options.target, "stop at this accuracy, in [0, 1]; 0: take all steps");
  flags.add("--longest", &longest, "length of the last evaluation, from 64 in powers of two");
  int exit_code = 0;
  if (!flags.parse(argc, argv, "Trains a Mamba language model on induction heads.", &exit_code)) {
    return exit_code;
  }
  ssm::InductionHeads task;
  task.length = options.length;
  if (!succeeded(validate(task))) return 2;
  LearnerConfig config = learner_config(options, task.vocabulary);
  config.evaluation_batch = std::min<index_t>(options.validation, 64);
  config.evaluation_length = std::min<index_t>(std::max(longest, options.length), 4096);
  InductionHeadsTask induction(options, longest, config);
  return train(options, config, induction);
}
