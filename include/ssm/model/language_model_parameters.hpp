#pragma once

#include <cstdio>
#include <new>

#include "ssm/block/initialize.hpp"
#include "ssm/block/mamba_parameters.hpp"
#include "ssm/block/mamba_state.hpp"

SSM_NAMESPACE_BEGIN

// A stack of Mamba blocks between an embedding and a head.
struct LanguageModelConfig {
  MambaConfig block;
  index_t n_layer = 0;
  index_t vocab_size = 0;      // rows of the embedding, padding included
  bool tie_embeddings = true;  // the head is the embedding
  double norm_eps = 1e-5;
};

inline Status validate(const LanguageModelConfig& c) noexcept {
  return Check("LanguageModelConfig")
      .also(validate(c.block))
      .at_least("n_layer", c.n_layer, index_t{1})
      .at_most("n_layer", c.n_layer, index_t{1} << 20)
      .at_least("vocab_size", c.vocab_size, index_t{1})
      .at_most("vocab_size", c.vocab_size, index_t{1} << 31)
      .at_least("norm_eps", c.norm_eps, 0.0)
      .status();
}

// One layer: a norm before the block.
template <class T>
struct LayerParameters {
  View<T, 1> norm_weight;  // (d_model)
  MambaParameters<T> mixer;
};

// The learnable arrays of the model. T may be const, as for MambaParameters.
template <class T>
struct LanguageModelParameters {
  View<T, 2> embedding;                  // (vocab_size, d_model)
  LayerParameters<T>* layers = nullptr;  // n_layer of them
  index_t n_layer = 0;
  View<T, 1> norm_f_weight;  // (d_model)
  View<T, 2> lm_head;        // (vocab_size, d_model); absent when tied to the embedding

  // Calls f(name, view) for every present array under its Hugging Face name.
  template <class F>
  void for_each(F&& f) const {
    visit_together(f, *this);
  }

  // Contiguous arrays of the configured shapes, uninitialised. The list of layers comes from
  // `host`, the data from `data` (device memory for a device backend; the same arena otherwise).
  static LanguageModelParameters carve(const LanguageModelConfig& c, Arena& host,
                                       Arena& data) noexcept {
    LanguageModelParameters p;
    p.n_layer = c.n_layer;
    p.layers = host.allocate<LayerParameters<T>>(c.n_layer);
    p.embedding = data.view<T, 2>({c.vocab_size, c.block.d_model});
    for (index_t i = 0; i < c.n_layer; ++i) {
      LayerParameters<T> layer;
      layer.norm_weight = data.view<T, 1>({c.block.d_model});
      layer.mixer = MambaParameters<T>::carve(c.block, data);
      if (p.layers != nullptr) new (p.layers + i) LayerParameters<T>(layer);
    }
    p.norm_f_weight = data.view<T, 1>({c.block.d_model});
    if (!c.tie_embeddings) p.lm_head = data.view<T, 2>({c.vocab_size, c.block.d_model});
    return p;
  }
};

// Calls f(name, view, …) for every array that is present in the first of several sets of
// parameters, with the arrays of that name in the others, which have as many layers.
template <class F, class T, class... Others>
void visit_together(F&& f, const LanguageModelParameters<T>& p, const Others&... others) {
  f("backbone.embeddings.weight", p.embedding, others.embedding...);
  for (index_t i = 0; i < p.n_layer; ++i) {
    char name[96];
    const int prefix =
        std::snprintf(name, sizeof(name), "backbone.layers.%lld.", static_cast<long long>(i));
    const auto named = [&](const char* part, const char* leaf) {
      std::snprintf(name + prefix, sizeof(name) - static_cast<std::size_t>(prefix), "%s%s", part,
                    leaf);
      return static_cast<const char*>(name);
    };
    f(named("norm.weight", ""), p.layers[i].norm_weight, others.layers[i].norm_weight...);
    visit_together(
        [&](const char* leaf, const auto&... views) { f(named("mixer.", leaf), views...); },
        p.layers[i].mixer, others.layers[i].mixer...);
  }
  f("backbone.norm_f.weight", p.norm_f_weight, others.norm_f_weight...);
  if (p.lm_head.present()) f("lm_head.weight", p.lm_head, others.lm_head...);
}

// The number of learnable values; a tied head counts once.
inline index_t parameter_count(const LanguageModelConfig& c) noexcept {
  const index_t layer = c.block.d_model + parameter_count(c.block);
  const index_t table = c.vocab_size * c.block.d_model;
  return table * (c.tie_embeddings ? 1 : 2) + c.n_layer * layer + c.block.d_model;
}

// Fills the model in host memory: embedding (and untied head) N(0, 0.02^2), norms 1, blocks as
// initialize(MambaParameters).
template <class T>
void initialize(const LanguageModelConfig& c, const LanguageModelParameters<T>& p, Random& random) {
  const auto normal = [&](auto...) { return 0.02 * random.normal(); };
  const auto one = [](index_t) { return 1.0; };
  MambaInit init;
  init.n_layer = c.n_layer;
  detail::fill(p.embedding, normal);
  for (index_t i = 0; i < c.n_layer; ++i) {
    detail::fill(p.layers[i].norm_weight, one);
    initialize(c.block, p.layers[i].mixer, random, init);
  }
  detail::fill(p.norm_f_weight, one);
  detail::fill(p.lm_head, normal);
}

// The states of all layers, one row per sequence in each: two arrays, so that a snapshot is two
// copies. H as in MambaState.
template <class T, class H>
struct LanguageModelState {
  View<H, 4> conv;  // (n_layer, sequences, d_conv - 1, d_inner)
  View<H, 4> ssm;   // (n_layer, sequences, d_inner, d_state), channels contiguous

  bool present() const noexcept { return conv.present() || ssm.present(); }

  static LanguageModelState carve(const LanguageModelConfig& c, index_t sequences,
                                  Arena& arena) noexcept {
    const MambaConfig& b = c.block;
    LanguageModelState s;
    s.conv = arena.view<H, 4>({c.n_layer, sequences, b.d_conv - 1, b.d_inner});
    s.ssm = arena.view<H, 4>({c.n_layer, sequences, b.d_state, b.d_inner}).transpose(2, 3);
    return s;
  }

  MambaState<T, H> layer(index_t i) const noexcept { return {conv.select(0, i), ssm.select(0, i)}; }
  LanguageModelState rows(index_t begin, index_t count) const noexcept {
    return {conv.slice(1, begin, count), ssm.slice(1, begin, count)};
  }
};

// The state before the first token, in host memory.
template <class T, class H>
void set_zero(const LanguageModelState<T, H>& s) noexcept {
  for (index_t l = 0; l < s.conv.extent(0); ++l) set_zero(s.layer(l));
}

// to = from, stored in another way; as for MambaState.
template <class Backend, class T, class From, class To>
Status convert(const Backend& backend, const LanguageModelState<T, From>& from,
               const LanguageModelState<T, To>& to) noexcept {
  const Status status = convert(backend, ConvertArgs<From, To>{from.conv, to.conv});
  return status ? convert(backend, ConvertArgs<From, To>{from.ssm, to.ssm}) : status;
}

SSM_NAMESPACE_END
