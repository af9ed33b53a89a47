#pragma once

#include <cstdint>
#include <type_traits>

#include "ssm/cuda/detail/async_copy.cuh"
#include "ssm/cuda/detail/dependent_launch.cuh"
#include "ssm/cuda/detail/gemv.cuh"
#include "ssm/cuda/detail/matrix_tile.cuh"
#include "ssm/cuda/detail/scan_tile.cuh"

// One token of the selective scan for many rows, 16 states a channel and channels contiguous, as
// the library's own states have them: the form that keeps most of the memory's bandwidth busy. dt
// may come as its low-rank factor.

SSM_NAMESPACE_BEGIN
namespace detail {

template <class T, class H = float>
struct ScanStepParams : ScanTileParams<T, H> {
  const T* dt_weight = nullptr;  // (channels, dt_rank): dt = dt_weight p.dt; null: p.dt is dt
  Extents<2> dt_weight_stride = {};
  int dt_rank = 0;
  bool dt_packs = false;           // dt_weight and dt are made of Packs
  const index_t* slots = nullptr;  // of the states; null: row b has state b
  index_t slots_stride = 0;
};

constexpr int kScanRowsStates = 16;
constexpr int kScanRowsChannels = 32;  // of a block
constexpr int kScanRowsWarps = 8;
constexpr int kScanRowsEach = 2;  // rows of a warp
// Of a multiprocessor. With the states in registers instead of shared memory three blocks spill,
// and two take 1 to 8 % longer a step of a whole model (cuda-decode-h100.md).
constexpr int kScanRowsBlocks = 3;
constexpr int kScanRowsRows = kScanRowsWarps * kScanRowsEach;
constexpr int kScanRowsRank = 256;  // of dt, at most

// W_dt times the low-rank factor of dt, for the block's rows and channels: a warp takes eight
// channels and one half of the rank. The weight's fragments are asked for before the kernel before
// has ended.
template <class T, class H>
class ScanRowsProjection {
 public:
  struct Shared {
    alignas(16) T low[kScanRowsRows][kScanRowsRank + 8];
    float parts[2][kScanRowsRows][kScanRowsChannels];
  };

  __device__ ScanRowsProjection(const ScanStepParams<T, H>& p, Shared& shared, index_t channel0,
                                index_t row0)
      : p_(p), shared_(shared), row0_(row0) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    tile_ = warp % kTiles;
    half_ = warp / kTiles;
    const int steps = (p.dt_rank + 15) / 16;
    first_step_ = half_ == 0 ? 0 : (steps + 1) / 2;
    last_step_ = half_ == 0 ? (steps + 1) / 2 : steps;
    const index_t d = channel0 + tile_ * 8 + lane / 4;
    const T* const from = p.dt_weight + d * p.dt_weight_stride[0];
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int r = (first_step_ + i) * 16 + k * 8 + lane % 4 * 2;
        weight_[i][k] = 0;
        if (first_step_ + i < last_step_ && d < p.channels && r < p.dt_rank) {
          weight_[i][k] = *reinterpret_cast<const unsigned*>(from + r);
        }
      }
    }
  }
  // Asks for the factor, once the kernel before has ended.
  __device__ void fetch() {
    const int packs = (p_.dt_rank + 15) / 16 * 2;
    for (int i = static_cast<int>(threadIdx.x); i < kScanRowsRows * packs;
         i += 32 * kScanRowsWarps) {
      const int row = i / packs;
      const int r = i % packs * 8;
      const bool exists = row0_ + row < p_.sequences && r < p_.dt_rank;
      const T* const from = exists ? p_.dt + (row0_ + row) * p_.dt_stride[0] + r : p_.dt;
      async_copy_16(&shared_.low[row][r], from, exists ? 16 : 0);
    }
    async_commit();
  }
  // Ends in a barrier, after which at() may be asked.
  __device__ void multiply() {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    async_wait<1>();  // all but the states, which were asked for later
    __syncthreads();
    float sums[4] = {};
#pragma unroll
    for (int i = 0; i < kSteps; ++i) {
      if (first_step_ + i >= last_step_) break;
      unsigned low[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int r = (first_step_ + i) * 16 + k / 2 * 8 + lane % 4 * 2;
        low[k] = *reinterpret_cast<const unsigned*>(&shared_.low[lane / 4 + k % 2 * 8][r]);
      }
      multiply_tile<T>(sums, low, weight_[i]);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      shared_.parts[half_][lane / 4 + k / 2 * 8][tile_ * 8 + lane % 4 * 2 + k % 2] = sums[k];
    }
    __syncthreads();
  }
  __device__ float at(int row, int channel) const {
    return shared_.parts[0][row][channel] + shared_.parts[1][row][channel];
  }

 private:
  static constexpr int kTiles = kScanRowsChannels / 8;
  static constexpr int kSteps = kScanRowsRank / 16 / 2;  // of a half
  static_assert(kScanRowsWarps == 2 * kTiles && kScanRowsRows == 16, "one tile a warp");

  const ScanStepParams<T, H>& p_;
  Shared& shared_;
  index_t row0_;
  int tile_, half_, first_step_, last_step_;
  unsigned weight_[kSteps][2];
};

