#pragma once

#include <cmath>
#include <vector>

#include "ssm/block/mamba_parameters.hpp"

// One sequence through a Mamba block in plain double loops, from zero state: an independent
// statement of the equations, sharing no arithmetic with the library.
namespace ssm_test {

using Matrix = std::vector<std::vector<double>>;

template <class V>
Matrix to_matrix(const V& view) {
  Matrix m(static_cast<std::size_t>(view.extent(0)));
  for (std::size_t i = 0; i < m.size(); ++i) {
    for (ssm::index_t j = 0; j < view.extent(1); ++j) {
      m[i].push_back(static_cast<double>(view(static_cast<ssm::index_t>(i), j)));
    }
  }
  return m;
}

template <class V>
std::vector<double> to_vector(const V& view, std::size_t size_if_absent) {
  if (!view.present()) return std::vector<double>(size_if_absent, 0.0);
  std::vector<double> v;
  for (ssm::index_t i = 0; i < view.extent(0); ++i) v.push_back(static_cast<double>(view(i)));
  return v;
}

inline std::vector<double> multiply(const Matrix& w, const std::vector<double>& x,
                                    const std::vector<double>& bias) {
  std::vector<double> y = bias;
  for (std::size_t o = 0; o < w.size(); ++o) {
    for (std::size_t i = 0; i < x.size(); ++i) y[o] += w[o][i] * x[i];
  }
  return y;
}

inline void normalize(std::vector<double>& v, double eps) {
  double sum = 0;
  for (double e : v) sum += e * e;
  const double scale = 1 / std::sqrt(sum / static_cast<double>(v.size()) + eps);
  for (double& e : v) e *= scale;
}

template <class T>
Matrix block_oracle(const ssm::MambaConfig& c, const ssm::MambaWeights<T>& w, const Matrix& u) {
  const auto inner = static_cast<std::size_t>(c.d_inner);
  const auto states = static_cast<std::size_t>(c.d_state);
  const auto rank = static_cast<std::size_t>(c.dt_rank);
  const auto width = static_cast<std::size_t>(c.d_conv);
  const Matrix in_proj = to_matrix(w.in_proj_weight), conv = to_matrix(w.conv1d_weight),
               x_proj = to_matrix(w.x_proj_weight), dt_proj = to_matrix(w.dt_proj_weight),
               a_log = to_matrix(w.A_log), out_proj = to_matrix(w.out_proj_weight);
  const auto in_bias = to_vector(w.in_proj_bias, 2 * inner),
             conv_bias = to_vector(w.conv1d_bias, inner),
             dt_bias = to_vector(w.dt_proj_bias, inner), skip = to_vector(w.D, inner),
             out_bias = to_vector(w.out_proj_bias, u[0].size());

  Matrix projected, out;
  Matrix h(inner, std::vector<double>(states, 0.0));
  for (std::size_t t = 0; t < u.size(); ++t) {
    projected.push_back(multiply(in_proj, u[t], in_bias));
    std::vector<double> x = conv_bias;
    for (std::size_t d = 0; d < inner; ++d) {
      for (std::size_t lag = 0; lag < width && lag <= t; ++lag) {
        x[d] += conv[d][width - 1 - lag] * projected[t - lag][d];
      }
      x[d] = x[d] / (1 + std::exp(-x[d]));
    }
    const auto low = multiply(x_proj, x, std::vector<double>(rank + 2 * states, 0.0));
    using Difference = std::vector<double>::difference_type;
    const auto part = [&](std::size_t begin, std::size_t size) {
      return std::vector<double>(low.begin() + static_cast<Difference>(begin),
                                 low.begin() + static_cast<Difference>(begin + size));
    };
    auto dt_low = part(0, rank), b = part(rank, states), cc = part(rank + states, states);
    if (c.dt_b_c_norm) {
      normalize(dt_low, c.dt_b_c_eps);
      normalize(b, c.dt_b_c_eps);
      normalize(cc, c.dt_b_c_eps);
    }
    const auto dt = multiply(dt_proj, dt_low, dt_bias);
    std::vector<double> y(inner);
    for (std::size_t d = 0; d < inner; ++d) {
      const double delta = dt[d] > 30 ? dt[d] : std::log1p(std::exp(dt[d]));
      double sum = skip[d] * x[d];
      for (std::size_t n = 0; n < states; ++n) {
        const double a = -std::exp(a_log[d][n]);
        const double weight = c.b_rule == ssm::BRule::euler ? delta : std::expm1(delta * a) / a;
        h[d][n] = std::exp(delta * a) * h[d][n] + weight * b[n] * x[d];
        sum += cc[n] * h[d][n];
      }
      const double z = c.gate ? projected[t][inner + d] : 0;
      y[d] = c.gate ? sum * z / (1 + std::exp(-z)) : sum;
    }
    out.push_back(multiply(out_proj, y, out_bias));
  }
  return out;
}

}  // namespace ssm_test
