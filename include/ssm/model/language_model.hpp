#pragma once

#include <algorithm>
#include <new>
#include <type_traits>

#include "ssm/block/mamba_block.hpp"
#include "ssm/model/language_model_parameters.hpp"
#include "ssm/model/language_model_tape.hpp"
#include "ssm/ops/embedding.hpp"
#include "ssm/ops/embedding_backward.hpp"
#include "ssm/ops/language_model_step.hpp"
#include "ssm/ops/linear_backward.hpp"
#include "ssm/ops/rms_norm_backward.hpp"

SSM_NAMESPACE_BEGIN

// Which positions get logits.
enum class Logits {
  all,   // logits (batch, length, vocab_size)
  last,  // logits (batch, 1, vocab_size): the last valid token of each row, enough to generate
};

// What LanguageModel::forward shows of its inside to an observer, layer by layer and chunk by chunk
// of time. Views are valid during the call only.
template <class T>
struct LayerTrace {
  index_t layer;                       // 0 … n_layer - 1; n_layer for the final norm
  index_t first_token;                 // of this chunk
  View<const accum_t<T>, 3> residual;  // (batch, tokens, d_model): the layer's input
  View<const T, 3> mixer_in;           // after the layer's norm; the final norm's output at n_layer
  View<const T, 3> mixer_out;          // absent at n_layer
};

// The Mamba language model (mamba_ssm's mixer_seq_simple.py, Hugging Face's MambaForCausalLM):
//
//   r = embedding[ids]
//   r = r + block_i(rms_norm(r))      i = 0 … n_layer - 1, r in accum_t<T> throughout
//   logits = W_head rms_norm(r)
//
// Like the block it owns nothing: weights, prepared constants, state and workspace are the
// caller's.
template <class T, class Backend>
class LanguageModel {
  using Block = MambaBlock<T, Backend>;
  struct Layer {
    View<const T, 1> norm_weight;
    Block block;
  };

 public:
  using State = LanguageModelState<T>;

  // U is T or const T.
  template <class U>
  static Status validate(const LanguageModelConfig& config,
                         const LanguageModelParameters<U>& weights) noexcept {
    Check check("LanguageModel");
    check.also(ssm::validate(config));
    if (!check.passed()) return check.status();
    const index_t d_model = config.block.d_model;
    check.equal("weights.n_layer", weights.n_layer, config.n_layer)
        .require(weights.layers != nullptr, ErrorCode::invalid_argument, "weights.layers",
                 "must not be null")
        .shape("backbone.embeddings.weight", weights.embedding, {config.vocab_size, d_model})
        .shape("backbone.norm_f.weight", weights.norm_f_weight, {d_model});
    if (config.tie_embeddings) {
      check.require(!weights.lm_head.present(), ErrorCode::invalid_argument, "lm_head.weight",
                    "must be absent: the configuration ties it to the embedding");
    } else {
      check.shape("lm_head.weight", weights.lm_head, {config.vocab_size, d_model});
    }
    for (index_t i = 0; i < config.n_layer && check.passed(); ++i) {
      check.shape("backbone.layers.*.norm.weight", weights.layers[i].norm_weight, {d_model})
          .also(Block::validate(config.block, weights.layers[i].mixer));
    }
    return check.status();
  }

  // Bytes that prepare() takes: from `host` for the list of blocks, from `data` for their
  // constants.
  struct PreparedBytes {
    std::size_t host, data;
  };
  static PreparedBytes prepared_bytes(const Backend& backend, const LanguageModelConfig& config,
                                      WeightFormat format = WeightFormat::native) noexcept {
    Arena host;
    Arena data;
    host.allocate<Layer>(config.n_layer);
    const std::size_t block = Block::prepared_bytes(backend, config.block, format);
    for (index_t i = 0; i < config.n_layer; ++i) {
      data.allocate<unsigned char>(static_cast<index_t>(block));
    }
    pack_linear(backend, View<const T, 2>(nullptr, {config.vocab_size, config.block.d_model}),
                format, data);
    return {host.bytes_needed(), data.bytes_needed()};
  }

