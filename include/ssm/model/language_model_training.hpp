#pragma once

// The definitions of LanguageModel's training members; <ssm/model/language_model.hpp> includes
// them.

#include <algorithm>

#include "ssm/model/language_model.hpp"
#include "ssm/ops/embedding_backward.hpp"
#include "ssm/ops/linear_backward.hpp"
#include "ssm/ops/residual_add.hpp"
#include "ssm/ops/rms_norm_backward.hpp"

SSM_NAMESPACE_BEGIN

template <class T, class Backend>
struct LanguageModel<T, Backend>::TrainingWorkspace {
  View<T, 3> normed;              // (batch, length, d_model): a norm's output
  View<T, 3> dnormed;             // its gradient
  View<T, 3> mixed;               // a block's output; backward: its gradient
  View<accum_t<T>, 3> dresidual;  // the residual stream's gradient
  Arena block;
  Arena scratch;  // of the operations, one after another
};

template <class T, class Backend>
LinearGradArgs<T, accum_t<T>> LanguageModel<T, Backend>::head_grad(
    const LanguageModelGradArgs<T>& a, const TrainingWorkspace& w) const noexcept {
  LinearGradArgs<T, accum_t<T>> head;
  head.x = w.normed;
  head.weight = head_;
  head.dy = a.dlogits;
  head.dx = w.dnormed;
  head.dweight = config_.tie_embeddings ? a.grads.embedding : a.grads.lm_head;
  head.parameters = a.mode;
  return head;
}

// Of a norm that read the stream `residual`; `later` is the stream's gradient above it. Leaves the
// stream's gradient below it in dresidual, and in `mixed` for the block that was added to the
// stream there.
template <class T, class Backend>
RmsNormGradArgs<T> LanguageModel<T, Backend>::norm_grad(const View<const accum_t<T>, 3>& residual,
                                                        const View<const T, 1>& weight,
                                                        const View<const accum_t<T>, 3>& later,
                                                        const View<accum_t<T>, 1>& dweight,
                                                        GradMode mode,
                                                        const TrainingWorkspace& w) const noexcept {
  RmsNormGradArgs<T> norm;
  norm.residual = residual;
  norm.weight = weight;
  norm.eps = static_cast<accum_t<T>>(config_.norm_eps);
  norm.dy = w.dnormed;
  norm.dr_later = later;
  norm.dx = w.mixed;
  norm.dresidual = w.dresidual;
  norm.dweight = dweight;
  norm.parameters = mode;
  return norm;
}

// After head_grad, to whose gradient it adds when the head is the embedding.
template <class T, class Backend>
EmbeddingGradArgs<T> LanguageModel<T, Backend>::embedding_grad(
    const LanguageModelGradArgs<T>& a, const TrainingWorkspace& w) const noexcept {
  const bool adds = config_.tie_embeddings && a.mode == GradMode::overwrite;
  return {a.ids, w.dresidual, a.grads.embedding, adds ? GradMode::accumulate : a.mode};
}

template <class T, class Backend>
auto LanguageModel<T, Backend>::carve_training(const Backend& backend, index_t batch,
                                               index_t length, index_t packed,
                                               Arena& arena) const noexcept -> TrainingWorkspace {
  const Extents<3> stream{batch, length, config_.block.d_model};
  TrainingWorkspace w;
  w.normed = arena.view<T, 3>(stream);
  w.dnormed = arena.view<T, 3>(stream);
  w.mixed = arena.view<T, 3>(stream);
  w.dresidual = arena.view<accum_t<T>, 3>(stream);
  const std::size_t block_bytes =
      Block::training_workspace_bytes(backend, config_.block, batch, length, packed);
  w.block = Arena(arena.allocate<unsigned char>(static_cast<index_t>(block_bytes)), block_bytes);

  // All that backward may be asked for, as shapes without data.
  Arena counter;
  LanguageModelGradArgs<T> every;
  every.ids = counter.view<index_t, 2>({batch, length});
  every.dlogits = counter.view<accum_t<T>, 3>({batch, length, config_.vocab_size});
  every.grads.embedding = counter.view<accum_t<T>, 2>({config_.vocab_size, config_.block.d_model});
  every.grads.lm_head = every.grads.embedding;
  const std::size_t bytes = std::max(
      {scratch_bytes(backend, head_grad(every, w)),
       scratch_bytes(backend, embedding_grad(every, w)),
       scratch_bytes(backend, norm_grad(w.dresidual, norm_f_weight_, w.dresidual,
                                        counter.view<accum_t<T>, 1>({config_.block.d_model}),
                                        GradMode::overwrite, w))});
  w.scratch = Arena(arena.allocate<unsigned char>(static_cast<index_t>(bytes)), bytes);
  return w;
}

