#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include <ssm/io/training_checkpoint.hpp>
#include <ssm/model/language_model.hpp>
#include <ssm/train/training_step.hpp>

// A language model in training, on whatever device: what the programs of this folder know of it.

struct LearnerConfig {
  ssm::TrainingConfig training;
  ssm::index_t evaluation_batch = 1;   // the most sequences that feed() takes
  ssm::index_t evaluation_length = 1;  // and the most tokens of each
  std::uint64_t seed = 1;              // of the first parameters
  int threads = 0;                     // cpu: 0 means one per hardware thread
};

class Learner {
 public:
  virtual ~Learner() = default;

  // Memory for the tokens of the next step, which the caller fills before each step(); absent, with
  // a message, after a failure. A step that is still running reads memory of its own.
  virtual ssm::TrainingBatch next_batch() = 0;
  // Queues a step with these tokens. False, with a message, if that failed.
  virtual bool step(const ssm::AdamWStep& step) = 0;
  // Waits for the steps queued so far: the mean of their losses since the last call.
  virtual bool mean_loss(double* loss) = 0;

  // Runs the model without learning: ids (sequences, tokens); logits as ssm::Logits says, or
  // absent. The sequences go on where the last call left them, unless this call is the first.
  virtual bool feed(const ssm::View<const ssm::index_t, 2>& ids, const ssm::View<float, 3>& logits,
                    ssm::Logits which, bool first) = 0;

  virtual bool save(const std::filesystem::path& path, const ssm::io::TrainingProgress&) = 0;
  virtual bool load(const std::filesystem::path& path, ssm::io::TrainingProgress*) = 0;
  // Writes the model as config.json and model.safetensors, in bf16. `tokenizer` goes to
  // config.json.
  virtual bool write_model(const std::filesystem::path& directory,
                           const std::string& tokenizer) = 0;
};

// device: "cpu", "reference" or "cuda"; dtype: "f32" or, on cuda, "bf16". Null, with a message, for
// anything else, and where the memory or the device is not there.
std::unique_ptr<Learner> make_learner(const std::string& device, const std::string& dtype,
                                      const LearnerConfig& config);

// In learner_cuda.cpp, where that is compiled.
std::unique_ptr<Learner> make_cuda_learner(const std::string& dtype, const LearnerConfig& config);

// False, with a message, for a failure.
bool succeeded(const ssm::Status& status);
bool succeeded(const ssm::io::Result& result);