  // Checks the weights and prepares every block. The arrays that `weights` views, `host` and `data`
  // must outlive the model. On error the model is unchanged. U is T or const T.
  template <class U>
  Status prepare(const Backend& backend, const LanguageModelConfig& config,
                 const LanguageModelParameters<U>& weights, Arena host, Arena data,
                 WeightFormat format = WeightFormat::native) noexcept {
    const char* const op = "LanguageModel::prepare";
    Status status = validate(config, weights);
    if (!status) return status;
    LanguageModel model;
    model.config_ = config;
    model.embedding_ = weights.embedding;
    model.norm_f_weight_ = weights.norm_f_weight;
    model.head_ = config.tie_embeddings ? weights.embedding : weights.lm_head;
    model.layers_ = host.allocate<Layer>(config.n_layer);
    status = host.status(op);
    const std::size_t block_bytes = Block::prepared_bytes(backend, config.block, format);
    for (index_t i = 0; i < config.n_layer && status; ++i) {
      unsigned char* memory = data.allocate<unsigned char>(static_cast<index_t>(block_bytes));
      status = data.status(op);
      if (!status) break;
      Layer* layer = new (model.layers_ + i) Layer();
      layer->norm_weight = weights.layers[i].norm_weight;
      status = layer->block.prepare(backend, config.block, weights.layers[i].mixer,
                                    Arena(memory, block_bytes), format);
    }
    if (!status) return status;
    model.packed_head_ = pack_linear(backend, model.head_, format, data);
    status = data.status(op);
    if (status) *this = model;
    return status;
  }

  const LanguageModelConfig& config() const noexcept { return config_; }

  // Bytes of workspace for forward on `batch` rows of `length` tokens, and for anything smaller.
  std::size_t workspace_bytes(const Backend& backend, index_t batch,
                              index_t length) const noexcept {
    Arena counter;
    carve(backend, batch, length, counter);
    return counter.bytes_needed();
  }

  // ids (batch, length), each in [0, vocab_size); logits (batch, length or 1, vocab_size) in
  // accum_t<T>, or absent to run the state forward only. `state` (one row per sequence) is read and
  // updated; absent means zeros in and nothing out. With sequences.lengths, padding is left alone
  // and Logits::last is each row's last valid token; packed sequences take Logits::all.
  template <class Observer>
  Status forward(const Backend& backend, const View<const index_t, 2>& ids,
                 const View<accum_t<T>, 3>& logits, const State& state, Arena workspace,
                 Logits which, const Sequences& sequences, Observer&& observer) const noexcept {
    const index_t batch = ids.extent(0);
    const index_t length = ids.extent(1);
    Status status = check_forward(backend, ids, logits, state, sequences.count(batch), workspace,
                                  which, sequences);
    if (!status) return status;
    if constexpr (reads_on_host<Backend>) {
      const bool whole = sequences.packed() && length <= time_chunk(backend, length);
      if (sequences.present() && !whole) {
        return forward_one_by_one(backend, ids, logits, state, workspace, which, sequences,
                                  observer);
      }
    }
    const index_t chunk = std::min(length, time_chunk(backend, length));
    const Workspace w = carve(backend, batch, length, workspace);
    State before = state;
    const State carried = state.present() || chunk == length ? state : w.carried;
    for (index_t t = 0; t < length && status; t += chunk) {
      const index_t tokens = std::min(chunk, length - t);
      const bool last = t + tokens == length;
      View<accum_t<T>, 3> out;
      if (which == Logits::all && logits.present()) out = logits.slice(1, t, tokens);
      if (which == Logits::last && last) out = logits;
      status = forward_chunk(backend, ids.slice(1, t, tokens), out, before, carried, sequences,
                             w.first_tokens(tokens), t, observer);
      before = carried;
    }
    return status;
  }
  Status forward(const Backend& backend, const View<const index_t, 2>& ids,
                 const View<accum_t<T>, 3>& logits, const State& state, Arena workspace,
                 Logits which = Logits::all, const Sequences& sequences = {}) const noexcept {
    return forward(backend, ids, logits, state, workspace, which, sequences,
                   [](const LayerTrace<T>&) {});
  }