template <class T, class Backend>
std::size_t LanguageModel<T, Backend>::training_workspace_bytes(const Backend& backend,
                                                                const LanguageModelConfig& config,
                                                                index_t batch, index_t length,
                                                                index_t packed) noexcept {
  Arena counter;
  LanguageModel model;
  model.config_ = config;
  model.head_ = View<const T, 2>(nullptr, {config.vocab_size, config.block.d_model});
  model.norm_f_weight_ = View<const T, 1>(nullptr, {config.block.d_model});
  model.carve_training(backend, batch, length, packed, counter);
  return counter.bytes_needed();
}

// The conditions that forward_train and backward share.
template <class T, class Backend>
Status LanguageModel<T, Backend>::check_training(const char* op, const Backend& backend,
                                                 const View<const index_t, 2>& ids,
                                                 const State& before, const State& after,
                                                 const LanguageModelTape<T>& tape, Arena workspace,
                                                 const Sequences& sequences) const {
  const index_t batch = ids.extent(0);
  const index_t length = ids.extent(1);
  Check check(op);
  check.require(layers_ != nullptr, ErrorCode::invalid_argument, "model", "is not prepared")
      .array("ids", ids)
      .also(check_shapes(sequences, op, batch));
  const index_t rows = sequences.count(batch);
  const MambaConfig& b = config_.block;
  for (const State& state : {before, after}) {
    if (!state.present()) continue;
    check.shape("state.conv", state.conv, {config_.n_layer, rows, b.d_conv - 1, b.d_inner})
        .shape("state.ssm", state.ssm, {config_.n_layer, rows, b.d_inner, b.d_state});
  }
  if (check.passed()) {
    check.also(check_shapes(config_, tape, batch, length));
    carve_training(backend, batch, length, sequences.packed() ? sequences.count(batch) : 0,
                   workspace);
    check.also(workspace.status(op));
  }
  if constexpr (reads_on_host<Backend>) {
    if (check.passed()) check.also(check_values(sequences, op, batch, length));
    for (index_t i = 0; check.passed() && i < rows; ++i) {
      check.also(
          check_values(EmbeddingArgs<T>{part_of(ids, sequences.range(i, length)), embedding_, {}}));
    }
  } else {
    check.require(!sequences.lengths.present(), ErrorCode::unsupported, "sequences.lengths",
                  "must be absent: pack the sequences instead");
  }
  return check.status();
}

template <class T, class Backend>
Status LanguageModel<T, Backend>::forward_train(const Backend& backend,
                                                const View<const index_t, 2>& ids,
                                                const View<accum_t<T>, 3>& logits,
                                                const State& before, const State& after,
                                                const LanguageModelTape<T>& tape, Arena workspace,
                                                const Sequences& sequences) const noexcept {
  const char* const op = "LanguageModel::forward_train";
  const index_t batch = ids.extent(0);
  const index_t length = ids.extent(1);
  Check check(op);
  check.also(check_training(op, backend, ids, before, after, tape, workspace, sequences))
      .optional_shape("logits", logits, {batch, length, config_.vocab_size})
      .require(before.ssm.size() == 0 || before.ssm.data() != after.ssm.data(),
               ErrorCode::invalid_argument, "after", "must not be before: backward reads that");
  if (!check.passed() || !sequences.lengths.present()) {
    return check.passed() ? forward_train_together(backend, ids, logits, before, after, tape,
                                                   workspace, sequences)
                          : check.status();
  }
  // Every sequence on its own, so that padding is never touched.
  Status status;
  for (index_t i = 0; i < batch && status; ++i) {
    const Sequences::Range r = sequences.range(i, length);
    status = forward_train_together(backend, part_of(ids, r), part_of(logits, r), row_of(before, i),
                                    row_of(after, i), tape.part(r), workspace, {});
  }
  return status;
}

template <class T, class Backend>
Status LanguageModel<T, Backend>::forward_train_together(
    const Backend& backend, const View<const index_t, 2>& ids, const View<accum_t<T>, 3>& logits,
    const State& before, const State& after, const LanguageModelTape<T>& tape, Arena workspace,
    const Sequences& sequences) const {
  const TrainingWorkspace w =
      carve_training(backend, ids.extent(0), ids.extent(1),
                     sequences.packed() ? sequences.count(1) : 0, workspace);
  Status status = embedding(backend, EmbeddingArgs<T>{ids, embedding_, tape.residual.select(0, 0)});
  for (index_t i = 0; i < config_.n_layer && status; ++i) {
    const View<accum_t<T>, 3> residual = tape.residual.select(0, i);
    status = normalize(backend, residual, layers_[i].norm_weight, w.normed);
    if (!status) return status;
    status = layers_[i].block.forward_train(backend, w.normed, w.mixed, layer_of(before, i),
                                            layer_of(after, i), tape.layer(i), w.block, sequences);
    if (!status) return status;
    status = residual_add(backend,
                          ResidualAddArgs<T>{residual, w.mixed, tape.residual.select(0, i + 1)});
  }
  if (!status || !logits.present()) return status;
  status = normalize(backend, tape.residual.select(0, config_.n_layer), norm_f_weight_, w.normed);
  if (!status) return status;
  return linear(backend, LinearArgs<T, accum_t<T>>{w.normed, head_, {}, logits, packed_head_});
}

