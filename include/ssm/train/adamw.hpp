#pragma once

#include <algorithm>
#include <cstring>
#include <new>
#include <type_traits>

#include "ssm/model/language_model_tape.hpp"
#include "ssm/ops/adamw.hpp"
#include "ssm/ops/sum_of_squares.hpp"

SSM_NAMESPACE_BEGIN

// The constants of the optimiser; the defaults are those that Mamba's language models were trained
// with (Gu and Dao 2023, E.2).
struct AdamWConfig {
  double beta1 = 0.9;         // [0, 1)
  double beta2 = 0.95;        // [0, 1)
  double eps = 1e-8;          // > 0
  double weight_decay = 0.1;  // >= 0; of matrices, but for A_log
  double max_norm = 1;        // of all gradients together, >= 0; 0 does not clip
};

// Whether a parameter of this name decays: matrices do; A_log, D, norms and biases do not.
inline bool weight_decays(const char* name) noexcept {
  const auto contains = [name](const char* part) { return std::strstr(name, part) != nullptr; };
  const bool norm = contains("norm.weight") || contains("norm_f.weight");
  return contains(".weight") && !norm;
}

// What the optimiser of a language model remembers between steps, besides the parameters.
template <class T>
struct AdamWState {
  LanguageModelGrads<T> m, v;
  LanguageModelGrads<T> master;  // the parameters in accum_t<T>; all absent when T is that already
  View<AdamWStep, 1> step;       // (1), set by the caller before each step
  View<double, 1> square_norm;   // (1): of the gradients of the last step, before clipping

  static constexpr bool kMaster = !std::is_same<T, accum_t<T>>::value;

  // Uninitialised; the lists of layers come from `host`, as in LanguageModelParameters::carve.
  static AdamWState carve(const LanguageModelConfig& c, Arena& host, Arena& data) noexcept {
    AdamWState s;
    s.m = LanguageModelGrads<T>::carve(c, host, data);
    s.v = LanguageModelGrads<T>::carve(c, host, data);
    if (kMaster) {
      s.master = LanguageModelGrads<T>::carve(c, host, data);
    } else {
      s.master.n_layer = c.n_layer;
      s.master.layers = host.allocate<LayerParameters<accum_t<T>>>(c.n_layer);
      for (index_t i = 0; i < c.n_layer && s.master.layers != nullptr; ++i) {
        new (s.master.layers + i) LayerParameters<accum_t<T>>();
      }
    }
    s.step = data.view<AdamWStep, 1>({1});
    s.square_norm = data.view<double, 1>({1});
    return s;
  }
};

namespace detail {

// The elements of a contiguous array in one row.
template <class T, int Rank>
View<T, 1> flattened(const View<T, Rank>& v) noexcept {
  return View<T, 1>(v.data(), {v.size()});
}

}  // namespace detail

// The state before the first step, in host memory: moments zero, master copies of the parameters.
template <class T>
void initialize(const LanguageModelParameters<T>& parameters, const AdamWState<T>& s) noexcept {
  visit_together(
      [](const char*, const auto& p, const auto& m, const auto& v, const auto& master) {
        const auto from = detail::flattened(p);
        const auto m1 = detail::flattened(m);
        const auto v1 = detail::flattened(v);
        const auto copy = detail::flattened(master);
        for (index_t i = 0; i < from.extent(0); ++i) {
          m1(i) = accum_t<T>(0);
          v1(i) = accum_t<T>(0);
          if (copy.data() != nullptr) copy(i) = widen(from(i));
        }
      },
      parameters, s.m, s.v, s.master);
  s.step(0) = AdamWStep{};
  s.square_norm(0) = 0;
}

// Bytes of workspace for adamw_step.
template <class Backend, class T>
std::size_t adamw_workspace_bytes(const Backend& backend,
                                  const LanguageModelParameters<T>& parameters) noexcept {
  std::size_t bytes = 0;
  parameters.for_each([&](const char*, const auto& p) {
    SumOfSquaresArgs<accum_t<T>> sum;
    sum.x = View<const accum_t<T>, 1>(nullptr, {p.size()});
    bytes = std::max(bytes, scratch_bytes(backend, sum));
  });
  return bytes;
}

// Clips the gradients to max_norm and takes the step that `state.step` describes. Every array must
// be contiguous, as carve makes them; a parameter whose gradient is absent stays as it is. The
// gradients are not changed. A model prepared from the parameters must be prepared again.
template <class Backend, class T>
Status adamw_step(const Backend& backend, const AdamWConfig& config,
                  const LanguageModelParameters<T>& parameters, const LanguageModelGrads<T>& grads,
                  const AdamWState<T>& state, Arena workspace) noexcept {
  using Accum = accum_t<T>;
  const char* const op = "adamw_step";
  Check check(op);
  check.at_least("max_norm", config.max_norm, 0.0);
  for (const LanguageModelGrads<T>& set : {grads, state.m, state.v, state.master}) {
    check.equal("n_layer", set.n_layer, parameters.n_layer)
        .require(set.layers != nullptr, ErrorCode::invalid_argument, "layers", "must not be null");
  }
  if (!check.passed()) return check.status();
  visit_together(
      [&](const char*, const auto& p, const auto& g, const auto& m, const auto& v,
          const auto& master) {
        const auto fits = [](const auto& array) { return !array.present() || array.contiguous(); };
        check.require(fits(p) && fits(g) && fits(m) && fits(v) && fits(master),
                      ErrorCode::unsupported, "parameters", "must be contiguous");
      },
      parameters, grads, state.m, state.v, state.master);
  if (!check.passed()) return check.status();

  Status status;
  const bool clips = config.max_norm > 0;
  GradMode mode = GradMode::overwrite;
  grads.for_each([&](const char*, const auto& g) {
    if (!status || !clips || !g.present()) return;
    SumOfSquaresArgs<Accum> sum;
    sum.x = detail::flattened(g);
    sum.sum = state.square_norm;
    sum.mode = mode;
    status = sum_of_squares(backend, sum, workspace);
    mode = GradMode::accumulate;
  });
  visit_together(
      [&](const char* name, const auto& p, const auto& g, const auto& m, const auto& v,
          const auto& master) {
        if (!status || !g.present()) return;
        using P = typename std::decay_t<decltype(p)>::value_type;
        AdamWArgs<P> step;
        step.parameter = detail::flattened(p);
        if (!std::is_same<P, Accum>::value) step.master = detail::flattened(master);
        step.gradient = detail::flattened(g);
        step.m = detail::flattened(m);
        step.v = detail::flattened(v);
        step.step = state.step;
        if (clips) step.square_norm = state.square_norm;
        if (clips) step.max_norm = config.max_norm;
        step.beta1 = config.beta1;
        step.beta2 = config.beta2;
        step.eps = config.eps;
        step.weight_decay = weight_decays(name) ? config.weight_decay : 0;
        status = adamw(backend, step);
      },
      parameters, grads, state.m, state.v, state.master);
  return status;
}

SSM_NAMESPACE_END
