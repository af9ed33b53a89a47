#pragma once

#include <algorithm>
#include <cmath>

#include "ssm/block/mamba_parameters.hpp"
#include "ssm/core/random.hpp"

SSM_NAMESPACE_BEGIN

namespace detail {

// Every element, in row-major order, from a function of its indices.
template <class T, class F>
void fill(const View<T, 1>& view, F&& value) {
  for (index_t i = 0; i < view.extent(0); ++i) view(i) = narrow<T>(accum_t<T>(value(i)));
}
template <class T, class F>
void fill(const View<T, 2>& view, F&& value) {
  for (index_t i = 0; i < view.extent(0); ++i) {
    for (index_t j = 0; j < view.extent(1); ++j) view(i, j) = narrow<T>(accum_t<T>(value(i, j)));
  }
}

// U(-1/sqrt(fan_in), 1/sqrt(fan_in)): PyTorch's default for Linear and Conv1d,
// kaiming_uniform(a = sqrt 5).
template <class T, int Rank>
void fill_kaiming(const View<T, Rank>& view, index_t fan_in, Random& random, double scale = 1) {
  const double bound = scale / std::sqrt(static_cast<double>(fan_in));
  fill(view, [&](auto...) { return random.uniform(-bound, bound); });
}

}  // namespace detail

// The ranges of Mamba's initialisation; the defaults are the published ones.
struct MambaInit {
  double dt_min = 1e-3;    // delta_0 is log-uniform on [dt_min, dt_max] …
  double dt_max = 1e-1;    //
  double dt_floor = 1e-4;  // … and at least dt_floor
  double dt_scale = 1;     // W_dt is uniform on +-dt_scale / sqrt(dt_rank)
  index_t n_layer = 1;     // out_proj is scaled by 1 / sqrt(n_layer)
};

// Fills the weights of one block in host memory as mamba_ssm's mamba_simple.py does: A_log =
// log(1..d_state), D = 1, dt bias the inverse softplus of delta_0, projections as above, biases of
// projections zero. The same seed gives the same weights on every platform.
template <class T>
void initialize(const MambaConfig& c, const MambaParameters<T>& p, Random& random,
                const MambaInit& init = {}) {
  detail::fill_kaiming(p.in_proj_weight, c.d_model, random);
  detail::fill(p.in_proj_bias, [](index_t) { return 0.0; });
  detail::fill_kaiming(p.conv1d_weight, c.d_conv, random);
  detail::fill_kaiming(p.conv1d_bias, c.d_conv, random);
  detail::fill_kaiming(p.x_proj_weight, c.d_inner, random);
  detail::fill_kaiming(p.dt_proj_weight, c.dt_rank, random, init.dt_scale);
  detail::fill(p.dt_proj_bias, [&](index_t) {
    const double log_dt = random.uniform(std::log(init.dt_min), std::log(init.dt_max));
    const double dt = std::max(std::exp(log_dt), init.dt_floor);
    return dt + std::log(-std::expm1(-dt));
  });
  detail::fill(p.A_log, [](index_t, index_t n) { return std::log(static_cast<double>(n + 1)); });
  detail::fill(p.D, [](index_t) { return 1.0; });
  detail::fill_kaiming(p.out_proj_weight, c.d_inner, random,
                       1 / std::sqrt(static_cast<double>(init.n_layer)));
  detail::fill(p.out_proj_bias, [](index_t) { return 0.0; });
}

SSM_NAMESPACE_END
