#pragma once

#include "ssm/cuda/detail/scan_step_rows.cuh"

// One token of the selective scan, the decoding step: real float systems with euler inputs. It is
// bound by reading and writing the state, 8 bytes per channel and state in float, so neighbouring
// lanes take neighbouring channels, which the library's own states hold contiguous. Warp w of a
// block holds the states [kStates w, kStates (w + 1)) of the block's 32 channels; the warps' sums
// meet in shared memory and are added in their order. Where dt comes as its low-rank factor, the
// warps share its projection out in the same way.

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kScanStepMaxWarps = 16;

// dt of channel d: this warp's part of the sum over the rank.
template <class T, class H>
__device__ float scan_step_dt_part(const ScanStepParams<T, H>& p, index_t row, index_t d, int warp,
                                   int warps) {
  const T* const weight = p.dt_weight + d * p.dt_weight_stride[0];
  const T* const low = p.dt + row * p.dt_stride[0];
  float sum = 0.0f;
  if (p.dt_packs) {
    constexpr int kCount = Pack<T>::kCount;
#pragma unroll 4
    for (int r = warp * kCount; r < p.dt_rank; r += warps * kCount) {
      float w[kCount], v[kCount];
      Pack<T>::load(weight + r).widen(w);
      Pack<T>::load_changing(low + r).widen(v);
#pragma unroll
      for (int j = 0; j < kCount; ++j) sum = fmaf(w[j], v[j], sum);
    }
  } else {
    for (int r = warp; r < p.dt_rank; r += warps) {
      sum = fmaf(load_float(weight[r * p.dt_weight_stride[1]]), load_float(low[r * p.dt_stride[2]]),
                 sum);
    }
  }
  return sum;
}

// Threads: (32 state warps, groups of 32 channels); p.channel_blocks blocks per row.
template <class T, class H, int kStates>
__global__ void __launch_bounds__(32 * kScanStepMaxWarps)
    scan_step_kernel(const ScanStepParams<T, H> p) {
  __shared__ float sums[kScanStepMaxWarps][32];
  __shared__ float dt_parts[kScanStepMaxWarps][32];
  allow_kernel_after();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const int first = static_cast<int>(threadIdx.y) * warps;  // of this group in shared memory
  const index_t row = blockIdx.x / p.channel_blocks;
  const index_t d = (blockIdx.x % p.channel_blocks * blockDim.y + threadIdx.y) * 32 + lane;
  const int n0 = warp * kStates;
  float h[kStates], a[kStates], b[kStates], c[kStates];
#pragma unroll
  for (int s = 0; s < kStates; ++s) h[s] = a[s] = b[s] = c[s] = 0.0f;
  // Pointers are stepped from state to state: a product of strides per access would cost more
  // instructions than the recurrence.
  if (d < p.channels) {
    const float* A = p.A + d * p.A_stride[0] + n0 * p.A_stride[1];
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      if (n0 + s < p.d_state) a[s] = *A;
      A += p.A_stride[1];
    }
  }
  wait_for_kernel_before();
  const index_t slot = p.slots == nullptr ? row : p.slots[row * p.slots_stride];
  const bool exists = d < p.channels && slot >= 0;
  const bool token = exists && (p.lengths == nullptr || p.lengths[row * p.lengths_stride] > 0);
  if (exists && p.h0 != nullptr) {
    const H* from = p.h0 + slot * p.h0_stride[0] + d * p.h0_stride[1] + n0 * p.h0_stride[2];
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      if (n0 + s < p.d_state) h[s] = load_float(*from);
      from += p.h0_stride[2];
    }
  }
  float x = 0.0f;
  float delta = 0.0f;
  if (token) {
    const index_t group = d / p.group_channels;
    const T* B = p.B + row * p.B_stride[0] + group * p.B_stride[2] + n0 * p.B_stride[3];
    const T* C = p.C + row * p.C_stride[0] + group * p.C_stride[2] + n0 * p.C_stride[3];
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      if (n0 + s < p.d_state) {
        b[s] = load_float(*B);
        c[s] = load_float(*C);
      }
      B += p.B_stride[3];
      C += p.C_stride[3];
    }
    x = load_float(p.x[row * p.x_stride[0] + d * p.x_stride[2]]);
    if (p.dt_weight == nullptr) {
      delta = load_float(p.dt[row * p.dt_stride[0] + d * p.dt_stride[2]]);
    }
  }
  if (p.dt_weight != nullptr) {
    dt_parts[first + warp][lane] = token ? scan_step_dt_part(p, row, d, warp, warps) : 0.0f;
    __syncthreads();
    for (int w = 0; w < warps; ++w) delta += dt_parts[first + w][lane];
  }
  float y = 0.0f;
  if (token) {
    if (p.dt_bias != nullptr) delta += p.dt_bias[d * p.dt_bias_stride];
    if (p.delta_softplus) delta = softplus_fast(delta);
    const float input = delta * x;
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      if (n0 + s >= p.d_state) continue;
      h[s] = fmaf(exp2_fast(delta * (a[s] * kLog2e)), h[s], input * b[s]);
      y = fmaf(c[s], h[s], y);
    }
  }
  if (exists && p.h_last != nullptr) {
    H* to = p.h_last + slot * p.h_last_stride[0] + d * p.h_last_stride[1] + n0 * p.h_last_stride[2];
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      if (n0 + s < p.d_state) *to = store_as<H>(h[s]);
      to += p.h_last_stride[2];
    }
  }
  if (warps > 1) {
    sums[first + warp][lane] = y;
    __syncthreads();
    if (warp != 0) return;
    for (int w = 1; w < warps; ++w) y += sums[first + w][lane];
  }
  if (!token) return;
  if (p.D != nullptr) y = fmaf(p.D[d * p.D_stride], x, y);
  if (p.z != nullptr) {
    y *= silu_fast(load_float(p.z[row * p.z_stride[0] + d * p.z_stride[2]]));
  }
  p.y[row * p.y_stride[0] + d * p.y_stride[2]] = store_as<T>(y);
}

// Up to kScanStepMaxWarps * 16 states.
template <class T, class H>
Status launch_scan_step(const char* operation, const Cuda& cuda, ScanStepParams<T, H> p) {
  if (scan_rows_takes(p)) return launch_scan_rows(operation, cuda, p);
  const auto run = [&](auto states) {
    constexpr int kStates = decltype(states)::value;
    const int warps = (p.d_state + kStates - 1) / kStates;
    const int groups = kStates == 16 && warps < 4 ? 4 / warps : 1;
    const index_t row_blocks = (p.channels + 32 * groups - 1) / (32 * groups);
    const index_t blocks = saturating_mul(p.sequences, row_blocks);
    const Status status = check_grid(operation, blocks);
    if (!status || blocks == 0) return status;
    p.channel_blocks = static_cast<unsigned>(row_blocks);
    const dim3 threads(static_cast<unsigned>(32 * warps), static_cast<unsigned>(groups));
    return cuda_status(
        operation, launch_dependent(cuda, scan_step_kernel<T, H, kStates>, blocks, threads, 0, p));
  };
  // Few channels take four states a thread, for more threads; enough of them take sixteen, for
  // fewer instructions.
  constexpr index_t kMany = index_t{1} << 16;
  if (p.d_state <= 64 && saturating_mul(p.sequences, p.channels) < kMany) {
    return run(std::integral_constant<int, 4>{});
  }
  return run(std::integral_constant<int, 16>{});
}

}  // namespace detail
SSM_NAMESPACE_END
