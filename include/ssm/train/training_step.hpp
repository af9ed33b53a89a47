#pragma once

#include <algorithm>
#include <cstdio>
#include <utility>

#include "ssm/model/language_model.hpp"
#include "ssm/ops/cross_entropy.hpp"
#include "ssm/train/adamw.hpp"

SSM_NAMESPACE_BEGIN

// What one step of training does.
struct TrainingConfig {
  LanguageModelConfig model;
  AdamWConfig optimizer;
  index_t batch = 1;          // sequences of one micro-batch
  index_t length = 1;         // tokens of each
  index_t micro_batches = 1;  // whose losses one step averages
  bool carry_state = false;   // sequences go on where the step before left them
  index_t ignore = -100;      // the target of a position without a loss
};

inline Status validate(const TrainingConfig& c) noexcept {
  return Check("TrainingConfig")
      .also(validate(c.model))
      .at_least("batch", c.batch, index_t{1})
      .at_least("length", c.length, index_t{1})
      .at_least("micro_batches", c.micro_batches, index_t{1})
      .status();
}

// All that training keeps from step to step: what a checkpoint holds.
template <class T>
struct TrainingState {
  LanguageModelParameters<T> parameters;
  AdamWState<T> optimizer;
  LanguageModelState<T> carried[2];  // micro_batches * batch rows; absent unless state is carried

  // Uninitialised. The lists of layers come from `host`, everything else from `data`, which takes
  // the same offsets from every arena that begins on a cache line: a copy of a device's memory is
  // read and written through a state carved from the copy.
  static TrainingState carve(const TrainingConfig& c, Arena& host, Arena& data) noexcept {
    TrainingState s;
    s.parameters = LanguageModelParameters<T>::carve(c.model, host, data);
    s.optimizer = AdamWState<T>::carve(c.model, host, data);
    if (c.carry_state) {
      for (LanguageModelState<T>& state : s.carried) {
        state = LanguageModelState<T>::carve(c.model, c.micro_batches * c.batch, data);
      }
    }
    return s;
  }

  // Calls f(name, view) for every present array: parameters under their Hugging Face names, the
  // optimiser's under "optimizer.m." and so on.
  template <class F>
  void for_each(F&& f) const {
    const auto named = [&](const char* prefix, const LanguageModelGrads<T>& set) {
      // The master copies are absent one by one.
      set.for_each([&](const char* name, const auto& view) {
        char full[128];
        std::snprintf(full, sizeof(full), "%s%s", prefix, name);
        if (view.present()) f(static_cast<const char*>(full), view);
      });
    };
    parameters.for_each(f);
    named("optimizer.m.", optimizer.m);
    named("optimizer.v.", optimizer.v);
    named("optimizer.master.", optimizer.master);
    if (!carried[0].present()) return;
    f("carried.0.conv", carried[0].conv);
    f("carried.0.ssm", carried[0].ssm);
    f("carried.1.conv", carried[1].conv);
    f("carried.1.ssm", carried[1].ssm);
  }
};

// The state before the first step, in host memory: a new model, moments and carried states zero.
template <class T>
void initialize(const TrainingConfig& c, const TrainingState<T>& s, Random& random) {
  initialize(c.model, s.parameters, random);
  initialize(s.parameters, s.optimizer);
  for (const LanguageModelState<T>& state : s.carried) {
    if (state.present()) set_zero(state);
  }
}

// What changes from one step to the next, in the backend's memory: written before each step, so
// that a step captured once into a graph trains on new data when it is replayed.
struct TrainingBatch {
  View<index_t, 3> ids;      // (micro_batches, batch, length)
  View<index_t, 3> targets;  // (micro_batches, batch, length), each `ignore` or in [0, vocab_size)
  View<AdamWStep, 1> step;   // (1)

  static TrainingBatch carve(const TrainingConfig& c, Arena& arena) noexcept {
    TrainingBatch b;
    b.ids = arena.view<index_t, 3>({c.micro_batches, c.batch, c.length});
    b.targets = arena.view<index_t, 3>({c.micro_batches, c.batch, c.length});
    b.step = arena.view<AdamWStep, 1>({1});
    return b;
  }
};

// One step of training a language model:
//
//   loss  = 1/M sum_m mean cross-entropy of micro-batch m      over its positions that count
//   grads = dloss / dparameters, clipped to the optimiser's max_norm
//   AdamW with the learning rate and the number in batch.step  (double or f32 masters for f32,
//   bf16)
//
// It owns nothing: state, batch and the memory for gradients, tape and workspace are the caller's.
// run() queues the same calls on the same memory every time, so that on a device the whole step is
// one graph. Two runs from the same state and batches give the same bits on the same backend.
template <class T, class Backend>
class TrainingStep {
  using Accum = accum_t<T>;
  using Model = LanguageModel<T, Backend>;

 public:
  // Bytes that prepare() takes: from `host` for lists, from `data` for all else.
  struct Bytes {
    std::size_t host, data;
  };
  static Bytes bytes(const Backend& backend, const TrainingConfig& config,
                     const TrainingState<T>& state) noexcept {
    Arena host;
    Arena data;
    TrainingStep step;
    step.config_ = config;
    step.state_ = state;
    step.carve(backend, host, data);
    return {host.bytes_needed(), data.bytes_needed()};
  }