  // One token per row: ids (batch), logits (batch, vocab_size). The same as forward with length 1;
  // slots and H as in MambaBlock::step: a skipped row needs a valid id all the same.
  template <class H = accum_t<T>>
  Status step(const Backend& backend, const View<const index_t, 1>& ids,
              const View<accum_t<T>, 2>& logits, const LanguageModelState<T, H>& state,
              Arena workspace, const View<const index_t, 1>& slots = {}) const noexcept {
    const View<const index_t, 2> one_id(ids.data(), {ids.extent(0), 1}, {ids.stride(0), 0});
    const View<accum_t<T>, 3> one_row(logits.data(), {logits.extent(0), 1, logits.extent(1)},
                                      {logits.stride(0), 0, logits.stride(1)});
    if constexpr (fuses_mamba_step<Backend, T, H>) {
      if (layers_ != nullptr && state.present() && layers_[0].block.fuses_step()) {
        return step_fused(backend, one_id, one_row, state, workspace, slots);
      }
    }
    if constexpr (std::is_same<H, accum_t<T>>::value) {
      if (!slots.present()) {
        return forward(backend, one_id, one_row, state, workspace, Logits::last);
      }
      return detail::step_by_slots<Backend>(
          "LanguageModel::step", slots, ids.extent(0), state.conv.extent(1),
          [&](index_t row, index_t slot) {
            return forward(backend, one_id.slice(0, row, 1), one_row.slice(0, row, 1),
                           state.rows(slot, 1), workspace, Logits::last);
          });
    } else {
      static_assert(fuses_mamba_step<Backend, T, H>,
                    "this backend steps on states in accum_t<T> only; see MambaState");
      return detail::step_not_fused("LanguageModel::step", layers_ != nullptr, state.present());
    }
  }

  // Training: forward that keeps, on `tape`, what backward reads; the arithmetic is forward's with
  // Logits::all. `before` and `after` must not overlap, for backward reads `before` once more:
  // carrying `after` of one call into the next, and the gradient of `before` back, is truncated
  // backpropagation through time. Padding (sequences.lengths) is `unsupported` on a backend whose
  // memory the host cannot read.
  Status forward_train(const Backend& backend, const View<const index_t, 2>& ids,
                       const View<accum_t<T>, 3>& logits, const State& before, const State& after,
                       const LanguageModelTape<T>& tape, Arena workspace,
                       const Sequences& sequences = {}) const noexcept;

  // The gradients of that call; see LanguageModelGradArgs. The tape is left as it is.
  Status backward(const Backend& backend, const LanguageModelGradArgs<T>& args,
                  const LanguageModelTape<T>& tape, Arena workspace) const noexcept;

  // Bytes of the tape, which stay in use from forward_train to backward …
  std::size_t tape_bytes(index_t batch, index_t length) const noexcept {
    return LanguageModelTape<T>::bytes(config_, batch, length);
  }
  // … and of the workspace for either call. `packed` is the number of packed sequences, or 0 where
  // each batch row is one.
  static std::size_t training_workspace_bytes(const Backend& backend,
                                              const LanguageModelConfig& config, index_t batch,
                                              index_t length, index_t packed = 0) noexcept;
  std::size_t training_workspace_bytes(const Backend& backend, index_t batch, index_t length,
                                       index_t packed = 0) const noexcept {
    return training_workspace_bytes(backend, config_, batch, length, packed);
  }

