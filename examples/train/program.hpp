#pragma once

#include <string>
#include <vector>

#include "learner.hpp"

#include <ssm/train/schedule.hpp>

// What the three programs share: the command line, and the loop of training.

struct Options {
  std::string device = "cpu";
  std::string dtype = "f32";
  std::string checkpoint;  // empty: none is written
  std::string from;        // empty: a new model
  std::string csv;
  std::string schedule = "constant";
  ssm::index_t seed = 1;
  ssm::index_t steps = 1000;
  ssm::index_t batch = 8;
  ssm::index_t micro_batches = 1;
  ssm::index_t length = 256;
  ssm::index_t layers = 2;
  ssm::index_t d_model = 64;
  ssm::index_t d_state = 16;
  ssm::index_t dt_rank = 0;  // 0: ceil(d_model / 16)
  ssm::index_t warmup = 0;
  ssm::index_t threads = 0;
  ssm::index_t log_every = 100;
  ssm::index_t evaluate_every = 1000;
  ssm::index_t validation = 256;
  double lr = 1e-3;
  double weight_decay = 0;
  double clip = 1;
  double beta2 = 0.95;
  double seconds = 0;  // 0: no limit
  double target = 0;   // 0: train for all steps
  bool untied = false;
  bool resume = false;
};

// One option of the command line: where its value goes, by type.
class Flags {
 public:
  explicit Flags(Options* options);

  void add(const char* name, std::string* value, const char* help);
  void add(const char* name, ssm::index_t* value, const char* help, ssm::index_t least = 1);
  void add(const char* name, double* value, const char* help);
  void add(const char* name, bool* value, const char* help);

  // Whether to go on; if not, after --help or a message, *exit_code is the program's.
  bool parse(int argc, char** argv, const char* about, int* exit_code) const;

 private:
  struct Flag {
    const char* name;
    const char* help;
    std::string* text;
    ssm::index_t* integer;
    double* number;
    bool* flag;
    ssm::index_t least;
  };
  void print_help(const char* program, const char* about) const;
  std::vector<Flag> flags_;
};

// What a program brings to the loop.
class Task {
 public:
  virtual ~Task() = default;
  // The tokens and targets of step `number`, from 1: a function of the number alone.
  virtual void fill(ssm::index_t number, const ssm::TrainingBatch& batch) = 0;
  // How good the model is now, in the unit that measure() names: printed and given.
  virtual bool evaluate(Learner& learner, double* value) = 0;
  virtual const char* measure() const { return "accuracy"; }
  // After the last step.
  virtual bool finish(Learner& learner) = 0;
  // What a resumed training must have in common with the one that it goes on with.
  virtual std::map<std::string, std::string> settings() const = 0;
};

// The training described by the options, the model's own ones aside.
LearnerConfig learner_config(const Options& options, ssm::index_t vocabulary);

// Trains, shows progress, keeps the curve and the checkpoint; the exit code of the program.
int train(const Options& options, const LearnerConfig& config, Task& task);