// Lane l has the states [4 (l / 8), + 4) of the channels [4 (l % 8), + 4), and the rest of channel
// 4 (l % 8) + l / 8: its step size, input and output.
template <class T, class H, bool kProjects>
__global__ void __launch_bounds__(32 * kScanRowsWarps, kScanRowsBlocks)
    scan_step_rows_kernel(const ScanStepParams<T, H> p) {
  using Projection = ScanRowsProjection<T, H>;
  struct Nothing {};
  __shared__ std::conditional_t<kProjects, typename Projection::Shared, Nothing> shared;
  // A thread's states of both rows: they pass by no register on their way here, so that those of
  // several blocks are in flight.
  using States = Elements<H, 4>;
  __shared__ States states[kScanRowsEach][4][32 * kScanRowsWarps];
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int part = lane / 8;
  const index_t channel0 = static_cast<index_t>(blockIdx.x % p.channel_blocks) * kScanRowsChannels;
  const index_t row0 = static_cast<index_t>(blockIdx.x / p.channel_blocks) * kScanRowsRows;
  const index_t four = channel0 + lane % 8 * 4;
  const int own_in_block = lane % 8 * 4 + part;
  const index_t own = channel0 + own_in_block;
  const bool channel = four < p.channels;  // a multiple of four

  float a[4][4];
  float bias = 0.0f;
  float skip = 0.0f;
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    float4 v = {};
    if (channel) {
      v = *reinterpret_cast<const float4*>(p.A + (part * 4 + n) * p.A_stride[1] + four);
    }
    a[n][0] = v.x * kLog2e;
    a[n][1] = v.y * kLog2e;
    a[n][2] = v.z * kLog2e;
    a[n][3] = v.w * kLog2e;
  }
  if (channel && p.dt_bias != nullptr) bias = p.dt_bias[own * p.dt_bias_stride];
  if (channel && p.D != nullptr) skip = p.D[own * p.D_stride];
  const auto row_of = [&](int j) { return row0 + warp + j * kScanRowsWarps; };
  const auto run = [&](auto& projection) {
    wait_for_kernel_before();
    allow_kernel_after();
    bool token[kScanRowsEach];
    index_t slot[kScanRowsEach];
#pragma unroll
    for (int j = 0; j < kScanRowsEach; ++j) {
      slot[j] = row_of(j);
      token[j] = channel && slot[j] < p.sequences;
      if (p.slots != nullptr && token[j]) {
        slot[j] = p.slots[slot[j] * p.slots_stride];
        token[j] = slot[j] >= 0;
      }
    }
    if constexpr (kProjects) projection.fetch();
#pragma unroll
    for (int j = 0; j < kScanRowsEach; ++j) {
      if (!token[j]) continue;
      const H* from = p.h0 + slot[j] * p.h0_stride[0] + part * 4 * p.h0_stride[2] + four;
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        async_copy<sizeof(States)>(&states[j][n][threadIdx.x], from);
        from += p.h0_stride[2];
      }
    }
    async_commit();
    Elements<T, 4> B[kScanRowsEach], C[kScanRowsEach];
    T x[kScanRowsEach], z[kScanRowsEach], dt[kScanRowsEach];
#pragma unroll
    for (int j = 0; j < kScanRowsEach; ++j) {
      B[j] = C[j] = {};
      x[j] = z[j] = dt[j] = {};
      if (!token[j]) continue;
      const index_t row = row_of(j);
      B[j] = Elements<T, 4>::load(p.B + row * p.B_stride[0] + part * 4);
      C[j] = Elements<T, 4>::load(p.C + row * p.C_stride[0] + part * 4);
      x[j] = p.x[row * p.x_stride[0] + own * p.x_stride[2]];
      if (p.z != nullptr) z[j] = p.z[row * p.z_stride[0] + own * p.z_stride[2]];
      if (!kProjects) dt[j] = p.dt[row * p.dt_stride[0] + own * p.dt_stride[2]];
    }
    if constexpr (kProjects) projection.multiply();
    async_wait_all();