 private:
  struct TrainingWorkspace;
  TrainingWorkspace carve_training(const Backend& backend, index_t batch, index_t length,
                                   index_t packed, Arena& arena) const noexcept;
  LinearGradArgs<T, accum_t<T>> head_grad(const LanguageModelGradArgs<T>& a,
                                          const TrainingWorkspace& w) const noexcept;
  RmsNormGradArgs<T> norm_grad(const View<const accum_t<T>, 3>& residual,
                               const View<const T, 1>& weight,
                               const View<const accum_t<T>, 3>& later,
                               const View<accum_t<T>, 1>& dweight, GradMode mode,
                               const TrainingWorkspace& w) const noexcept;
  EmbeddingGradArgs<T> embedding_grad(const LanguageModelGradArgs<T>& a,
                                      const TrainingWorkspace& w) const noexcept;
  Status check_training(const char* op, const Backend& backend, const View<const index_t, 2>& ids,
                        const State& before, const State& after, const LanguageModelTape<T>& tape,
                        Arena workspace, const Sequences& sequences) const;
  Status forward_train_together(const Backend& backend, const View<const index_t, 2>& ids,
                                const View<accum_t<T>, 3>& logits, const State& before,
                                const State& after, const LanguageModelTape<T>& tape,
                                Arena workspace, const Sequences& sequences) const;
  Status backward_together(const Backend& backend, const LanguageModelGradArgs<T>& args,
                           const LanguageModelTape<T>& tape, Arena workspace) const;

  // The norm of the residual stream, which is left as it is.
  Status normalize(const Backend& backend, const View<accum_t<T>, 3>& residual,
                   const View<const T, 1>& weight, const View<T, 3>& y) const {
    RmsNormArgs<T> norm;
    norm.residual = residual;
    norm.weight = weight;
    norm.y = y;
    norm.eps = static_cast<accum_t<T>>(config_.norm_eps);
    return rms_norm(backend, norm);
  }

  static MambaState<T> layer_of(const State& state, index_t i) noexcept {
    return state.present() ? state.layer(i) : MambaState<T>{};
  }
  static State row_of(const State& state, index_t i) noexcept {
    return state.present() ? state.rows(i, 1) : State{};
  }
  // The tokens of a sequence; absent stays absent.
  template <class V>
  static V part_of(const V& v, const Sequences::Range& r) noexcept {
    return v.present() ? v.slice(0, r.row, 1).slice(1, r.begin, r.end - r.begin) : v;
  }

  struct Workspace {
    View<accum_t<T>, 3> residual;  // (batch, chunk, d_model)
    View<T, 3> normed;             // (batch, chunk, d_model)
    View<T, 3> mixed;              // (batch, chunk, d_model)
    State carried;                 // between chunks, when the caller keeps no state
    unsigned char* block = nullptr;
    std::size_t block_bytes = 0;

    Workspace first_tokens(index_t count) const noexcept {
      Workspace w = *this;
      w.residual = residual.slice(1, 0, count);
      w.normed = normed.slice(1, 0, count);
      w.mixed = mixed.slice(1, 0, count);
      return w;
    }
  };

  Workspace carve(const Backend& backend, index_t batch, index_t length,
                  Arena& arena) const noexcept {
    const index_t d_model = config_.block.d_model;
    const index_t chunk = time_chunk(backend, length);
    const index_t tokens = std::min(length, chunk);
    Workspace w;
    w.residual = arena.view<accum_t<T>, 3>({batch, tokens, d_model});
    w.normed = arena.view<T, 3>({batch, tokens, d_model});
    w.mixed = arena.view<T, 3>({batch, tokens, d_model});
    if (length > chunk) w.carried = State::carve(config_, batch, arena);
    w.block_bytes = Block::workspace_bytes(backend, config_.block, batch, tokens);
    if constexpr (fuses_language_model_step<Backend, T>) {
      const MambaConfig& c = config_.block;
      w.block_bytes =
          std::max(w.block_bytes, language_model_step_workspace_bytes<T>(
                                      batch, d_model, c.d_inner, c.dt_rank + 2 * c.d_state));
    }
    w.block = arena.allocate<unsigned char>(static_cast<index_t>(w.block_bytes));
    return w;
  }

