#pragma once

#include "support/oracle.hpp"

// The gradients of the operations, as plain loops in long double that undo the elementary steps of
// oracle.hpp one by one. Nothing comes from the library; oracle_backward_test.cpp holds them
// against differences of the forward oracles.
namespace oracle {

// silu'(v)
inline Real silu_slope(Real v) {
  const Real s = 1 / (1 + std::exp(-v));
  return s + v * s * (1 - s);
}

// phi1'(v)
inline Complex phi1_slope(Complex v) {
  if (std::abs(v) > 0.5L) return (std::exp(v) * (v - Complex(1)) + Complex(1)) / (v * v);
  Complex sum = 0;
  Complex power = 1;  // v^(k-1) / (k-1)!
  for (int k = 1; k < 40; ++k) {
    sum += power / static_cast<Real>(k + 1);
    power *= v / static_cast<Real>(k);
  }
  return sum;
}

// Gradients of the selective scan: of real arrays dL/dv, of complex ones dL/dRe + i dL/dIm, dense
// and row-major like the arrays themselves. NaN at tokens that belong to no sequence.
struct ScanGradient {
  std::vector<Real> dx, ddt, dz;
  std::vector<Complex> dA, dA_log, dB, dC, dh0;
  std::vector<Real> dD, ddt_bias;
};

inline ScanGradient selective_scan_backward(const Scan& p, const std::vector<Real>& dy,
                                            const std::vector<Complex>& dh_last) {
  const Real nan = std::numeric_limits<Real>::quiet_NaN();
  const Index tokens = p.batch * p.length;
  const Index sequences = static_cast<Index>(p.sequences.size());
  ScanGradient g;
  g.dx.assign(at(tokens * p.channels), nan);
  g.ddt = g.dx;
  if (!p.z.empty()) g.dz = g.dx;
  g.dA.assign(p.A.size(), Complex(0));
  g.dB.assign(p.B.size(), Complex(nan));
  g.dC.assign(p.C.size(), Complex(nan));
  g.dD.assign(at(p.channels), 0);
  g.ddt_bias = g.dD;
  g.dh0.assign(at(sequences * p.channels * p.d_state), Complex(0));
  const Real pairs = p.conjugate_pairs ? 2 : 1;

  for (Index s = 0; s < sequences; ++s) {
    const Range range = p.sequences[at(s)];
    for (Index t = range.begin; t < range.end; ++t) {
      const Index row = range.row * p.length + t;
      for (Index i = 0; i < p.groups_b * p.d_state; ++i) {
        g.dB[at(row * p.groups_b * p.d_state + i)] = 0;
      }
      for (Index i = 0; i < p.groups_c * p.d_state; ++i) {
        g.dC[at(row * p.groups_c * p.d_state + i)] = 0;
      }
    }
    const Index steps = range.end - range.begin;
    for (Index d = 0; d < p.channels; ++d) {
      const Index gb = d / (p.channels / p.groups_b);
      const Index gc = d / (p.channels / p.groups_c);
      struct Step {
        std::size_t i;  // of x, dt, z, dy
        Index b, c;     // of B(n = 0), C(n = 0)
        Real biased, delta, y;
      };
      std::vector<Step> tape(at(steps));
      std::vector<Complex> h(at((steps + 1) * p.d_state), Complex(0));
      const std::size_t state = at((s * p.channels + d) * p.d_state);
      for (Index n = 0; n < p.d_state && !p.h0.empty(); ++n) h[at(n)] = p.h0[state + at(n)];

      for (Index k = 0; k < steps; ++k) {
        const Index t = p.reverse ? range.end - 1 - k : range.begin + k;
        const Index row = range.row * p.length + t;
        Step& step = tape[at(k)];
        step.i = at(row * p.channels + d);
        step.b = (row * p.groups_b + gb) * p.d_state;
        step.c = (row * p.groups_c + gc) * p.d_state;
        step.biased = p.dt[step.i] + (p.dt_bias.empty() ? 0 : p.dt_bias[at(d)]);
        step.delta = step.biased;
        if (p.softplus && step.biased <= 20) step.delta = std::log1p(std::exp(step.biased));
        step.y = p.D.empty() ? 0 : p.D[at(d)] * p.x[step.i];
        for (Index n = 0; n < p.d_state; ++n) {
          const Complex v = step.delta * p.A[at(d * p.d_state + n)];
          const Complex w = p.zero_order_hold ? step.delta * phi1(v) : Complex(step.delta);
          const Complex next =
              std::exp(v) * h[at(k * p.d_state + n)] + w * p.B[at(step.b + n)] * p.x[step.i];
          h[at((k + 1) * p.d_state + n)] = next;
          step.y += pairs * (p.C[at(step.c + n)] * next).real();
        }
      }

      std::vector<Complex> dh(at(p.d_state), Complex(0));
      for (Index n = 0; n < p.d_state && !dh_last.empty(); ++n) dh[at(n)] = dh_last[state + at(n)];
      for (Index k = steps - 1; k >= 0; --k) {
        const Step& step = tape[at(k)];
        Real e = dy[step.i];
        if (!p.z.empty()) {
          g.dz[step.i] = e * step.y * silu_slope(p.z[step.i]);
          e *= silu(p.z[step.i]);
        }
        const Real x = p.x[step.i];
        Real dx = p.D.empty() ? 0 : e * p.D[at(d)];
        Real ddelta = 0;
        g.dD[at(d)] += e * x;
        for (Index n = 0; n < p.d_state; ++n) {
          const Complex A = p.A[at(d * p.d_state + n)];
          const Complex b = p.B[at(step.b + n)];
          const Complex v = step.delta * A;
          const Complex phi = p.zero_order_hold ? phi1(v) : Complex(1);
          // y = pairs Re(C h), then h = a h' + w b x, then w = delta phi and a = e^v, v = delta A.
          g.dC[at(step.c + n)] += pairs * e * std::conj(h[at((k + 1) * p.d_state + n)]);
          Complex& adjoint = dh[at(n)];
          adjoint += pairs * e * std::conj(p.C[at(step.c + n)]);
          g.dB[at(step.b + n)] += adjoint * std::conj(step.delta * phi * x);
          dx += (adjoint * std::conj(step.delta * phi * b)).real();
          const Complex dw = adjoint * std::conj(b * x);
          ddelta += (dw * std::conj(phi)).real();
          Complex dv = adjoint * std::conj(std::exp(v) * h[at(k * p.d_state + n)]);
          if (p.zero_order_hold) dv += dw * std::conj(step.delta * phi1_slope(v));
          ddelta += (dv * std::conj(A)).real();
          g.dA[at(d * p.d_state + n)] += dv * step.delta;
          adjoint *= std::conj(std::exp(v));
        }
        const bool bent = p.softplus && step.biased <= 20;
        const Real ddt = bent ? ddelta / (1 + std::exp(-step.biased)) : ddelta;
        g.dx[step.i] = dx;
        g.ddt[step.i] = ddt;
        g.ddt_bias[at(d)] += ddt;
      }
      for (Index n = 0; n < p.d_state; ++n) g.dh0[state + at(n)] = dh[at(n)];
    }
  }
  for (std::size_t i = 0; i < p.A.size(); ++i) g.dA_log.push_back(g.dA[i] * std::conj(p.A[i]));
  return g;
}

// Gradients of the convolution; NaN at tokens that belong to no sequence.
struct ConvGradient {
  std::vector<Real> dx, dweight, dbias, dstate0;
};

inline ConvGradient causal_conv1d_backward(const Conv& p, const std::vector<Real>& dy,
                                           const std::vector<Real>& dstate_last) {
  ConvGradient g;
  g.dx.assign(p.x.size(), std::numeric_limits<Real>::quiet_NaN());
  g.dweight.assign(p.weight.size(), 0);
  g.dbias.assign(at(p.channels), 0);
  const Index history = p.width - 1;
  g.dstate0.assign(at(static_cast<Index>(p.sequences.size()) * history * p.channels), 0);
  for (Index s = 0; s < static_cast<Index>(p.sequences.size()); ++s) {
    const Range range = p.sequences[at(s)];
    for (Index d = 0; d < p.channels; ++d) {
      // Everything the sequence reads, the state first, and its gradient.
      std::vector<Real> u, du;
      for (Index j = 0; j < history; ++j) {
        u.push_back(p.state0.empty() ? 0 : p.state0[at((s * history + j) * p.channels + d)]);
      }
      for (Index t = range.begin; t < range.end; ++t) {
        u.push_back(p.x[at((range.row * p.length + t) * p.channels + d)]);
      }
      du.assign(u.size(), 0);
      const std::size_t length = u.size() - at(history);
      for (std::size_t t = 0; t < length; ++t) {  // every y pushes to what it read
        Real sum = p.bias.empty() ? 0 : p.bias[at(d)];
        for (Index j = 0; j < p.width; ++j) sum += p.weight[at(d * p.width + j)] * u[t + at(j)];
        Real e = dy[at((range.row * p.length + range.begin) * p.channels + d) + t * at(p.channels)];
        if (p.silu) e *= silu_slope(sum);
        g.dbias[at(d)] += e;
        for (Index j = 0; j < p.width; ++j) {
          g.dweight[at(d * p.width + j)] += e * u[t + at(j)];
          du[t + at(j)] += e * p.weight[at(d * p.width + j)];
        }
      }
      for (Index j = 0; j < history && !dstate_last.empty(); ++j) {
        du[length + at(j)] += dstate_last[at((s * history + j) * p.channels + d)];
      }
      for (Index j = 0; j < history; ++j) {
        g.dstate0[at((s * history + j) * p.channels + d)] = du[at(j)];
      }
      for (std::size_t t = 0; t < length; ++t) {
        g.dx[at((range.row * p.length + range.begin) * p.channels + d) + t * at(p.channels)] =
            du[at(history) + t];
      }
    }
  }
  return g;
}

// Gradients of one row of RMS normalisation, through the whole Jacobian of the normalisation.
struct NormGradient {
  std::vector<Real> dr, dz, dweight;
};

inline NormGradient rms_norm_backward(const Norm& p, const std::vector<Real>& dy) {
  const std::size_t n = dy.size();
  std::vector<Real> r(n, 0), gate(n, 1), v(n), dv(n, 0), q(n);
  Real sum = 0;
  for (std::size_t i = 0; i < n; ++i) {
    if (!p.x.empty()) r[i] += p.x[i];
    if (!p.residual.empty()) r[i] += p.residual[i];
    if (!p.z.empty()) gate[i] = silu(p.z[i]);
    v[i] = p.norm_before_gate ? r[i] : r[i] * gate[i];
    sum += v[i] * v[i];
    q[i] = dy[i] * (p.weight.empty() ? 1 : p.weight[i]) * (p.norm_before_gate ? gate[i] : 1);
  }
  const Real root = std::sqrt(sum / static_cast<Real>(n) + p.eps);
  NormGradient g;
  for (std::size_t i = 0; i < n; ++i) {
    for (std::size_t j = 0; j < n; ++j) {  // d(v_j / root) / d v_i
      const Real slope =
          (i == j ? 1 / root : 0) - v[i] * v[j] / (root * root * root * static_cast<Real>(n));
      dv[i] += q[j] * slope;
    }
    g.dr.push_back(p.norm_before_gate ? dv[i] : dv[i] * gate[i]);
    const Real normed = v[i] / root;
    g.dweight.push_back(dy[i] * normed * (p.norm_before_gate ? gate[i] : 1));
    if (p.z.empty()) continue;
    const Real dgate =
        p.norm_before_gate ? dy[i] * (p.weight.empty() ? 1 : p.weight[i]) * normed : dv[i] * r[i];
    g.dz.push_back(dgate * silu_slope(p.z[i]));
  }
  return g;
}

}  // namespace oracle
