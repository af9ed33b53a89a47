#pragma once

#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/detail/scan_tile.cuh"

// One token of the selective scan, the decoding step: real float systems with euler inputs. It is
// bound by reading and writing the state, 8 bytes per channel and state, so neighbouring lanes take
// neighbouring channels, which the library's own states hold contiguous. Warp w of a block holds
// the states [kStates w, kStates (w + 1)) of the block's 32 channels; the warps' sums meet in
// shared memory and are added in their order.

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kScanStepMaxWarps = 16;

template <class T, int kStates>
__global__ void __launch_bounds__(32 * kScanStepMaxWarps)
    scan_step_kernel(const ScanTileParams<T> p) {
  __shared__ float sums[kScanStepMaxWarps][32];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int warps = static_cast<int>(blockDim.x) / 32;
  const index_t blocks_per_row = (p.channels + 31) / 32;
  const index_t row = blockIdx.x / blocks_per_row;
  const index_t d = blockIdx.x % blocks_per_row * 32 + lane;
  const bool exists = d < p.channels;
  const bool token = p.lengths == nullptr || p.lengths[row * p.lengths_stride] > 0;

  float x = 0.0f;
  float y = 0.0f;
  if (exists) {
    float delta = 0.0f;
    if (token) {
      x = load_float(p.x[row * p.x_stride[0] + d * p.x_stride[2]]);
      delta = load_float(p.dt[row * p.dt_stride[0] + d * p.dt_stride[2]]);
      if (p.dt_bias != nullptr) delta += p.dt_bias[d * p.dt_bias_stride];
      if (p.delta_softplus) delta = softplus_fast(delta);
    }
    const index_t group = d / p.group_channels;
    const int n0 = warp * kStates;
    // Pointers are stepped from state to state: a product of strides per access would cost more
    // instructions than the recurrence.
    const T* B = p.B + row * p.B_stride[0] + group * p.B_stride[2] + n0 * p.B_stride[3];
    const T* C = p.C + row * p.C_stride[0] + group * p.C_stride[2] + n0 * p.C_stride[3];
    const float* A = p.A + d * p.A_stride[0] + n0 * p.A_stride[1];
    float h[kStates], a[kStates], b[kStates], c[kStates];
#pragma unroll
    for (int s = 0; s < kStates; ++s) h[s] = a[s] = b[s] = c[s] = 0.0f;
    if (p.h0 != nullptr) {
      const float* from = p.h0 + row * p.h0_stride[0] + d * p.h0_stride[1] + n0 * p.h0_stride[2];
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        if (n0 + s < p.d_state) h[s] = *from;
        from += p.h0_stride[2];
      }
    }
    if (token) {
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        if (n0 + s < p.d_state) {
          a[s] = *A;
          b[s] = load_float(*B);
          c[s] = load_float(*C);
        }
        A += p.A_stride[1];
        B += p.B_stride[3];
        C += p.C_stride[3];
      }
      const float input = delta * x;
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        if (n0 + s >= p.d_state) continue;
        h[s] = fmaf(exp2_fast(delta * (a[s] * kLog2e)), h[s], input * b[s]);
        y = fmaf(c[s], h[s], y);
      }
    }
    if (p.h_last != nullptr) {
      float* to =
          p.h_last + row * p.h_last_stride[0] + d * p.h_last_stride[1] + n0 * p.h_last_stride[2];
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        if (n0 + s < p.d_state) *to = h[s];
        to += p.h_last_stride[2];
      }
    }
  }
  if (warps > 1) {
    sums[warp][lane] = y;
    __syncthreads();
    if (warp != 0) return;
    for (int w = 1; w < warps; ++w) y += sums[w][lane];
  }
  if (!exists || !token) return;
  if (p.D != nullptr) y = fmaf(p.D[d * p.D_stride], x, y);
  if (p.z != nullptr) {
    y *= silu_fast(load_float(p.z[row * p.z_stride[0] + d * p.z_stride[2]]));
  }
  p.y[row * p.y_stride[0] + d * p.y_stride[2]] = store_as<T>(y);
}

}  // namespace detail
SSM_NAMESPACE_END
