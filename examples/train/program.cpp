#include "program.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

Flags::Flags(Options* o) {
  add("--device", &o->device, "cpu, reference (slow and simple) or cuda");
  add("--dtype", &o->dtype, "of weights and activations: f32 or, on cuda, bf16");
  add("--seed", &o->seed, "of the model and of the data", 0);
  add("--steps", &o->steps, "steps in all, those of resumed runs included", 0);
  add("--batch", &o->batch, "sequences of a micro-batch");
  add("--micro-batches", &o->micro_batches, "micro-batches of a step");
  add("--length", &o->length, "tokens of a sequence in training");
  add("--layers", &o->layers, "Mamba blocks");
  add("--d-model", &o->d_model, "width of the model");
  add("--d-state", &o->d_state, "states of a channel");
  add("--dt-rank", &o->dt_rank, "rank of dt's projection; 0: a sixteenth of --d-model", 0);
  add("--untied", &o->untied, "a head of its own, not the embedding");
  add("--lr", &o->lr, "learning rate at its peak");
  add("--schedule", &o->schedule, "of the learning rate after the warm-up: constant or cosine");
  add("--warmup", &o->warmup, "steps of the warm-up", 0);
  add("--weight-decay", &o->weight_decay, "of matrices");
  add("--clip", &o->clip, "largest norm of the gradient; 0: any");
  add("--beta2", &o->beta2, "AdamW's second decay");
  add("--checkpoint", &o->checkpoint, "file that is written at the end, and by --seconds");
  add("--resume", &o->resume, "go on from the checkpoint, bit for bit");
  add("--from", &o->from, "checkpoint of another training, whose parameters this one starts with");
  add("--seconds", &o->seconds, "stop and save after this time; 0: no limit");
  add("--csv", &o->csv, "file for the loss curve (appended to by --resume)");
  add("--log-every", &o->log_every, "steps between two lines of progress");
  add("--evaluate-every", &o->evaluate_every, "steps between two evaluations");
  add("--validation", &o->validation, "sequences of an evaluation");
  add("--threads", &o->threads, "of the cpu; 0: one per hardware thread", 0);
}

void Flags::add(const char* name, std::string* value, const char* help) {
  flags_.push_back({name, help, value, nullptr, nullptr, nullptr, 0});
}
void Flags::add(const char* name, ssm::index_t* value, const char* help, ssm::index_t least) {
  flags_.push_back({name, help, nullptr, value, nullptr, nullptr, least});
}
void Flags::add(const char* name, double* value, const char* help) {
  flags_.push_back({name, help, nullptr, nullptr, value, nullptr, 0});
}
void Flags::add(const char* name, bool* value, const char* help) {
  flags_.push_back({name, help, nullptr, nullptr, nullptr, value, 0});
}

void Flags::print_help(const char* program, const char* about) const {
  std::printf("%s\n\nusage: %s [options]\n\n", about, program);
  for (const Flag& f : flags_) {
    char shown[64] = "";
    if (f.text != nullptr) {
      std::snprintf(shown, sizeof(shown), "%s", f.text->empty() ? "none" : f.text->c_str());
    } else if (f.integer != nullptr) {
      std::snprintf(shown, sizeof(shown), "%lld", static_cast<long long>(*f.integer));
    } else if (f.number != nullptr) {
      std::snprintf(shown, sizeof(shown), "%g", *f.number);
    } else {
      std::snprintf(shown, sizeof(shown), "off");
    }
    std::printf("  %-17s %s (%s)\n", f.name, f.help, shown);
  }
}

