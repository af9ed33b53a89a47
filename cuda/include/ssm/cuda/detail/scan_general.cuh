#pragma once

#include "ssm/cuda/detail/device_complex.cuh"
#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/ops/selective_scan.hpp"

// The selective scan of every option: double, complex A, zero-order hold, the accurate mode, B and
// C in groups of any size, any d_state up to 4096. It reads B and C for each channel anew and does
// one token after another; scan_tile.cuh is several times faster on what it covers.
//
// A channel's states lie in `lanes` lanes of a warp (a power of two), kStates registers each; with
// more than 32 kStates states, a block of several warps holds one channel, warp w the states from
// 32 kStates w on.

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kScanGeneralStates = 8;       // registers per lane at most
constexpr int kScanGeneralMaxState = 4096;  // 16 warps of 32 lanes of 8

template <class T, class S>
struct ScanGeneralParams {
  using Z = device_scalar_t<S>;
  using Coefficient = std::conditional_t<is_complex_v<S>, Z, T>;
  using Accum = accum_t<T>;
  const T* x;
  const T* dt;
  const T* z;
  T* y;
  const Coefficient* B;
  const Coefficient* C;
  const Z* A;
  const Accum* D;
  const Accum* dt_bias;
  const Z* h0;
  Z* h_last;
  const index_t* lengths;
  const index_t* starts;
  Extents<3> x_stride, dt_stride, z_stride, y_stride;
  Extents<4> B_stride, C_stride;
  Extents<2> A_stride;
  Extents<3> h0_stride, h_last_stride;
  index_t D_stride, dt_bias_stride, lengths_stride, starts_stride;
  index_t length, channels, sequences;
  index_t B_group_channels, C_group_channels;
  int d_state;
  int lanes;
  int warps;  // that hold one channel together; if more than one, the block is those warps
  bool delta_softplus, reverse, zero_order_hold, accurate;
};

// h + r <- e^v (h + r) + b, where r holds what the sum rounds away. Beyond |v| = 1/2 the decay
// itself is exact enough, and e h would cancel against h.
template <class Z>
__device__ __forceinline__ void accurate_step(Z v, Z b, Z& h, Z& r) {
  if (!below_half(v)) {
    h = exp_of(v) * (h + r) + b;
    r = Z{};
    return;
  }
  const Z increment = (expm1_device(v) * h + b) + r;
  const Z sum = h + increment;  // Knuth's two-sum: sum + r equals h + increment exactly
  const Z added = sum - h;
  r = (h - (sum - added)) + (increment - added);
  h = sum;
}