  template <class H>
  Status check_forward(const Backend& backend, const View<const index_t, 2>& ids,
                       const View<accum_t<T>, 3>& logits, const LanguageModelState<T, H>& state,
                       index_t state_rows, Arena workspace, Logits which,
                       const Sequences& sequences) const {
    const char* const op = "LanguageModel::forward";
    const index_t batch = ids.extent(0);
    const index_t length = ids.extent(1);
    Check check(op);
    check.require(layers_ != nullptr, ErrorCode::invalid_argument, "model", "is not prepared")
        .array("ids", ids)
        .also(check_shapes(sequences, op, batch))
        .optional_shape("logits", logits,
                        {batch, which == Logits::all ? length : 1, config_.vocab_size})
        .require(which == Logits::all || !logits.present() || !sequences.packed(),
                 ErrorCode::unsupported, "Logits::last", "is not defined for packed sequences")
        .require(which == Logits::all || !logits.present() || length > 0 || batch == 0,
                 ErrorCode::invalid_argument, "ids", "must hold a token for Logits::last");
    if (state.present()) {
      const MambaConfig& b = config_.block;
      check.shape("state.conv", state.conv, {config_.n_layer, state_rows, b.d_conv - 1, b.d_inner})
          .shape("state.ssm", state.ssm, {config_.n_layer, state_rows, b.d_inner, b.d_state});
    }
    if (check.passed()) {
      carve(backend, batch, length, workspace);
      check.also(workspace.status(op));
    }
    if constexpr (reads_on_host<Backend>) {
      if (check.passed()) {
        check.also(check_values(sequences, op, batch, length));
        if (which == Logits::last && logits.present() && sequences.lengths.present()) {
          for (index_t b = 0; b < batch; ++b) {
            check.at_least("sequences.lengths value (Logits::last)", sequences.lengths(b),
                           index_t{1});
          }
        }
        for (index_t i = 0; i < sequences.count(batch) && check.passed(); ++i) {
          const Sequences::Range r = sequences.range(i, length);
          check.also(check_values(EmbeddingArgs<T>{
              ids.slice(0, r.row, 1).slice(1, r.begin, r.end - r.begin), embedding_, {}}));
        }
      }
    }
    return check.status();
  }

  // ids (batch, 1), logits (batch, 1, vocab_size), state present.
  template <class H>
  Status step_fused(const Backend& backend, const View<const index_t, 2>& ids,
                    const View<accum_t<T>, 3>& logits, const LanguageModelState<T, H>& state,
                    Arena workspace, const View<const index_t, 1>& slots) const {
    const index_t batch = ids.extent(0);
    const index_t states = slots.present() ? state.conv.extent(1) : batch;
    Status status = check_forward(backend, ids, logits, state, states, workspace, Logits::last, {});
    if (!status) return status;
    const Workspace w = carve(backend, batch, 1, workspace);
    const auto layer = [&](index_t i) {
      MambaStepArgs<T, H> step = layers_[i].block.fused_step(state.layer(i), slots);
      step.residual = w.residual.select(1, 0);
      step.norm_weight = layers_[i].norm_weight;
      step.norm_eps = static_cast<accum_t<T>>(config_.norm_eps);
      return step;
    };
    if constexpr (std::is_same<H, accum_t<T>>::value && fuses_language_model_step<Backend, T>) {
      LanguageModelStepArgs<T> step;
      step.ids = ids.select(1, 0);
      step.embedding = embedding_;
      step.n_layer = config_.n_layer;
      step.layers = &layer;
      step.layer = [](const void* layers, index_t i) {
        return (*static_cast<const decltype(layer)*>(layers))(i);
      };
      step.norm_weight = norm_f_weight_;
      step.norm_eps = static_cast<accum_t<T>>(config_.norm_eps);
      step.head = head_;
      if (logits.present()) step.logits = logits.select(1, 0);
      if (language_model_step_takes(backend, step)) {
        return language_model_step(backend, step, Arena(w.block, w.block_bytes));
      }
    }
    status = embedding(backend, EmbeddingArgs<T>{ids, embedding_, w.residual});
    for (index_t i = 0; i < config_.n_layer && status; ++i) {
      status = mamba_step(backend, layer(i), Arena(w.block, w.block_bytes));
    }
    if (status) status = normalize(backend, w.residual, norm_f_weight_, w.normed);
    if (!status || !logits.present()) return status;
    return linear(backend, LinearArgs<T, accum_t<T>>{w.normed, head_, {}, logits, packed_head_});
  }

