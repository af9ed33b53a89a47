#pragma once

#include <type_traits>

#include "ssm/block/mamba_config.hpp"
#include "ssm/core/arena.hpp"
#include "ssm/core/dtype.hpp"

SSM_NAMESPACE_BEGIN

// The learnable arrays of one block. T may be const: MambaWeights<T> is what a block reads;
// MambaParameters<T> is what a loader, an initialiser or an optimiser writes; MambaGrads<T> holds
// gradients. A view that the configuration switches off is absent.
template <class T>
struct MambaParameters {
  using Accum = std::conditional_t<std::is_const<T>::value, const accum_t<T>, accum_t<T>>;

  View<T, 2> in_proj_weight;    // (in_proj_rows, d_model): rows of x, then those of z
  View<T, 1> in_proj_bias;      // (in_proj_rows)
  View<T, 2> conv1d_weight;     // (d_inner, d_conv); PyTorch stores (d_inner, 1, d_conv)
  View<T, 1> conv1d_bias;       // (d_inner)
  View<T, 2> x_proj_weight;     // (dt_rank + 2 d_state, d_inner): rows of dt, B, C
  View<T, 2> dt_proj_weight;    // (d_inner, dt_rank)
  View<Accum, 1> dt_proj_bias;  // (d_inner), enters inside the softplus
  View<Accum, 2> A_log;         // (d_inner, d_state), A = -exp(A_log)
  View<Accum, 1> D;             // (d_inner)
  View<T, 2> out_proj_weight;   // (d_model, d_inner)
  View<T, 1> out_proj_bias;     // (d_model)

  MambaParameters() = default;

  // From mutable to const.
  template <class U,
            class = std::enable_if_t<std::is_same<const U, T>::value && !std::is_same<U, T>::value>>
  MambaParameters(const MambaParameters<U>& p) noexcept
      : in_proj_weight(p.in_proj_weight),
        in_proj_bias(p.in_proj_bias),
        conv1d_weight(p.conv1d_weight),
        conv1d_bias(p.conv1d_bias),
        x_proj_weight(p.x_proj_weight),
        dt_proj_weight(p.dt_proj_weight),
        dt_proj_bias(p.dt_proj_bias),
        A_log(p.A_log),
        D(p.D),
        out_proj_weight(p.out_proj_weight),
        out_proj_bias(p.out_proj_bias) {}

  // Calls f(name, view) for every present array, under its PyTorch state-dict name: the one list
  // that loaders, initialisers, optimisers and writers share.
  template <class F>
  void for_each(F&& f) const {
    visit_together(f, *this);
  }

  // Contiguous arrays of the configured shapes, uninitialised.
  static MambaParameters carve(const MambaConfig& c, Arena& arena) noexcept {
    static_assert(!std::is_const<T>::value, "carve writable parameters, then read them as const");
    MambaParameters p;
    p.in_proj_weight = arena.view<T, 2>({in_proj_rows(c), c.d_model});
    if (c.bias) p.in_proj_bias = arena.view<T, 1>({in_proj_rows(c)});
    p.conv1d_weight = arena.view<T, 2>({c.d_inner, c.d_conv});
    if (c.conv_bias) p.conv1d_bias = arena.view<T, 1>({c.d_inner});
    p.x_proj_weight = arena.view<T, 2>({c.dt_rank + 2 * c.d_state, c.d_inner});
    p.dt_proj_weight = arena.view<T, 2>({c.d_inner, c.dt_rank});
    p.dt_proj_bias = arena.view<Accum, 1>({c.d_inner});
    p.A_log = arena.view<Accum, 2>({c.d_inner, c.d_state});
    p.D = arena.view<Accum, 1>({c.d_inner});
    p.out_proj_weight = arena.view<T, 2>({c.d_model, c.d_inner});
    if (c.bias) p.out_proj_bias = arena.view<T, 1>({c.d_model});
    return p;
  }
};

// Calls f(name, view, …) for every array that is present in the first of several sets of
// parameters, with the arrays of that name in the others: a weight with its gradient and its
// moments.
template <class F, class T, class... Others>
void visit_together(F&& f, const MambaParameters<T>& p, const Others&... others) {
  const auto visit = [&](const char* name, const auto& view, const auto&... rest) {
    if (view.present()) f(name, view, rest...);
  };
  visit("in_proj.weight", p.in_proj_weight, others.in_proj_weight...);
  visit("in_proj.bias", p.in_proj_bias, others.in_proj_bias...);
  visit("conv1d.weight", p.conv1d_weight, others.conv1d_weight...);
  visit("conv1d.bias", p.conv1d_bias, others.conv1d_bias...);
  visit("x_proj.weight", p.x_proj_weight, others.x_proj_weight...);
  visit("dt_proj.weight", p.dt_proj_weight, others.dt_proj_weight...);
  visit("dt_proj.bias", p.dt_proj_bias, others.dt_proj_bias...);
  visit("A_log", p.A_log, others.A_log...);
  visit("D", p.D, others.D...);
  visit("out_proj.weight", p.out_proj_weight, others.out_proj_weight...);
  visit("out_proj.bias", p.out_proj_bias, others.out_proj_bias...);
}

template <class T>
using MambaWeights = MambaParameters<const T>;
template <class T>
using MambaGrads = MambaParameters<accum_t<T>>;

// Every shape against the configuration; touches no element. A missing, superfluous or misshapen
// array is named.
template <class T>
Status check_shapes(const MambaConfig& c, const MambaParameters<const T>& w) noexcept {
  Check check("MambaWeights");
  check.shape("in_proj.weight", w.in_proj_weight, {in_proj_rows(c), c.d_model});
  check.shape("conv1d.weight", w.conv1d_weight, {c.d_inner, c.d_conv});
  check.shape("x_proj.weight", w.x_proj_weight, {c.dt_rank + 2 * c.d_state, c.d_inner});
  check.shape("dt_proj.weight", w.dt_proj_weight, {c.d_inner, c.dt_rank});
  check.shape("dt_proj.bias", w.dt_proj_bias, {c.d_inner});
  check.shape("A_log", w.A_log, {c.d_inner, c.d_state});
  check.shape("D", w.D, {c.d_inner});
  check.shape("out_proj.weight", w.out_proj_weight, {c.d_model, c.d_inner});
  const auto bias = [&](const char* name, bool wanted, const View<const T, 1>& view, index_t size) {
    if (wanted) {
      check.shape(name, view, {size});
    } else {
      check.require(!view.present(), ErrorCode::invalid_argument, name,
                    "must be absent: the configuration has no such bias");
    }
  };
  bias("in_proj.bias", c.bias, w.in_proj_bias, in_proj_rows(c));
  bias("conv1d.bias", c.conv_bias, w.conv1d_bias, c.d_inner);
  bias("out_proj.bias", c.bias, w.out_proj_bias, c.d_model);
  return check.status();
}

// The number of learnable values of one block.
inline index_t parameter_count(const MambaConfig& c) noexcept {
  Arena counter;
  index_t count = 0;
  MambaParameters<float>::carve(c, counter).for_each([&](const char*, const auto& view) {
    count += view.size();
  });
  return count;
}

SSM_NAMESPACE_END