template <class T, class S, int kStates>
__global__ void __launch_bounds__(512) scan_general_kernel(const ScanGeneralParams<T, S> p) {
  using Params = ScanGeneralParams<T, S>;
  using Z = typename Params::Z;
  using R = typename Params::Accum;
  constexpr int kAhead = 4;  // tokens whose loads are in flight together
  __shared__ R sums[2][kAhead][16];

  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int j = lane % p.lanes;
  const int n0 = p.warps > 1 ? warp * 32 * kStates + j : j;
  const index_t slot =  // of a channel of a sequence
      p.warps > 1 ? blockIdx.x
                  : (static_cast<index_t>(blockIdx.x) * (blockDim.x / 32) + warp) * (32 / p.lanes) +
                        lane / p.lanes;
  const bool exists = slot < p.sequences * p.channels;
  const index_t sequence = exists ? slot / p.channels : 0;
  const index_t d = exists ? slot % p.channels : 0;

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
  // Lanes of one warp may walk sequences of different lengths; they walk the longest together.
  index_t steps = exists ? tokens : 0;
  for (int m = 16; m >= 1; m /= 2) {
    const index_t other = __shfl_xor_sync(0xffffffffu, steps, m);
    steps = other > steps ? other : steps;
  }
  if (!exists) tokens = 0;

  const T* const x = p.x + row * p.x_stride[0] + d * p.x_stride[2];
  const T* const dt = p.dt + row * p.dt_stride[0] + d * p.dt_stride[2];
  const T* const z = p.z == nullptr ? nullptr : p.z + row * p.z_stride[0] + d * p.z_stride[2];
  T* const y = p.y + row * p.y_stride[0] + d * p.y_stride[2];
  const auto* const B = p.B + row * p.B_stride[0] + d / p.B_group_channels * p.B_stride[2];
  const auto* const C = p.C + row * p.C_stride[0] + d / p.C_group_channels * p.C_stride[2];
  const R bias = p.dt_bias == nullptr ? R(0) : p.dt_bias[d * p.dt_bias_stride];
  const R D = p.D == nullptr ? R(0) : p.D[d * p.D_stride];

  Z A[kStates], h[kStates], rest[kStates];
#pragma unroll
  for (int s = 0; s < kStates; ++s) {
    const int n = n0 + s * p.lanes;
    A[s] = h[s] = rest[s] = Z{};
    if (exists && n < p.d_state) {
      A[s] = p.A[d * p.A_stride[0] + n * p.A_stride[1]];
      if (p.h0 != nullptr) {
        h[s] = p.h0[sequence * p.h0_stride[0] + d * p.h0_stride[1] + n * p.h0_stride[2]];
      }
    }
  }

  int parity = 0;
  for (index_t k0 = 0; k0 < steps; k0 += kAhead) {
    R x_value[kAhead], delta[kAhead], gate[kAhead];
    Z b_value[kAhead][kStates], c_value[kAhead][kStates];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      x_value[i] = delta[i] = gate[i] = R(0);
      const bool valid = k0 + i < tokens;
      const index_t t = begin + (p.reverse ? tokens - 1 - (k0 + i) : k0 + i);
      if (valid) {
        x_value[i] = load_float(x[t * p.x_stride[1]]);
        delta[i] = load_float(dt[t * p.dt_stride[1]]) + bias;
        if (z != nullptr) gate[i] = load_float(z[t * p.z_stride[1]]);
      }
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        const int n = n0 + s * p.lanes;
        b_value[i][s] = c_value[i][s] = Z{};
        if (valid && n < p.d_state) {
          b_value[i][s] = coefficient(B[t * p.B_stride[1] + n * p.B_stride[3]]);
          c_value[i][s] = coefficient(C[t * p.C_stride[1] + n * p.C_stride[3]]);
        }
      }
    }
    R out[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      out[i] = R(0);
      if (k0 + i < tokens) {
        R step = delta[i];
        if (p.delta_softplus && step <= R(20)) step = log1p_of(exp_of(step));
#pragma unroll
        for (int s = 0; s < kStates; ++s) {
          if (n0 + s * p.lanes >= p.d_state) continue;
          const Z v = step * A[s];
          Z input = (step * x_value[i]) * b_value[i][s];
          if (p.zero_order_hold) input = phi1_device(v) * input;
          if (p.accurate) {
            accurate_step(v, input, h[s], rest[s]);
          } else {
            h[s] = exp_of(v) * h[s] + input;
          }
          out[i] += output_term(c_value[i][s], h[s]);
        }
      }
      for (int m = p.lanes / 2; m >= 1; m /= 2) {
        out[i] += __shfl_xor_sync(0xffffffffu, out[i], m);
      }
    }
    if (p.warps > 1) {
      if (lane == 0) {
#pragma unroll
        for (int i = 0; i < kAhead; ++i) sums[parity][i][warp] = out[i];
      }
      __syncthreads();
      if (warp == 0) {
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          out[i] = R(0);
          for (int w = 0; w < p.warps; ++w) out[i] += sums[parity][i][w];
        }
      }
      parity ^= 1;
    }
    if (j == 0 && (p.warps == 1 || warp == 0)) {
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (k0 + i >= tokens) continue;
        const index_t t = begin + (p.reverse ? tokens - 1 - (k0 + i) : k0 + i);
        R value = out[i] + D * x_value[i];
        if (z != nullptr) value *= gate[i] / (R(1) + exp_of(-gate[i]));
        y[t * p.y_stride[1]] = store_as<T>(value);
      }
    }
    __syncwarp();
  }

  if (p.h_last == nullptr || !exists) return;
#pragma unroll
  for (int s = 0; s < kStates; ++s) {
    const int n = n0 + s * p.lanes;
    if (n < p.d_state) {
      p.h_last[sequence * p.h_last_stride[0] + d * p.h_last_stride[1] + n * p.h_last_stride[2]] =
          h[s];
    }
  }
}

}  // namespace detail
SSM_NAMESPACE_END
