#pragma once

#include <cmath>
#include <complex>
#include <cstdint>
#include <limits>
#include <vector>

// The operations once more, as plain loops in long double over dense row-major arrays. Nothing here
// comes from the library: a mistake there cannot be repeated here by sharing it. Beside each result
// stands its scale, the sum of the magnitudes of the terms it is made of, which is what rounding
// errors are relative to.
namespace oracle {

using Real = long double;
using Complex = std::complex<long double>;
using Index = std::int64_t;

inline std::size_t at(Index i) { return static_cast<std::size_t>(i); }

// The tokens [begin, end) of batch row `row`.
struct Range {
  Index row, begin, end;
};

inline Real silu(Real v) { return v / (1 + std::exp(-v)); }

// (e^v - 1) / v
inline Complex phi1(Complex v) {
  if (std::abs(v) > 0.5L) return (std::exp(v) - Complex(1)) / v;
  Complex sum = 1;
  for (int k = 40; k >= 2; --k) sum = Complex(1) + v / static_cast<Real>(k) * sum;
  return sum;
}

// The selective scan. Empty vectors are absent arguments.
struct Scan {
  Index batch = 0, length = 0, channels = 0, d_state = 0, groups_b = 1, groups_c = 1;
  std::vector<Real> x, dt, z;    // (batch, length, channels)
  std::vector<Complex> A;        // (channels, d_state)
  std::vector<Complex> B, C;     // (batch, length, groups, d_state)
  std::vector<Real> D, dt_bias;  // (channels)
  std::vector<Complex> h0;       // (sequences, channels, d_state)
  std::vector<Range> sequences;
  bool conjugate_pairs = false, softplus = true, reverse = false, zero_order_hold = false;
};
struct ScanResult {
  std::vector<Real> y, y_scale;  // NaN at tokens that belong to no sequence
  std::vector<Complex> h;        // (sequences, channels, d_state)
  std::vector<Real> h_scale;
};

inline ScanResult selective_scan(const Scan& p) {
  const Index tokens = p.batch * p.length * p.channels;
  const Index states = static_cast<Index>(p.sequences.size()) * p.channels * p.d_state;
  ScanResult r;
  r.y.assign(at(tokens), std::numeric_limits<Real>::quiet_NaN());
  r.y_scale = r.y;
  r.h.assign(at(states), Complex(0));
  if (!p.h0.empty()) r.h = p.h0;
  for (const Complex& h : r.h) r.h_scale.push_back(std::abs(h));

  for (Index s = 0; s < static_cast<Index>(p.sequences.size()); ++s) {
    const Range range = p.sequences[at(s)];
    for (Index k = 0; k < range.end - range.begin; ++k) {
      const Index t = p.reverse ? range.end - 1 - k : range.begin + k;
      const Index bt = range.row * p.length + t;
      for (Index d = 0; d < p.channels; ++d) {
        const std::size_t i = at(bt * p.channels + d);
        Real delta = p.dt[i];
        if (!p.dt_bias.empty()) delta += p.dt_bias[at(d)];
        if (p.softplus && delta <= 20) delta = std::log1p(std::exp(delta));
        Complex y = 0;
        Real scale = 0;
        for (Index n = 0; n < p.d_state; ++n) {
          const Complex v = delta * p.A[at(d * p.d_state + n)];
          const Index gb = d / (p.channels / p.groups_b);
          const Index gc = d / (p.channels / p.groups_c);
          const Complex b = p.B[at((bt * p.groups_b + gb) * p.d_state + n)];
          const Complex c = p.C[at((bt * p.groups_c + gc) * p.d_state + n)];
          const Complex w = p.zero_order_hold ? delta * phi1(v) : Complex(delta);
          const Complex u = w * b * p.x[i];
          const std::size_t j = at((s * p.channels + d) * p.d_state + n);
          r.h[j] = std::exp(v) * r.h[j] + u;
          r.h_scale[j] = std::abs(std::exp(v)) * r.h_scale[j] + std::abs(u);
          y += c * r.h[j];
          scale += std::abs(c) * r.h_scale[j];
        }
        r.y[i] = (p.conjugate_pairs ? 2 : 1) * y.real();
        r.y_scale[i] = (p.conjugate_pairs ? 2 : 1) * scale;
        if (!p.D.empty()) {
          r.y[i] += p.D[at(d)] * p.x[i];
          r.y_scale[i] += std::abs(p.D[at(d)] * p.x[i]);
        }
        if (!p.z.empty()) {
          r.y[i] *= silu(p.z[i]);
          r.y_scale[i] *= std::abs(silu(p.z[i]));
        }
      }
    }
  }
  return r;
}

// The causal depthwise convolution.
struct Conv {
  Index batch = 0, length = 0, channels = 0, width = 0;
  std::vector<Real> x;       // (batch, length, channels)
  std::vector<Real> weight;  // (channels, width)
  std::vector<Real> bias;    // (channels)
  std::vector<Real> state0;  // (sequences, width - 1, channels)
  std::vector<Range> sequences;
  bool silu = true;
};
struct ConvResult {
  std::vector<Real> y, y_scale;  // NaN at tokens that belong to no sequence
  std::vector<Real> state;       // (sequences, width - 1, channels)
};

inline ConvResult causal_conv1d(const Conv& p) {
  ConvResult r;
  r.y.assign(at(p.batch * p.length * p.channels), std::numeric_limits<Real>::quiet_NaN());
  r.y_scale = r.y;
  const Index history = p.width - 1;
  r.state.assign(at(static_cast<Index>(p.sequences.size()) * history * p.channels), 0);
  if (!p.state0.empty()) r.state = p.state0;
  for (Index s = 0; s < static_cast<Index>(p.sequences.size()); ++s) {
    const Range range = p.sequences[at(s)];
    for (Index d = 0; d < p.channels; ++d) {
      // A shift register: the oldest input leaves, the newest enters at the end.
      std::vector<Real> window(at(p.width), 0);
      for (Index j = 0; j < history; ++j) {
        window[at(j + 1)] = r.state[at((s * history + j) * p.channels + d)];
      }
      for (Index t = range.begin; t < range.end; ++t) {
        const std::size_t i = at((range.row * p.length + t) * p.channels + d);
        window.erase(window.begin());
        window.push_back(p.x[i]);
        Real sum = p.bias.empty() ? 0 : p.bias[at(d)];
        Real scale = std::abs(sum);
        for (Index j = 0; j < p.width; ++j) {
          sum += p.weight[at(d * p.width + j)] * window[at(j)];
          scale += std::abs(p.weight[at(d * p.width + j)] * window[at(j)]);
        }
        r.y[i] = p.silu ? silu(sum) : sum;
        r.y_scale[i] = scale;
      }
      for (Index j = 0; j < history; ++j) {
        r.state[at((s * history + j) * p.channels + d)] = window[at(j + 1)];
      }
    }
  }
  return r;
}

// One row of RMS normalisation. Empty vectors are absent arguments; `residual` is updated.
struct Norm {
  std::vector<Real> x, residual, weight, z;
  Real eps = 0;
  bool norm_before_gate = false;
};
struct NormResult {
  std::vector<Real> y, y_scale, residual;
};

inline NormResult rms_norm(const Norm& p) {
  NormResult r;
  const std::size_t n = p.x.empty() ? p.residual.size() : p.x.size();
  std::vector<Real> v(n, 0), magnitude(n, 0), gate(n, 1);
  Real sum = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (!p.x.empty()) v[i] += p.x[i], magnitude[i] += std::abs(p.x[i]);
    if (!p.residual.empty()) v[i] += p.residual[i], magnitude[i] += std::abs(p.residual[i]);
    r.residual.push_back(v[i]);
    if (!p.z.empty()) gate[i] = silu(p.z[i]);
    const Real normalised = p.norm_before_gate ? v[i] : v[i] * gate[i];
    sum += normalised * normalised;
  }
  const Real root = std::sqrt(sum / static_cast<Real>(n) + p.eps);
  for (std::size_t i = 0; i < n; ++i) {
    const Real factor = gate[i] * (p.weight.empty() ? 1 : p.weight[i]) / root;
    r.y.push_back(v[i] * factor);
    r.y_scale.push_back(magnitude[i] * std::abs(factor));
  }
  return r;
}

}  // namespace oracle