bool Flags::parse(int argc, char** argv, const char* about, int* exit_code) const {
  *exit_code = 2;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--help") == 0) {
      print_help(argv[0], about);
      *exit_code = 0;
      return false;
    }
    const auto flag = std::find_if(flags_.begin(), flags_.end(), [&](const Flag& f) {
      return std::strcmp(argv[i], f.name) == 0;
    });
    if (flag == flags_.end()) {
      std::fprintf(stderr, "error: '%s' is not understood; --help lists the options\n", argv[i]);
      return false;
    }
    if (flag->flag != nullptr) {
      *flag->flag = true;
      continue;
    }
    if (i + 1 == argc) {
      std::fprintf(stderr, "error: %s needs a value\n", flag->name);
      return false;
    }
    const char* const value = argv[++i];
    char* end = nullptr;
    if (flag->text != nullptr) {
      *flag->text = value;
      continue;
    }
    bool valid = true;
    if (flag->integer != nullptr) {
      *flag->integer = std::strtoll(value, &end, 10);
      valid = *flag->integer >= flag->least;
    } else {
      *flag->number = std::strtod(value, &end);
      valid = *flag->number >= 0 && std::isfinite(*flag->number);
    }
    if (!valid || end == value || *end != '\0') {
      std::fprintf(stderr, "error: %s is '%s', must be a %s >= %lld\n", flag->name, value,
                   flag->integer != nullptr ? "whole number" : "number",
                   static_cast<long long>(flag->least));
      return false;
    }
  }
  return true;
}

LearnerConfig learner_config(const Options& o, ssm::index_t vocabulary) {
  LearnerConfig config;
  ssm::TrainingConfig& t = config.training;
  t.model.block = ssm::mamba_config(o.d_model);
  t.model.block.d_state = o.d_state;
  if (o.dt_rank > 0) t.model.block.dt_rank = o.dt_rank;
  t.model.tie_embeddings = !o.untied;
  t.model.n_layer = o.layers;
  t.model.vocab_size = vocabulary;
  t.optimizer.weight_decay = o.weight_decay;
  t.optimizer.max_norm = o.clip;
  t.optimizer.beta2 = o.beta2;
  t.batch = o.batch;
  t.length = o.length;
  t.micro_batches = o.micro_batches;
  config.seed = static_cast<std::uint64_t>(o.seed);
  config.threads = static_cast<int>(std::min<ssm::index_t>(o.threads, 1 << 14));
  return config;
}

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// "1:05:09".
std::string clock_text(double seconds) {
  const auto s = static_cast<long long>(seconds + 0.5);
  char text[48];
  std::snprintf(text, sizeof(text), "%lld:%02lld:%02lld", s / 3600, s / 60 % 60, s % 60);
  return text;
}

// The file of the loss curve; null is none.
struct Csv {
  std::FILE* file = nullptr;
  ~Csv() {
    if (file != nullptr) std::fclose(file);
  }
  bool open(const std::string& path, const char* measure, bool append) {
    if (path.empty()) return true;
    file = std::fopen(path.c_str(), append ? "a" : "w");
    if (file == nullptr) {
      std::fprintf(stderr, "error: %s: cannot be written\n", path.c_str());
      return false;
    }
    if (!append) std::fprintf(file, "step,loss,learning_rate,%s\n", measure);
    return true;
  }
  void write(ssm::index_t step, double loss, double rate, double value) {
    if (file == nullptr) return;
    std::fprintf(file, "%lld,%.6g,%.6g,", static_cast<long long>(step), loss, rate);
    if (value >= 0) std::fprintf(file, "%.6g", value);
    std::fprintf(file, "\n");
    std::fflush(file);
  }
};

}  // namespace

