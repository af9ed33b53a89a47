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
constexpr int kScanRowsThreads = 32 * kScanRowsWarps;
constexpr int kScanRowsEach = 2;  // rows of a warp
constexpr int kScanRowsRows = kScanRowsWarps * kScanRowsEach;
constexpr int kScanRowsBlocks = 4;  // of a multiprocessor
constexpr int kScanRowsRank = 256;  // of dt, at most

// What a block copies into shared memory, past all registers, so that the states of several blocks
// are in flight.
template <class T, class H>
struct ScanRowsShared {
  Elements<H, 4> states[kScanRowsEach][4][kScanRowsThreads];  // each thread's own
  Elements<T, 4> B[kScanRowsRows][4], C[kScanRowsRows][4];
  T x[kScanRowsRows][kScanRowsChannels];
  T z[kScanRowsRows][kScanRowsChannels];
};

// The step sizes of the block's rows and channels, before bias and softplus, as given.
template <class T, class H>
class ScanRowsGivenDt {
 public:
  struct Shared {
    T dt[kScanRowsRows][kScanRowsChannels];
  };

  __device__ ScanRowsGivenDt(const ScanStepParams<T, H>& p, Shared* shared, index_t channel0,
                             index_t row0)
      : p_(p), shared_(*shared), channel0_(channel0), row0_(row0) {}
  __device__ void fetch_weight() {}
  __device__ void fetch() {
    const int row = static_cast<int>(threadIdx.x) / 8;
    const int d = static_cast<int>(threadIdx.x) % 8 * 4;
    if (row >= kScanRowsRows || row0_ + row >= p_.sequences || channel0_ + d >= p_.channels) return;
    async_copy<4 * sizeof(T)>(&shared_.dt[row][d],
                              p_.dt + (row0_ + row) * p_.dt_stride[0] + channel0_ + d);
  }
  __device__ void multiply() {}
  __device__ float at(int row, int channel) const { return load_float(shared_.dt[row][channel]); }

 private:
  const ScanStepParams<T, H>& p_;
  Shared& shared_;
  index_t channel0_, row0_;
};

// The same as W_dt times the low-rank factor: a warp takes eight channels and one half of the rank.
template <class T, class H>
class ScanRowsProjection {
 public:
  struct Shared {
    float parts[2][kScanRowsRows][kScanRowsChannels];
  };
  // Behind Shared: the factor (kScanRowsRows, pitch) and the weight (kScanRowsChannels, pitch).
  static std::size_t more_bytes(int dt_rank) noexcept {
    return sizeof(T) *
           static_cast<std::size_t>((kScanRowsRows + kScanRowsChannels) * pitch_of(dt_rank));
  }

  __device__ ScanRowsProjection(const ScanStepParams<T, H>& p, Shared* shared, index_t channel0,
                                index_t row0)
      : p_(p), shared_(*shared), channel0_(channel0), row0_(row0) {
    low_ = reinterpret_cast<T*>(shared + 1);
    weight_ = low_ + kScanRowsRows * pitch_of(p.dt_rank);
  }
  // Asks for the weight, before the kernel before has ended.
  __device__ void fetch_weight() {
    copy_rows(p_.dt_weight, p_.dt_weight_stride[0], channel0_, p_.channels, kScanRowsChannels,
              weight_);
  }
  __device__ void fetch() {
    copy_rows(p_.dt, p_.dt_stride[0], row0_, p_.sequences, kScanRowsRows, low_);
  }
  // Of what has been copied by every thread. Ends in a barrier, after which at() may be asked.
  __device__ void multiply() {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int pitch = pitch_of(p_.dt_rank);
    const int steps = (p_.dt_rank + 15) / 16;
    const int tile = warp % kTiles;
    const int half = warp / kTiles;
    const int end = half == 0 ? (steps + 1) / 2 : steps;
    const T* const low = low_ + lane / 4 * pitch + lane % 4 * 2;
    const T* const weight = weight_ + (tile * 8 + lane / 4) * pitch + lane % 4 * 2;
    float sums[4] = {};
    for (int i = half == 0 ? 0 : (steps + 1) / 2; i < end; ++i) {
      const auto pair = [&](const T* from) { return *reinterpret_cast<const unsigned*>(from); };
      const unsigned rows[4] = {pair(low + i * 16), pair(low + i * 16 + 8 * pitch),
                                pair(low + i * 16 + 8), pair(low + i * 16 + 8 * pitch + 8)};
      const unsigned columns[2] = {pair(weight + i * 16), pair(weight + i * 16 + 8)};
      multiply_tile<T>(sums, rows, columns);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      shared_.parts[half][lane / 4 + k / 2 * 8][tile * 8 + lane % 4 * 2 + k % 2] = sums[k];
    }
    __syncthreads();
  }
  __device__ float at(int row, int channel) const {
    return shared_.parts[0][row][channel] + shared_.parts[1][row][channel];
  }

