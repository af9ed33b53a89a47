#pragma once

#include <cstdint>
#include <type_traits>

#include "ssm/ops/mamba_step.hpp"

SSM_NAMESPACE_BEGIN

// One token of every row through a whole language model of Mamba-1 blocks, as one operation: what
// LanguageModel::step calls on a backend that does this faster than one block after another.
//
//   r      = embedding[ids]
//   r      = r + block_i(rms_norm(r))      i = 0 … n_layer - 1: MambaStepArgs
//   logits = W_head (rms_norm(r) norm_weight)
template <class T>
struct LanguageModelStepArgs {
  using Accum = accum_t<T>;

  View<const index_t, 1> ids;    // (batch), each in [0, vocabulary)
  View<const T, 2> embedding;    // (vocabulary, d_model)
  index_t n_layer = 0;           // at least 1
  const void* layers = nullptr;  // what `layer` is called with
  // The arguments of layer i. All layers have the same shapes and options, and the `residual` of
  // the first, whose values before and after are unspecified.
  MambaStepArgs<T> (*layer)(const void* layers, index_t i) = nullptr;
  View<const T, 1> norm_weight;  // (d_model)
  Accum norm_eps = 0;
  View<const T, 2> head;  // (vocabulary, d_model)
  View<Accum, 2> logits;  // (batch, vocabulary), output, optional
};

// Whether a backend has the operation for T, with states in accum_t<T>. Of such a backend,
// language_model_step_takes(backend, args) says whether it takes these arguments; for the rest the
// model calls one block after another.
template <class Backend, class T>
inline constexpr bool fuses_language_model_step = false;

// Every shape condition; touches no element.
template <class T>
Status check_shapes(const LanguageModelStepArgs<T>& a) noexcept {
  Check check("language_model_step");
  const index_t batch = a.ids.extent(0);
  const index_t vocabulary = a.embedding.extent(0);
  const index_t d_model = a.embedding.extent(1);
  check.array("ids", a.ids)
      .array("embedding", a.embedding)
      .shape("norm_weight", a.norm_weight, {d_model})
      .shape("head", a.head, {vocabulary, d_model})
      .optional_shape("logits", a.logits, {batch, vocabulary})
      .at_least("n_layer", a.n_layer, index_t{1})
      .require(a.layer != nullptr, ErrorCode::invalid_argument, "layer", "must not be null");
  for (index_t i = 0; i < a.n_layer && check.passed(); ++i) {
    const MambaStepArgs<T> layer = a.layer(a.layers, i);
    check.shape("layer residual", layer.residual, {batch, d_model}).also(check_shapes(layer));
  }
  return check.status();
}

namespace detail {

// What language_model_step carves from its workspace: the activations between its parts, each value
// in a word with as many bits beside it as it has itself.
template <class T>
struct LanguageModelStepScratch {
  using Word = std::conditional_t<sizeof(T) == 2, std::uint32_t, std::uint64_t>;
  View<std::uint64_t, 2> residual;  // (batch, d_model), of floats
  View<Word, 2> x, y;               // (batch, d_inner)
  View<Word, 2> dt_BC;              // (batch, dt_rank + 2 d_state)

  static LanguageModelStepScratch carve(index_t batch, index_t d_model, index_t d_inner,
                                        index_t x_proj_rows, Arena& arena) noexcept {
    LanguageModelStepScratch s;
    s.residual = arena.view<std::uint64_t, 2>({batch, d_model});
    s.x = arena.view<Word, 2>({batch, d_inner});
    s.y = arena.view<Word, 2>({batch, d_inner});
    s.dt_BC = arena.view<Word, 2>({batch, x_proj_rows});
    return s;
  }
};

}  // namespace detail

// Bytes of workspace for language_model_step.
template <class T>
std::size_t language_model_step_workspace_bytes(index_t batch, index_t d_model, index_t d_inner,
                                                index_t x_proj_rows) noexcept {
  Arena counter;
  detail::LanguageModelStepScratch<T>::carve(batch, d_model, d_inner, x_proj_rows, counter);
  return counter.bytes_needed();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class T>
bool language_model_step_takes(const Backend&, const LanguageModelStepArgs<T>&) {
  static_assert(
      sizeof(Backend) == 0,
      "no language_model_step for this backend: include <ssm/cuda/language_model_step.hpp>");
  return false;
}
template <class Backend, class T>
Status language_model_step(const Backend&, const LanguageModelStepArgs<T>&, Arena) {
  static_assert(
      sizeof(Backend) == 0,
      "no language_model_step for this backend: include <ssm/cuda/language_model_step.hpp>");
  return Status::ok();
}

SSM_NAMESPACE_END
