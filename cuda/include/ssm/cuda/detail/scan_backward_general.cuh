#pragma once

#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/detail/scan_backward_sums.cuh"
#include "ssm/cuda/detail/scan_general.cuh"

// The gradient of the selective scan with every option: double, complex A, zero-order hold, the
// accurate mode, groups of any size, any d_state. A warp walks a slice of channels of one sequence,
// one channel after another: the recurrence forwards, keeping every state in scratch, then the
// adjoint backwards. Lane j holds the states n = j, j + 32, …. scan_backward_tile.cuh is far faster
// on what it covers.

SSM_NAMESPACE_BEGIN
namespace detail {

__device__ __forceinline__ float real_of(float v) { return v; }
__device__ __forceinline__ double real_of(double v) { return v; }
template <class R>
__device__ __forceinline__ R real_of(DeviceComplex<R> v) {
  return v.re;
}

// phi_1'(x) = (e^x - phi_1(x)) / x, and near zero, where that cancels, the series
// sum_k (k + 1) x^k / (k + 2)!.
template <class Z>
__device__ __forceinline__ Z phi1_derivative_device(Z x, Z half) {
  constexpr int kTerms = 20;  // |x| < 1/2: 2^-20 / 20! is below every last bit
  using R = decltype(real_of(x));
  Z term = half;
  Z sum = half;
  for (int k = 1; k < kTerms; ++k) {
    term = (R(k + 1) / (R(k) * R(k + 2))) * (term * x);
    sum = sum + term;
  }
  return sum;
}
template <class R>
__device__ __forceinline__ R phi1_derivative_of(R x) {
  return below_half(x) ? phi1_derivative_device(x, R(0.5)) : (exp_of(x) - phi1_device(x)) / x;
}
template <class R>
__device__ __forceinline__ DeviceComplex<R> phi1_derivative_of(DeviceComplex<R> x) {
  if (below_half(x)) return phi1_derivative_device(x, DeviceComplex<R>{R(0.5), R(0)});
  const DeviceComplex<R> difference = exp_of(x) - phi1_device(x);
  const R norm = x.re * x.re + x.im * x.im;  // at least 1/4
  return (R(1) / norm) * (difference * conjugate_device(x));
}

template <class R>
__device__ __forceinline__ R warp_sum(R v) {
  for (int m = 16; m >= 1; m /= 2) v += __shfl_xor_sync(0xffffffffu, v, m);
  return v;
}

// An activation's gradient, absent if null.
template <class V>
struct GradientRow {
  V* data = nullptr;
  Extents<3> stride = {};
};
template <class V>
GradientRow<V> gradient_row(const View<V, 3>& view, bool is_wanted) {
  GradientRow<V> row;
  if (!is_wanted) return row;
  row.data = view.data();
  for (int i = 0; i < 3; ++i) row.stride[i] = view.stride(i);
  return row;
}

template <class T, class S>
struct ScanBackwardParams {
  ScanGeneralParams<T, S> forward;  // y null: not wanted; h_last not looked at
  using Z = typename ScanGeneralParams<T, S>::Z;
  using R = accum_t<T>;
  const T* dy;
  Extents<3> dy_stride;
  const Z* dh_last;  // null: zero
  Extents<3> dh_last_stride;
  GradientRow<T> dx, ddt, dz;
  GradientRow<Z> dh0;
  bool accumulate;  // dx, ddt, dz, dh0
  ScanGradShares<S> shares;
  index_t batch, B_groups, C_groups;
  index_t slices, slice_channels;  // runs of consecutive channels, each within one group
  index_t B_slices, C_slices;      // in one group
  Z* history;                      // (blocks, length + 1, d_state)
  Z* carried;                      // (blocks, 4, d_state): h, its rest, g, its rest
};

template <class P>
__device__ __forceinline__ void store_gradient(P* to, accum_t<P> value, bool accumulate) {
  *to = store_as<P>(accumulate ? load_float(*to) + value : value);
}

template <class T, class S>
__global__ void __launch_bounds__(32)
    scan_backward_general_kernel(const ScanBackwardParams<T, S> q) {
  using Params = ScanBackwardParams<T, S>;
  using Z = typename Params::Z;
  using R = typename Params::R;
  const ScanGeneralParams<T, S>& p = q.forward;
  const int lane = static_cast<int>(threadIdx.x);
  const index_t block = blockIdx.x;
  const index_t sequence = block / q.slices;
  const index_t slice = block % q.slices;
  const index_t d_begin = slice * q.slice_channels;
  const index_t d_end = d_begin + q.slice_channels;
  const index_t states = p.d_state;

  index_t row = sequence;
  index_t begin = 0;
  index_t tokens = p.length;
  if (p.starts != nullptr) {
    row = 0;
    begin = p.starts[sequence * p.starts_stride];
    tokens = p.starts[(sequence + 1) * p.starts_stride] - begin;
  } else if (p.lengths != nullptr) {
    tokens = p.lengths[sequence * p.lengths_stride];
  }
  const auto token = [&](index_t k) { return begin + (p.reverse ? tokens - 1 - k : k); };

  Z* const history = q.history + block * (p.length + 1) * states;
  Z* const h = q.carried + block * 4 * states;
  Z* const h_rest = h + states;
  Z* const g = h_rest + states;
  Z* const g_rest = g + states;

  for (index_t d = d_begin; d < d_end; ++d) {
    const T* const x = p.x + row * p.x_stride[0] + d * p.x_stride[2];
    const T* const dt = p.dt + row * p.dt_stride[0] + d * p.dt_stride[2];
    const T* const z = p.z == nullptr ? nullptr : p.z + row * p.z_stride[0] + d * p.z_stride[2];
    const T* const dy = q.dy + row * q.dy_stride[0] + d * q.dy_stride[2];
    const index_t B_group = d / p.B_group_channels;
    const index_t C_group = d / p.C_group_channels;
    const auto* const B = p.B + row * p.B_stride[0] + B_group * p.B_stride[2];
    const auto* const C = p.C + row * p.C_stride[0] + C_group * p.C_stride[2];
    const Z* const A = p.A + d * p.A_stride[0];
    const R bias = p.dt_bias == nullptr ? R(0) : p.dt_bias[d * p.dt_bias_stride];
    const R D = p.D == nullptr ? R(0) : p.D[d * p.D_stride];
    const auto biased = [&](index_t t) { return load_float(dt[t * p.dt_stride[1]]) + bias; };
    const auto step_of = [&](R v) {
      return p.delta_softplus && v <= R(20) ? log1p_of(exp_of(v)) : v;
    };
    const auto coefficients = [&](const auto* from, const Extents<4>& stride, index_t t,
                                  index_t n) {
      return coefficient(from[t * stride[1] + n * stride[3]]);
    };

    for (index_t n = lane; n < states; n += 32) {
      h[n] = p.h0 == nullptr
                 ? Z{}
                 : p.h0[sequence * p.h0_stride[0] + d * p.h0_stride[1] + n * p.h0_stride[2]];
      h_rest[n] = Z{};
      history[n] = h[n];
    }
    for (index_t k = 0; k < tokens; ++k) {
      const index_t t = token(k);
      const R delta = step_of(biased(t));
      const R x_value = load_float(x[t * p.x_stride[1]]);
      R sum = R(0);
      for (index_t n = lane; n < states; n += 32) {
        const Z v = delta * A[n * p.A_stride[1]];
        Z input = (delta * x_value) * coefficients(B, p.B_stride, t, n);
        if (p.zero_order_hold) input = phi1_device(v) * input;
        if (p.accurate) {
          accurate_step(v, input, h[n], h_rest[n]);
        } else {
          h[n] = exp_of(v) * h[n] + input;
        }
        history[(k + 1) * states + n] = h[n];
        sum += output_term(coefficients(C, p.C_stride, t, n), h[n]);
      }
      if (p.y == nullptr) continue;
      sum = warp_sum(sum) + D * x_value;
      if (z != nullptr) {
        const R gate = load_float(z[t * p.z_stride[1]]);
        sum *= gate / (R(1) + exp_of(-gate));
      }
      if (lane == 0) {
        p.y[row * p.y_stride[0] + t * p.y_stride[1] + d * p.y_stride[2]] = store_as<T>(sum);
      }
    }

    const index_t channel_row = sequence * p.channels + d;
    for (index_t n = lane; n < states; n += 32) {
      g[n] = q.dh_last == nullptr ? Z{}
                                  : q.dh_last[sequence * q.dh_last_stride[0] +
                                              d * q.dh_last_stride[1] + n * q.dh_last_stride[2]];
      g_rest[n] = Z{};
      const index_t at = channel_row * states + n;
      if (q.shares.dA != nullptr) q.shares.dA[at] = Z{};
      if (q.shares.dB_constant != nullptr) q.shares.dB_constant[at] = Z{};
      if (q.shares.dC_constant != nullptr) q.shares.dC_constant[at] = Z{};
    }
    // A slice lies within one group of B and of C. Its first channel opens the share of each.
    const auto share_of = [&](Z* shares, index_t slices, index_t groups, index_t group) {
      return shares == nullptr
                 ? nullptr
                 : shares + ((slice % slices * q.batch + row) * p.length * groups + group) * states;
    };
    Z* const dB = share_of(q.shares.dB, q.B_slices, q.B_groups, B_group);
    Z* const dC = share_of(q.shares.dC, q.C_slices, q.C_groups, C_group);
    const bool opens = d == d_begin;
    R dD = R(0);
    R dbias = R(0);
    for (index_t k = tokens - 1; k >= 0; --k) {
      const index_t t = token(k);
      const R p_value = biased(t);
      const R delta = step_of(p_value);
      const R x_value = load_float(x[t * p.x_stride[1]]);
      R e = load_float(dy[t * q.dy_stride[1]]);
      if (z != nullptr) {
        const R gate = load_float(z[t * p.z_stride[1]]);
        const R sigma = R(1) / (R(1) + exp_of(-gate));
        if (q.dz.data != nullptr) {
          R sum = R(0);
          for (index_t n = lane; n < states; n += 32) {
            sum += output_term(coefficients(C, p.C_stride, t, n), history[(k + 1) * states + n]);
          }
          sum = warp_sum(sum) + D * x_value;
          if (lane == 0) {
            store_gradient(
                q.dz.data + row * q.dz.stride[0] + t * q.dz.stride[1] + d * q.dz.stride[2],
                e * sum * (sigma * (R(1) + gate * (R(1) - sigma))), q.accumulate);
          }
        }
        e *= gate * sigma;
      }
      R dx = R(0);
      R ddelta = R(0);
      for (index_t n = lane; n < states; n += 32) {
        const Z a_value = A[n * p.A_stride[1]];
        const Z v = delta * a_value;
        const Z a = exp_of(v);
        const Z b = coefficients(B, p.B_stride, t, n);
        const Z bx = x_value * b;
        const Z decayed = a * history[k * states + n];
        const R twice = is_complex_v<S> ? R(2) * e : e;
        g[n] = g[n] + twice * conjugate_device(coefficients(C, p.C_stride, t, n));
        const Z gradient = g[n] + g_rest[n];

        Z by_delta = a_value * decayed;
        Z by_A = delta * decayed;
        Z w = delta * b;  // w_t B_t
        if (p.zero_order_hold) {
          by_delta = by_delta + a * bx;
          by_A = by_A + (delta * delta) * (phi1_derivative_of(v) * bx);
          w = phi1_device(v) * w;
        } else {
          by_delta = by_delta + bx;
        }
        dx += real_of(gradient * conjugate_device(w));
        ddelta += real_of(gradient * conjugate_device(by_delta));
        const index_t at = channel_row * states + n;
        if (q.shares.dA != nullptr) {
          q.shares.dA[at] = q.shares.dA[at] + gradient * conjugate_device(by_A);
        }
        Z to_B = (delta * x_value) * gradient;
        if (p.zero_order_hold) to_B = to_B * conjugate_device(phi1_device(v));
        const Z to_C = twice * conjugate_device(history[(k + 1) * states + n]);
        if (q.shares.dB_constant != nullptr) {
          q.shares.dB_constant[at] = q.shares.dB_constant[at] + to_B;
        }
        if (q.shares.dC_constant != nullptr) {
          q.shares.dC_constant[at] = q.shares.dC_constant[at] + to_C;
        }
        if (dB != nullptr) {
          Z* const share = dB + t * q.B_groups * states + n;
          *share = opens ? to_B : *share + to_B;
        }
        if (dC != nullptr) {
          Z* const share = dC + t * q.C_groups * states + n;
          *share = opens ? to_C : *share + to_C;
        }
        if (p.accurate) {
          accurate_step(conjugate_device(v), Z{}, g[n], g_rest[n]);
        } else {
          g[n] = conjugate_device(a) * g[n];
        }
      }
      dx = warp_sum(dx) + D * e;
      R ddt = warp_sum(ddelta);
      if (p.delta_softplus && p_value <= R(20)) ddt *= R(1) / (R(1) + exp_of(-p_value));
      dD += e * x_value;
      dbias += ddt;
      if (lane == 0) {
        if (q.dx.data != nullptr) {
          store_gradient(q.dx.data + row * q.dx.stride[0] + t * q.dx.stride[1] + d * q.dx.stride[2],
                         dx, q.accumulate);
        }
        if (q.ddt.data != nullptr) {
          store_gradient(
              q.ddt.data + row * q.ddt.stride[0] + t * q.ddt.stride[1] + d * q.ddt.stride[2], ddt,
              q.accumulate);
        }
      }
    }
    if (lane == 0 && q.shares.dD != nullptr) q.shares.dD[channel_row] = dD;
    if (lane == 0 && q.shares.dbias != nullptr) q.shares.dbias[channel_row] = dbias;
    if (q.dh0.data != nullptr) {
      for (index_t n = lane; n < states; n += 32) {
        store_sum(
            q.dh0.data + sequence * q.dh0.stride[0] + d * q.dh0.stride[1] + n * q.dh0.stride[2],
            g[n] + g_rest[n], q.accumulate);
      }
    }
  }
}

}  // namespace detail
SSM_NAMESPACE_END