  // `state`, `batch` and the memory of both arenas must outlive the step. Reads the parameters, so
  // they must be initialised; call it again when something other than run() has changed them. On
  // error the step is unchanged.
  Status prepare(const Backend& backend, const TrainingConfig& config,
                 const TrainingState<T>& state, const TrainingBatch& batch, Arena host,
                 Arena data) noexcept {
    const char* const op = "TrainingStep::prepare";
    const Extents<3> tokens{config.micro_batches, config.batch, config.length};
    Check check(op);
    check.also(validate(config))
        .also(Model::validate(config.model, state.parameters))
        .shape("batch.ids", batch.ids, tokens)
        .shape("batch.targets", batch.targets, tokens)
        .shape("batch.step", batch.step, {1})
        .require(!config.carry_state || (state.carried[0].present() && state.carried[1].present()),
                 ErrorCode::invalid_argument, "state.carried", "must be present to carry it");
    if (!check.passed()) return check.status();
    TrainingStep step;
    step.config_ = config;
    step.state_ = state;
    step.state_.optimizer.step = batch.step;
    step.batch_ = batch;
    step.carve(backend, host, data);
    Status status = host.status(op);
    if (status) status = data.status(op);
    if (status) status = step.prepare_model(backend);
    if (status) *this = step;
    return status;
  }

  // The step that the batch describes. When state is carried, it is read from
  // state.carried[turn % 2] and left in the other one: turn counts the steps.
  Status run(const Backend& backend, index_t turn = 0) noexcept {
    Status status =
        Check("TrainingStep::run")
            .require(losses_.present(), ErrorCode::invalid_argument, "step", "is not prepared")
            .at_least("turn", turn, index_t{0})
            .status();
    for (index_t m = 0; m < config_.micro_batches && status; ++m) {
      status = differentiate(backend, m, turn);
    }
    if (status) {
      status = adamw_step(backend, config_.optimizer, state_.parameters, grads_, state_.optimizer,
                          workspace_);
    }
    return status ? prepare_model(backend) : status;
  }

  const TrainingConfig& config() const noexcept { return config_; }
  // Of the last step's micro-batches, 1/M times the mean of each: the step's loss is their sum.
  View<const Accum, 1> losses() const noexcept { return losses_; }
  // The square of the gradient's norm in the last step, before clipping (with max_norm > 0).
  View<const double, 1> square_norm() const noexcept { return state_.optimizer.square_norm; }
  // The gradient of the last step, before clipping.
  const LanguageModelGrads<T>& grads() const noexcept { return grads_; }
  // The model after the last step.
  const Model& model() const noexcept { return model_; }

 private:
  CrossEntropyArgs<Accum> loss_of(index_t m) const noexcept {
    CrossEntropyArgs<Accum> a;
    a.logits = logits_;
    a.targets = batch_.targets.select(0, m);
    a.loss = losses_.slice(0, m, 1);
    a.dlogits = logits_;
    a.weight = Accum(1) / static_cast<Accum>(config_.micro_batches);
    a.ignore = config_.ignore;
    return a;
  }

  // Forward and backward of one micro-batch.
  Status differentiate(const Backend& backend, index_t m, index_t turn) const noexcept {
    LanguageModelGradArgs<T> a;
    LanguageModelState<T> after;
    if (config_.carry_state) {
      a.before = state_.carried[turn % 2].rows(m * config_.batch, config_.batch);
      after = state_.carried[(turn + 1) % 2].rows(m * config_.batch, config_.batch);
    }
    a.ids = batch_.ids.select(0, m);
    a.dlogits = logits_;
    a.grads = grads_;
    a.mode = m == 0 ? GradMode::overwrite : GradMode::accumulate;
    Status status =
        model_.forward_train(backend, a.ids, logits_, a.before, after, tape_, workspace_);
    if (status) status = cross_entropy(backend, loss_of(m), workspace_);
    if (status) status = model_.backward(backend, a, tape_, workspace_);
    return status;
  }

  // A and packed weights follow from the parameters.
  Status prepare_model(const Backend& backend) noexcept {
    return model_.prepare(backend, config_.model, state_.parameters, model_host_, model_data_);
  }

  static Arena part(Arena& arena, std::size_t bytes) noexcept {
    return Arena(arena.allocate<unsigned char>(static_cast<index_t>(bytes)), bytes);
  }

  void carve(const Backend& backend, Arena& host, Arena& data) noexcept {
    const LanguageModelConfig& model = config_.model;
    const auto prepared = Model::prepared_bytes(backend, model);
    model_host_ = part(host, prepared.host);
    model_data_ = part(data, prepared.data);
    grads_ = LanguageModelGrads<T>::carve(model, host, data);
    losses_ = data.view<Accum, 1>({config_.micro_batches});
    logits_ = data.view<Accum, 3>({config_.batch, config_.length, model.vocab_size});
    tape_ = LanguageModelTape<T>::carve(model, config_.batch, config_.length, data);
    CrossEntropyArgs<Accum> loss;
    loss.logits = logits_;
    loss.targets = View<const index_t, 2>(nullptr, {config_.batch, config_.length});
    loss.loss = losses_;
    loss.dlogits = logits_;
    workspace_ = part(
        data,
        std::max({Model::training_workspace_bytes(backend, model, config_.batch, config_.length),
                  scratch_bytes(backend, loss),
                  adamw_workspace_bytes(backend, state_.parameters)}));
  }

  TrainingConfig config_;
  TrainingState<T> state_;
  TrainingBatch batch_;
  Model model_;
  Arena model_host_, model_data_, workspace_;
  LanguageModelGrads<T> grads_;
  View<Accum, 1> losses_;
  View<Accum, 3> logits_;
  LanguageModelTape<T> tape_;
};

SSM_NAMESPACE_END