template <class T, class Backend>
Status LanguageModel<T, Backend>::backward(const Backend& backend,
                                           const LanguageModelGradArgs<T>& a,
                                           const LanguageModelTape<T>& tape,
                                           Arena workspace) const noexcept {
  const char* const op = "LanguageModel::backward";
  const index_t batch = a.ids.extent(0);
  const index_t length = a.ids.extent(1);
  Check check(op);
  check.also(check_training(op, backend, a.ids, a.before, a.dafter, tape, workspace, a.sequences))
      .shape("dlogits", a.dlogits, {batch, length, config_.vocab_size});
  if (a.dbefore.present()) {
    const MambaConfig& b = config_.block;
    const index_t rows = a.sequences.count(batch);
    check.shape("dbefore.conv", a.dbefore.conv, {config_.n_layer, rows, b.d_conv - 1, b.d_inner})
        .shape("dbefore.ssm", a.dbefore.ssm, {config_.n_layer, rows, b.d_inner, b.d_state});
  }
  if (a.mode != GradMode::ignore) check.also(check_grad_shapes(config_, a.grads));
  if (!check.passed()) return check.status();
  if (!a.sequences.lengths.present() || batch == 0) {
    return backward_together(backend, a, tape, workspace);
  }
  // Every sequence on its own, so that padding is never touched; the gradients add up.
  LanguageModelGradArgs<T> one = a;
  one.sequences = {};
  Status status;
  for (index_t i = 0; i < batch && status; ++i) {
    const Sequences::Range r = a.sequences.range(i, length);
    one.ids = part_of(a.ids, r);
    one.dlogits = part_of(a.dlogits, r);
    one.before = row_of(a.before, i);
    one.dafter = row_of(a.dafter, i);
    one.dbefore = row_of(a.dbefore, i);
    status = backward_together(backend, one, tape.part(r), workspace);
    if (one.mode == GradMode::overwrite) one.mode = GradMode::accumulate;
  }
  return status;
}

// The equations of the model, last to first.
template <class T, class Backend>
Status LanguageModel<T, Backend>::backward_together(const Backend& backend,
                                                    const LanguageModelGradArgs<T>& a,
                                                    const LanguageModelTape<T>& tape,
                                                    Arena workspace) const {
  const TrainingWorkspace w =
      carve_training(backend, a.ids.extent(0), a.ids.extent(1),
                     a.sequences.packed() ? a.sequences.count(1) : 0, workspace);
  const View<accum_t<T>, 3> last = tape.residual.select(0, config_.n_layer);
  Status status = normalize(backend, last, norm_f_weight_, w.normed);
  if (status) status = linear_backward(backend, head_grad(a, w), w.scratch);
  if (status) {
    status = rms_norm_backward(
        backend, norm_grad(last, norm_f_weight_, {}, a.grads.norm_f_weight, a.mode, w), w.scratch);
  }
  for (index_t i = config_.n_layer - 1; i >= 0 && status; --i) {
    const LayerParameters<accum_t<T>> grads =
        a.grads.layers == nullptr ? LayerParameters<accum_t<T>>{} : a.grads.layers[i];
    const View<accum_t<T>, 3> residual = tape.residual.select(0, i);
    status = normalize(backend, residual, layers_[i].norm_weight, w.normed);
    if (!status) return status;
    MambaGradArgs<T> block;
    block.x = w.normed;
    block.before = layer_of(a.before, i);
    block.dy = w.mixed;
    block.dafter = layer_of(a.dafter, i);
    block.dx = w.dnormed;
    block.dbefore = layer_of(a.dbefore, i);
    block.grads = grads.mixer;
    block.mode = a.mode;
    block.sequences = a.sequences;
    status = layers_[i].block.backward(backend, block, tape.layer(i), w.block);
    if (!status) return status;
    status = rms_norm_backward(
        backend,
        norm_grad(residual, layers_[i].norm_weight, w.dresidual, grads.norm_weight, a.mode, w),
        w.scratch);
  }
  if (!status) return status;
  return embedding_backward(backend, embedding_grad(a, w), w.scratch);
}

SSM_NAMESPACE_END