int train(const Options& o, const LearnerConfig& config, Task& task) {
  ssm::LearningRate rate;
  rate.peak = o.lr;
  rate.warmup = o.warmup;
  rate.total = o.steps;
  rate.floor = 0.1 * o.lr;
  if (o.schedule == "cosine") {
    rate.shape = ssm::LearningRate::Shape::cosine;
  } else if (o.schedule != "constant") {
    std::fprintf(stderr, "error: --schedule is '%s', must be constant or cosine\n",
                 o.schedule.c_str());
    return 2;
  }
  if (o.steps > 0 && !succeeded(validate(rate))) return 2;
  if (o.resume && o.checkpoint.empty()) {
    std::fprintf(stderr, "error: --resume needs --checkpoint\n");
    return 2;
  }
  const std::unique_ptr<Learner> learner = make_learner(o.device, o.dtype, config);
  if (learner == nullptr) return 1;

  ssm::io::TrainingProgress progress;
  progress.settings = task.settings();
  // The generator of step k is a function of the seed and of k.
  progress.random = static_cast<std::uint64_t>(o.seed);
  progress.settings["seed"] = std::to_string(o.seed);
  progress.settings["dtype"] = o.dtype;
  progress.settings["batch"] = std::to_string(o.batch);
  progress.settings["micro_batches"] = std::to_string(o.micro_batches);
  progress.settings["length"] = std::to_string(o.length);
  if (!o.from.empty() && !o.resume && !learner->start_from(o.from)) return 1;
  if (o.resume && !learner->load(o.checkpoint, &progress)) return 1;
  Csv csv;
  if (!csv.open(o.csv, task.measure(), o.resume)) return 1;

  std::printf("%lld parameters; steps %lld to %lld of %lld x %lld x %lld tokens on %s in %s\n",
              static_cast<long long>(ssm::parameter_count(config.training.model)),
              static_cast<long long>(progress.step), static_cast<long long>(o.steps),
              static_cast<long long>(o.micro_batches), static_cast<long long>(o.batch),
              static_cast<long long>(o.length), o.device.c_str(), o.dtype.c_str());
  const double tokens_per_step =
      static_cast<double>(o.batch) * static_cast<double>(o.micro_batches * o.length);
  const auto start = Clock::now();
  auto last = start;
  ssm::index_t last_step = progress.step;
  bool reached = false;
  bool out_of_time = false;
  while (progress.step < o.steps && !reached && !out_of_time) {
    const ssm::index_t number = progress.step + 1;
    const ssm::TrainingBatch batch = learner->next_batch();
    if (!batch.ids.present()) return 1;
    task.fill(number, batch);
    const double lr = rate.at(number);
    if (!learner->step({lr, number})) return 1;
    progress.step = number;
    out_of_time = o.seconds > 0 && seconds_since(start) >= o.seconds;
    const bool evaluates = number % o.evaluate_every == 0 || number == o.steps;
    if (number % o.log_every != 0 && !evaluates && !out_of_time) continue;
    double loss = 0;
    if (!learner->mean_loss(&loss)) return 1;
    if (!std::isfinite(loss)) {
      std::fprintf(stderr, "error: the loss is %g at step %lld\n", loss,
                   static_cast<long long>(number));
      return 1;
    }
    const double elapsed = seconds_since(start);
    const double speed = static_cast<double>(number - last_step) / seconds_since(last);
    std::printf("step %lld  loss %.4f  lr %.2e  %.0f tokens/s  %s, %s left\n",
                static_cast<long long>(number), loss, lr, speed * tokens_per_step,
                clock_text(elapsed).c_str(),
                clock_text(static_cast<double>(o.steps - number) / speed).c_str());
    double value = -1;
    if (evaluates) {
      if (!task.evaluate(*learner, &value)) return 1;
      reached = o.target > 0 && value >= o.target;
    }
    csv.write(number, loss, lr, value);
    std::fflush(stdout);
    last = Clock::now();
    last_step = number;
  }
  const bool done = reached || progress.step >= o.steps;
  if (!o.checkpoint.empty() && !learner->save(o.checkpoint, progress)) return 1;
  std::printf("%s at step %lld after %s%s\n", done ? "done" : "stopped",
              static_cast<long long>(progress.step), clock_text(seconds_since(start)).c_str(),
              done || o.checkpoint.empty() ? "" : "; --resume goes on");
  std::fflush(stdout);
  return !done || task.finish(*learner) ? 0 : 1;
}