 private:
  static constexpr int kTiles = kScanRowsChannels / 8;
  static_assert(kScanRowsWarps == 2 * kTiles && kScanRowsRows == 16, "one tile a warp");

  // Elements from row to row: the fragments of a matrix tile meet every bank once.
  SSM_HOST_DEVICE static constexpr int pitch_of(int dt_rank) {
    return (dt_rank + 15) / 16 * 16 + 8;
  }
  // `count` rows from `first` on of a matrix of `rows` rows and dt_rank columns, sixteen threads to
  // a row; zero beyond it.
  __device__ void copy_rows(const T* from, index_t stride, index_t first, index_t rows, int count,
                            T* to) {
    const int r = static_cast<int>(threadIdx.x) % 16 * 8;
    const int pitch = pitch_of(p_.dt_rank);
    for (int row = static_cast<int>(threadIdx.x) / 16; row < count; row += kScanRowsThreads / 16) {
      const bool exists = first + row < rows;
      const T* const row_from = exists ? from + (first + row) * stride : from;
#pragma unroll
      for (int k = 0; k < kScanRowsRank; k += 16 * 8) {
        if (r + k >= pitch - 8) continue;
        const bool inside = exists && r + k < p_.dt_rank;
        async_copy_16(to + row * pitch + r + k, inside ? row_from + r + k : from, inside ? 16 : 0);
      }
    }
  }

  const ScanStepParams<T, H>& p_;
  Shared& shared_;
  index_t channel0_, row0_;
  T* low_;
  T* weight_;
};

// Lane l has the states [4 (l / 8), + 4) of the channels [4 (l % 8), + 4), and the rest of channel
// 4 (l % 8) + l / 8: its step size, input and output.
template <class T, class H, class StepSizes>
__global__ void __launch_bounds__(kScanRowsThreads, kScanRowsBlocks)
    scan_step_rows_kernel(const ScanStepParams<T, H> p) {
  using Shared = ScanRowsShared<T, H>;
  extern __shared__ float4 scan_rows_memory[];
  Shared& shared = *reinterpret_cast<Shared*>(scan_rows_memory);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32;
  const int warp = thread / 32;
  const int part = lane / 8;
  const index_t channel0 = static_cast<index_t>(blockIdx.x % p.channel_blocks) * kScanRowsChannels;
  const index_t row0 = static_cast<index_t>(blockIdx.x / p.channel_blocks) * kScanRowsRows;
  const index_t four = channel0 + lane % 8 * 4;
  const int own_in_block = lane % 8 * 4 + part;
  const index_t own = channel0 + own_in_block;
  const bool channel = four < p.channels;  // a multiple of four

  StepSizes step_sizes(p, reinterpret_cast<typename StepSizes::Shared*>(&shared + 1), channel0,
                       row0);
  step_sizes.fetch_weight();
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
  wait_for_kernel_before();
  allow_kernel_after();

  step_sizes.fetch();
  if (thread < kScanRowsThreads / 2) {
    const int row = thread / 8;
    const int d = thread % 8 * 4;
    if (row0 + row < p.sequences && channel0 + d < p.channels) {
      async_copy<4 * sizeof(T)>(&shared.x[row][d],
                                p.x + (row0 + row) * p.x_stride[0] + channel0 + d);
      if (p.z != nullptr) {
        async_copy<4 * sizeof(T)>(&shared.z[row][d],
                                  p.z + (row0 + row) * p.z_stride[0] + channel0 + d);
      }
    }
  } else {
    const int row = thread / 4 % kScanRowsRows;
    const int n = thread % 4;
    if (row0 + row < p.sequences) {
      const bool is_B = thread / 64 == 2;
      const T* const from =
          is_B ? p.B + (row0 + row) * p.B_stride[0] : p.C + (row0 + row) * p.C_stride[0];
      async_copy<4 * sizeof(T)>(is_B ? &shared.B[row][n] : &shared.C[row][n], from + n * 4);
    }
  }
  async_commit();
  index_t slot[kScanRowsEach];  // -1: none
#pragma unroll
  for (int j = 0; j < kScanRowsEach; ++j) {
    slot[j] = row0 + warp + j * kScanRowsWarps;
    if (slot[j] >= p.sequences || !channel) {
      slot[j] = -1;
    } else if (p.slots != nullptr) {
      slot[j] = p.slots[slot[j] * p.slots_stride];
    }
    if (slot[j] < 0) continue;
    const H* from = p.h0 + slot[j] * p.h0_stride[0] + part * 4 * p.h0_stride[2] + four;
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      async_copy<4 * sizeof(H)>(&shared.states[j][n][thread], from);
      from += p.h0_stride[2];
    }
  }
  async_commit();
  async_wait<1>();  // all but the states
  __syncthreads();
  step_sizes.multiply();
  async_wait_all();
