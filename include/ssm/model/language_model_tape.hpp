#pragma once

#include "ssm/block/mamba_tape.hpp"
#include "ssm/model/language_model_parameters.hpp"

SSM_NAMESPACE_BEGIN

// What the model keeps from forward_train to backward: the residual stream before each layer and
// before the final norm, and each block's tape. Norms and their outputs are computed again.
template <class T>
struct LanguageModelTape {
  View<accum_t<T>, 4> residual;  // (n_layer + 1, batch, length, d_model)
  View<T, 4> xz;                 // (n_layer, batch, length, in_proj_rows)
  View<T, 4> dt_BC;              // (n_layer, batch, length, dt_rank + 2 d_state)

  static LanguageModelTape carve(const LanguageModelConfig& c, index_t batch, index_t length,
                                 Arena& arena) noexcept {
    const MambaConfig& b = c.block;
    LanguageModelTape tape;
    tape.residual = arena.view<accum_t<T>, 4>({c.n_layer + 1, batch, length, b.d_model});
    tape.xz = arena.view<T, 4>({c.n_layer, batch, length, in_proj_rows(b)});
    tape.dt_BC = arena.view<T, 4>({c.n_layer, batch, length, b.dt_rank + 2 * b.d_state});
    return tape;
  }
  static std::size_t bytes(const LanguageModelConfig& c, index_t batch, index_t length) noexcept {
    Arena counter;
    carve(c, batch, length, counter);
    return counter.bytes_needed();
  }

  MambaTape<T> layer(index_t i) const noexcept { return {xz.select(0, i), dt_BC.select(0, i)}; }
  // The tokens [begin, end) of one batch row.
  LanguageModelTape part(const Sequences::Range& r) const noexcept {
    const auto cut = [&r](const auto& v) {
      return v.slice(1, r.row, 1).slice(2, r.begin, r.end - r.begin);
    };
    return {cut(residual), cut(xz), cut(dt_BC)};
  }
};

template <class T>
Status check_shapes(const LanguageModelConfig& c, const LanguageModelTape<T>& tape, index_t batch,
                    index_t length) noexcept {
  const MambaConfig& b = c.block;
  return Check("LanguageModelTape")
      .shape("residual", tape.residual, {c.n_layer + 1, batch, length, b.d_model})
      .shape("xz", tape.xz, {c.n_layer, batch, length, in_proj_rows(b)})
      .shape("dt_BC", tape.dt_BC, {c.n_layer, batch, length, b.dt_rank + 2 * b.d_state})
      .status();
}

// Gradients of the parameters; an absent view, or no list of layers, is not wanted.
template <class T>
using LanguageModelGrads = LanguageModelParameters<accum_t<T>>;

// LanguageModel::backward: given dlogits = dL/dlogits and dafter = dL/d(final state), the gradients
// of the parameters and of the initial state. Two calls with the same arguments give the same bits
// on the same backend.
template <class T>
struct LanguageModelGradArgs {
  View<const index_t, 2> ids;           // (batch, length), as forward_train read them
  LanguageModelState<T> before;         // the same
  View<const accum_t<T>, 3> dlogits;    // (batch, length, vocab_size); of padding, not read
  LanguageModelState<T> dafter;         // optional: absent means zero
  LanguageModelState<T> dbefore;        // optional output; may be dafter
  LanguageModelGrads<T> grads;          // a tied head adds to the embedding's gradient
  GradMode mode = GradMode::overwrite;  // of grads
  Sequences sequences = {};
};

// The shapes of those gradients that are present.
template <class R>
Status check_grad_shapes(const LanguageModelConfig& c,
                         const LanguageModelParameters<R>& g) noexcept {
  const index_t d_model = c.block.d_model;
  Check check("LanguageModelGrads");
  check.optional_shape("backbone.embeddings.weight", g.embedding, {c.vocab_size, d_model})
      .optional_shape("backbone.norm_f.weight", g.norm_f_weight, {d_model});
  if (c.tie_embeddings) {
    check.require(!g.lm_head.present(), ErrorCode::invalid_argument, "lm_head.weight",
                  "must be absent: the configuration ties it to the embedding");
  } else {
    check.optional_shape("lm_head.weight", g.lm_head, {c.vocab_size, d_model});
  }
  if (g.layers == nullptr) return check.status();
  check.equal("n_layer", g.n_layer, c.n_layer);
  for (index_t i = 0; i < c.n_layer && check.passed(); ++i) {
    check.optional_shape("backbone.layers.*.norm.weight", g.layers[i].norm_weight, {d_model})
        .also(check_grad_shapes(c.block, g.layers[i].mixer));
  }
  return check.status();
}

SSM_NAMESPACE_END
