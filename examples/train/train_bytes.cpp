// Trains a byte-level language model on any text file and writes it as a checkpoint that
// examples/generate, transformers and this library read. The last part of the text is held out:
// what is reported is bits per byte there.
//
//   train_bytes --text FILE --model DIRECTORY --help

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "program.hpp"

#include <ssm/io/file.hpp>
#include <ssm/owned.hpp>
#include <ssm/train/tasks.hpp>

namespace {

using ssm::index_t;
using Text = ssm::View<const unsigned char, 1>;

class BytesTask final : public Task {
 public:
  static constexpr index_t kVocabulary = 256;

  BytesTask(const Options& options, Text training, Text held_out, const std::string& model,
            const LearnerConfig& config)
      : options_(options),
        training_(training),
        held_out_(held_out),
        model_(model),
        config_(config) {}

  void fill(index_t number, const ssm::TrainingBatch& batch) override {
    const index_t rows = batch.ids.extent(0) * batch.ids.extent(1);
    for (index_t m = 0; m < batch.ids.extent(0); ++m) {
      for (index_t b = 0; b < batch.ids.extent(1); ++b) {
        const index_t n = (number - 1) * rows + m * batch.ids.extent(1) + b;
        generate_window(
            training_, ssm::sequence_random(static_cast<std::uint64_t>(options_.seed), n),
            batch.ids.select(0, m).select(0, b), batch.targets.select(0, m).select(0, b));
      }
    }
  }

  // The held-out text in as many equal streams as are evaluated at once, each read from its start
  // to its end with the state carried along; the first options.validation pieces of them.
  bool evaluate(Learner& learner, double* value) override {
    return bits_per_byte(learner, options_.validation, value);
  }
  const char* measure() const override { return "bits_per_byte"; }

  bool finish(Learner& learner) override {
    double bits = 0;
    if (!bits_per_byte(learner, held_out_.extent(0), &bits)) return false;
    return model_.empty() || learner.write_model(model_, "bytes");
  }

  std::map<std::string, std::string> settings() const override {
    return {{"task", "bytes"}, {"text bytes", std::to_string(training_.extent(0))}};
  }

 private:
  bool bits_per_byte(Learner& learner, index_t pieces, double* value) const {
    const index_t rows = config_.evaluation_batch;
    const index_t piece = config_.evaluation_length;
    const index_t stream = (held_out_.extent(0) - 1) / rows;
    ssm::Owned<index_t, 2> ids({rows, piece});
    ssm::Owned<float, 3> logits({rows, piece, kVocabulary});
    double bits = 0;
    index_t count = 0;
    for (index_t t = 0; t < stream && t / piece < pieces; t += piece) {
      const index_t tokens = std::min(piece, stream - t);
      for (index_t b = 0; b < rows; ++b) {
        for (index_t i = 0; i < tokens; ++i) ids.view()(b, i) = held_out_(b * stream + t + i);
      }
      const ssm::View<float, 3> out(logits.data(), {rows, tokens, kVocabulary});
      if (!learner.feed(ids.view().slice(1, 0, tokens), out, ssm::Logits::all, t == 0)) {
        return false;
      }
      for (index_t b = 0; b < rows; ++b) {
        for (index_t i = 0; i < tokens; ++i) {
          bits += bits_of(&out(b, i, 0), held_out_(b * stream + t + i + 1));
          ++count;
        }
      }
    }
    *value = bits / static_cast<double>(count);
    std::printf("  held out %.4f bits per byte over %lld bytes\n", *value,
                static_cast<long long>(count));
    return true;
  }

  // -log2 of the probability of `byte`.
  static double bits_of(const float* logits, unsigned char byte) {
    const double largest = static_cast<double>(*std::max_element(logits, logits + kVocabulary));
    double sum = 0;
    for (index_t v = 0; v < kVocabulary; ++v) {
      sum += std::exp(static_cast<double>(logits[v]) - largest);
    }
    return (std::log(sum) + largest - static_cast<double>(logits[byte])) / std::log(2.0);
  }

  Options options_;
  Text training_, held_out_;
  std::string model_;
  LearnerConfig config_;
};

}  // namespace

int main(int argc, char** argv) {
  Options options;
  options.schedule = "cosine";
  options.steps = 2000;
  options.batch = 16;
  options.d_model = 128;
  options.warmup = 100;
  options.weight_decay = 0.1;
  options.validation = 8;
  std::string text_file;
  std::string model;
  double held_out = 0.05;
  Flags flags(&options);
  flags.add("--text", &text_file, "the file to learn; needed");
  flags.add("--held-out", &held_out, "the share of the text, at its end, that is not learnt");
  flags.add("--model", &model, "directory for config.json and model.safetensors");
  int exit_code = 0;
  if (!flags.parse(argc, argv,
                   "Trains a byte-level Mamba language model on a text. A piece of an evaluation "
                   "(--validation) is --length bytes of 16 places.",
                   &exit_code)) {
    return exit_code;
  }
  ssm::io::detail::MappedFile file;
  if (text_file.empty()) {
    std::fprintf(stderr, "error: --text FILE is needed\n");
    return 2;
  }
  if (!succeeded(ssm::io::detail::MappedFile::open(text_file, &file))) return 1;
  const auto bytes = static_cast<index_t>(file.size());
  const auto kept = static_cast<index_t>((1 - held_out) * static_cast<double>(bytes));
  LearnerConfig config = learner_config(options, BytesTask::kVocabulary);
  config.evaluation_batch = 16;
  config.evaluation_length = options.length;
  if (!(held_out > 0 && held_out < 1) || kept <= options.length ||
      bytes - kept <= config.evaluation_batch) {
    std::fprintf(stderr,
                 "error: %s has %lld bytes, of which %lld are to be learnt and %lld held out: must "
                 "be more than %lld and %lld\n",
                 text_file.c_str(), static_cast<long long>(bytes), static_cast<long long>(kept),
                 static_cast<long long>(bytes - kept), static_cast<long long>(options.length),
                 static_cast<long long>(config.evaluation_batch));
    return 1;
  }
  BytesTask task(options, Text(file.data(), {kept}), Text(file.data() + kept, {bytes - kept}),
                 model, config);
  return train(options, config, task);
}