  // Every sequence on its own, so that padding is never touched.
  template <class Observer>
  Status forward_one_by_one(const Backend& backend, const View<const index_t, 2>& ids,
                            const View<accum_t<T>, 3>& logits, const State& state, Arena workspace,
                            Logits which, const Sequences& sequences,
                            Observer&& observer) const noexcept {
    Status status;
    for (index_t i = 0; i < sequences.count(ids.extent(0)) && status; ++i) {
      const Sequences::Range r = sequences.range(i, ids.extent(1));
      const index_t tokens = r.end - r.begin;
      View<accum_t<T>, 3> out;
      if (logits.present()) {
        out = logits.slice(0, r.row, 1);
        if (which == Logits::all) out = out.slice(1, r.begin, tokens);
      }
      status =
          forward(backend, ids.slice(0, r.row, 1).slice(1, r.begin, tokens), out,
                  state.present() ? state.rows(i, 1) : State{}, workspace, which, {}, observer);
    }
    return status;
  }

  template <class Observer>
  Status forward_chunk(const Backend& backend, const View<const index_t, 2>& ids,
                       const View<accum_t<T>, 3>& logits, const State& before, const State& after,
                       const Sequences& sequences, const Workspace& w, index_t first_token,
                       Observer&& observer) const {
    Status status = embedding(backend, EmbeddingArgs<T>{ids, embedding_, w.residual});
    RmsNormArgs<T> norm;
    norm.residual = w.residual;
    norm.y = w.normed;
    norm.eps = static_cast<accum_t<T>>(config_.norm_eps);
    for (index_t i = 0; i < config_.n_layer && status; ++i) {
      norm.weight = layers_[i].norm_weight;
      status = rms_norm(backend, norm);
      if (!status) return status;
      status =
          layers_[i].block.forward(backend, w.normed, w.mixed, layer_of(before, i),
                                   layer_of(after, i), Arena(w.block, w.block_bytes), sequences);
      if (!status) return status;
      observer(LayerTrace<T>{i, first_token, w.residual, w.normed, w.mixed});
      norm.x = w.mixed;
    }
    if (!status) return status;
    norm.weight = norm_f_weight_;
    status = rms_norm(backend, norm);
    if (!status) return status;
    observer(LayerTrace<T>{config_.n_layer, first_token, w.residual, w.normed, {}});
    if (!logits.present()) return status;
    const index_t tokens = ids.extent(1);
    const View<T, 3> rows =
        logits.extent(1) == tokens ? w.normed : w.normed.slice(1, tokens - 1, 1);
    return linear(backend, LinearArgs<T, accum_t<T>>{rows, head_, {}, logits, packed_head_});
  }

  LanguageModelConfig config_;
  View<const T, 2> embedding_;
  View<const T, 1> norm_f_weight_;
  View<const T, 2> head_;
  PackedWeight packed_head_;
  Layer* layers_ = nullptr;
};

SSM_NAMESPACE_END

#include "ssm/model/language_model_training.hpp"