#pragma unroll
  for (int j = 0; j < kScanRowsEach; ++j) {
    const int row = warp + j * kScanRowsWarps;
    const float x = load_float(shared.x[row][own_in_block]);
    float delta = bias + step_sizes.at(row, own_in_block);
    if (p.delta_softplus) delta = softplus_fast(delta);
    const float input = delta * x;
    float deltas[4], inputs[4];
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      deltas[c] = __shfl_sync(0xffffffffu, delta, lane % 8 + 8 * c);
      inputs[c] = __shfl_sync(0xffffffffu, input, lane % 8 + 8 * c);
    }
    H* after = p.h_last + slot[j] * p.h_last_stride[0] + part * 4 * p.h_last_stride[2] + four;
    const Elements<T, 4> B = shared.B[row][part];
    const Elements<T, 4> C = shared.C[row][part];
    float y[4] = {};
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      Elements<H, 4> to = shared.states[j][n][thread];
#pragma unroll
      for (int d = 0; d < 4; ++d) {
        const float h = fmaf(exp2_fast(deltas[d] * a[n][d]), to[d], inputs[d] * B[n]);
        y[d] = fmaf(C[n], h, y[d]);
        to.set(d, h);
      }
      if (slot[j] >= 0) to.store(after);
      after += p.h_last_stride[2];
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
    if (slot[j] < 0) continue;
    float out = fmaf(skip, x, y[0]);
    if (p.z != nullptr) out *= silu_fast(load_float(shared.z[row][own_in_block]));
    p.y[(row0 + row) * p.y_stride[0] + own * p.y_stride[2]] = store_as<T>(out);
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
  // Four neighbours, where `unit` strides from one to the next, are one access.
  const auto fours = [](const T* data, index_t row_stride, index_t unit) {
    return reinterpret_cast<std::uintptr_t>(data) % (4 * sizeof(T)) == 0 && unit == 1 &&
           row_stride % 4 == 0;
  };
  const auto shape = [&] {
    return p.sequences > kGemvTokens && p.d_state == kScanRowsStates && p.channels % 4 == 0 &&
           p.group_channels == p.channels && p.lengths == nullptr;
  };
  const auto step_sizes = [&] {
    if (p.dt_weight == nullptr) return fours(p.dt, p.dt_stride[0], p.dt_stride[2]);
    if constexpr (std::is_same<T, float>::value) {
      return false;
    } else {
      return p.dt_packs && p.dt_rank <= kScanRowsRank &&
             compiled_for(scan_step_rows_kernel<T, H, ScanRowsProjection<T, H>>, 80);
    }
  };
  return shape() && step_sizes() && fours(p.x, p.x_stride[0], p.x_stride[2]) &&
         (p.z == nullptr || fours(p.z, p.z_stride[0], p.z_stride[2])) &&
         fours(p.B, p.B_stride[0], p.B_stride[3]) && fours(p.C, p.C_stride[0], p.C_stride[3]) &&
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
  const auto run = [&](auto kernel, std::size_t more_bytes) {
    const std::size_t bytes = sizeof(ScanRowsShared<T, H>) + more_bytes;
    cudaError_t error = cudaSuccess;
    if (bytes > 48 * 1024) {
      error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                   static_cast<int>(bytes));
    }
    if (error == cudaSuccess) {
      error = launch_dependent(cuda, kernel, blocks, kScanRowsThreads, bytes, p);
    }
    return cuda_status(operation, error);
  };
  if constexpr (!std::is_same<T, float>::value) {
    if (p.dt_weight != nullptr) {
      using Projection = ScanRowsProjection<T, H>;
      return run(scan_step_rows_kernel<T, H, Projection>,
                 sizeof(typename Projection::Shared) + Projection::more_bytes(p.dt_rank));
    }
  }
  using GivenDt = ScanRowsGivenDt<T, H>;
  return run(scan_step_rows_kernel<T, H, GivenDt>, sizeof(typename GivenDt::Shared));
}

}  // namespace detail
SSM_NAMESPACE_END