#pragma unroll
    for (int j = 0; j < kScanRowsEach; ++j) {
      float delta = bias;
      if constexpr (kProjects) {
        delta += projection.at(warp + j * kScanRowsWarps, own_in_block);
      } else {
        delta += load_float(dt[j]);
      }
      if (p.delta_softplus) delta = softplus_fast(delta);
      const float input = delta * load_float(x[j]);
      float deltas[4], inputs[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        deltas[c] = __shfl_sync(0xffffffffu, delta, lane % 8 + 8 * c);
        inputs[c] = __shfl_sync(0xffffffffu, input, lane % 8 + 8 * c);
      }
      H* const after =
          p.h_last + slot[j] * p.h_last_stride[0] + part * 4 * p.h_last_stride[2] + four;
      float y[4] = {};
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        const float b = load_float(B[j].v[n]);
        const float c = load_float(C[j].v[n]);
        States to = {};
        if (token[j]) to = states[j][n][threadIdx.x];
#pragma unroll
        for (int d = 0; d < 4; ++d) {
          const float h = fmaf(exp2_fast(deltas[d] * a[n][d]), to[d], inputs[d] * b);
          y[d] = fmaf(c, h, y[d]);
          to.set(d, h);
        }
        if (token[j]) to.store(after + n * p.h_last_stride[2]);
      }
      // Over the parts; each keeps the sum of its own channel.
#pragma unroll
      for (int half = 2; half >= 1; half /= 2) {
#pragma unroll
        for (int c = 0; c < half; ++c) {
          const bool upper = (part & half) != 0;
          const float other = upper ? y[c] : y[c + half];
          y[c] = (upper ? y[c + half] : y[c]) + __shfl_xor_sync(0xffffffffu, other, 8 * half);
        }
      }
      if (!token[j]) continue;
      float out = fmaf(skip, load_float(x[j]), y[0]);
      const index_t row = row_of(j);
      if (p.z != nullptr) out *= silu_fast(load_float(z[j]));
      p.y[row * p.y_stride[0] + own * p.y_stride[2]] = store_as<T>(out);
    }
  };
  if constexpr (kProjects) {
    Projection projection(p, shared, channel0, row0);
    run(projection);
  } else {
    run(shared);
  }
}

// Whether 16 states of a channel lie `stride` apart in rows `row_stride` apart, channels
// contiguous, so that four channels are one access.
template <class H>
bool scan_rows_states(const H* data, index_t row_stride, index_t channel_stride,
                      index_t stride) noexcept {
  return data != nullptr && reinterpret_cast<std::uintptr_t>(data) % (4 * sizeof(H)) == 0 &&
         channel_stride == 1 && row_stride % 4 == 0 && stride % 4 == 0;
}

// More rows than the products of a few tokens take, in the memory layout above.
template <class T, class H>
bool scan_rows_takes(const ScanStepParams<T, H>& p) noexcept {
  const auto coefficient = [](const T* data, const Extents<4>& stride) {
    return reinterpret_cast<std::uintptr_t>(data) % (4 * sizeof(T)) == 0 && stride[3] == 1 &&
           stride[0] % 4 == 0;
  };
  const auto shape = [&] {
    return p.sequences > kGemvTokens && p.d_state == kScanRowsStates && p.channels % 4 == 0 &&
           p.group_channels == p.channels && p.lengths == nullptr;
  };
  const auto projection = [&] {
    if (p.dt_weight == nullptr) return true;
    return !std::is_same<T, float>::value && p.dt_packs && p.dt_rank <= kScanRowsRank &&
           device_attribute(cudaDevAttrComputeCapabilityMajor) >= 8;
  };
  return shape() && projection() && coefficient(p.B, p.B_stride) && coefficient(p.C, p.C_stride) &&
         scan_rows_states(p.A, 0, p.A_stride[0], p.A_stride[1]) &&
         scan_rows_states(p.h0, p.h0_stride[0], p.h0_stride[1], p.h0_stride[2]) &&
         scan_rows_states(p.h_last, p.h_last_stride[0], p.h_last_stride[1], p.h_last_stride[2]);
}

// Of what scan_rows_takes has approved.
template <class T, class H>
Status launch_scan_rows(const char* operation, const Cuda& cuda, ScanStepParams<T, H> p) {
  const index_t channel_blocks = (p.channels + kScanRowsChannels - 1) / kScanRowsChannels;
  const index_t row_blocks = (p.sequences + kScanRowsRows - 1) / kScanRowsRows;
  const index_t blocks = saturating_mul(channel_blocks, row_blocks);
  const Status status = check_grid(operation, blocks);
  if (!status || blocks == 0) return status;
  p.channel_blocks = static_cast<unsigned>(channel_blocks);
  auto kernel = scan_step_rows_kernel<T, H, false>;
  if constexpr (!std::is_same<T, float>::value) {
    if (p.dt_weight != nullptr) kernel = scan_step_rows_kernel<T, H, true>;
  }
  return cuda_status(operation, launch_dependent(cuda, kernel, blocks, 32 * kScanRowsWarps, 0, p));
}

}  // namespace detail
SSM_NAMESPACE_END
