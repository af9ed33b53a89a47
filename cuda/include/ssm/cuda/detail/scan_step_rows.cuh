#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
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
  // Kernels that may still run before this one has waited for them touch neither states nor slots.
  bool states_settled = false;
};

constexpr int kScanRowsStates = 16;
constexpr int kScanRowsChannels = 32;  // of a block
constexpr int kScanRowsWarps = 8;
constexpr int kScanRowsThreads = 32 * kScanRowsWarps;
constexpr int kScanRowsEach = 2;  // rows of a warp
constexpr int kScanRowsRows = kScanRowsWarps * kScanRowsEach;
constexpr int kScanRowsBlocks = 2;  // of a multiprocessor
constexpr int kScanRowsRank = 256;  // of dt, at most

// The tile of rows and channels that a block works on, copied into shared memory past all registers
// while the tile before is computed.
template <class T, class H>
struct ScanRowsTile {
  Elements<H, 4> states[kScanRowsEach][4][kScanRowsThreads];  // each thread's own
  Elements<T, 4> B[kScanRowsRows][4], C[kScanRowsRows][4];
  T x[kScanRowsRows][kScanRowsChannels];
  T z[kScanRowsRows][kScanRowsChannels];
};

// The step sizes of a tile, before bias and softplus, as given.
template <class T, class H>
class ScanRowsGivenDt {
 public:
  // Of shared memory: for a tile, and for the block.
  SSM_HOST_DEVICE static constexpr int tile_bytes(int) {
    return static_cast<int>(sizeof(T)) * kScanRowsRows * kScanRowsChannels;
  }
  SSM_HOST_DEVICE static constexpr int block_bytes(int) { return 0; }

  __device__ ScanRowsGivenDt(const ScanStepParams<T, H>& p, unsigned char*) : p_(p) {}
  __device__ void fetch_weight(int) {}
  __device__ void fetch(T* tile, int channel0, int row0) {
    const int row = static_cast<int>(threadIdx.x) / 8;
    const int d = static_cast<int>(threadIdx.x) % 8 * 4;
    if (row >= kScanRowsRows || row0 + row >= p_.sequences || channel0 + d >= p_.channels) return;
    async_copy<4 * sizeof(T)>(
        tile + row * kScanRowsChannels + d,
        p_.dt + (row0 + row) * static_cast<int>(p_.dt_stride[0]) + channel0 + d);
  }
  __device__ void multiply(const T*) {}
  __device__ float at(const T* tile, int row, int channel) const {
    return load_float(tile[row * kScanRowsChannels + channel]);
  }

 private:
  const ScanStepParams<T, H>& p_;
};

// The same as W_dt times the low-rank factor: a warp takes eight channels and one half of the rank.
template <class T, class H>
class ScanRowsProjection {
 public:
  // The factor (kScanRowsRows, pitch); the parts of the sums and the weight (kScanRowsChannels,
  // pitch).
  SSM_HOST_DEVICE static constexpr int tile_bytes(int dt_rank) {
    return static_cast<int>(sizeof(T)) * kScanRowsRows * pitch_of(dt_rank);
  }
  SSM_HOST_DEVICE static constexpr int block_bytes(int dt_rank) {
    return static_cast<int>(sizeof(Parts) + sizeof(T) * kScanRowsChannels * pitch_of(dt_rank));
  }

  __device__ ScanRowsProjection(const ScanStepParams<T, H>& p, unsigned char* shared)
      : p_(p),
        parts_(*reinterpret_cast<Parts*>(shared)),
        weight_(reinterpret_cast<T*>(shared + sizeof(Parts))) {}
  // Asks for the weight of a block's channels.
  __device__ void fetch_weight(int channel0) {
    copy_rows<kScanRowsChannels>(p_.dt_weight, p_.dt_weight_stride[0], channel0,
                                 static_cast<int>(p_.channels), weight_);
  }
  __device__ void fetch(T* tile, int, int row0) {
    copy_rows<kScanRowsRows>(p_.dt, p_.dt_stride[0], row0, static_cast<int>(p_.sequences), tile);
  }
  // Of what has been copied by every thread. Ends in a barrier, after which at() may be asked.
  // Which elements of the rank a lane's 16 bytes stand for in two tiles does not matter, as long as
  // it is the same in both factors.
  __device__ void multiply(const T* tile) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int warp = static_cast<int>(threadIdx.x) / 32;
    const int pitch = pitch_of(p_.dt_rank);
    const int runs = (p_.dt_rank + kRun - 1) / kRun;
    const int channels = warp % kTiles * 8;
    const int half = warp / kTiles;
    const int end = half == 0 ? (runs + 1) / 2 : runs;
    const int at = lane / 4 * pitch + lane % 4 * 8;
    float sums[4] = {};
    for (int i = half == 0 ? 0 : (runs + 1) / 2; i < end; ++i) {
      const auto sixteen = [&](const T* from) {
        return *reinterpret_cast<const uint4*>(from + at + i * kRun);
      };
      const uint4 upper = sixteen(tile);
      const uint4 lower = sixteen(tile + 8 * pitch);
      const uint4 weight = sixteen(weight_ + channels * pitch);
      multiply_tile<T>(sums, {upper.x, lower.x, upper.y, lower.y}, {weight.x, weight.y});
      multiply_tile<T>(sums, {upper.z, lower.z, upper.w, lower.w}, {weight.z, weight.w});
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      parts_[half][lane / 4 + k / 2 * 8][channels + lane % 4 * 2 + k % 2] = sums[k];
    }
    __syncthreads();
  }
  __device__ float at(const T*, int row, int channel) const {
    return parts_[0][row][channel] + parts_[1][row][channel];
  }

 private:
  using Parts = float[2][kScanRowsRows][kScanRowsChannels];
  static constexpr int kRun = 32;  // of the rank, in two products of tiles
  static constexpr int kTiles = kScanRowsChannels / 8;
  static_assert(kScanRowsWarps == 2 * kTiles && kScanRowsRows == 16, "one tile a warp");

  // Elements from row to row: eight lanes that read 16 bytes each meet every bank once.
  SSM_HOST_DEVICE static constexpr int pitch_of(int dt_rank) {
    const int whole = (dt_rank + kRun - 1) / kRun * kRun;
    return whole % 64 == 0 ? whole + 32 : whole;
  }
  // kCount rows from `first` on of a matrix of `rows` rows and dt_rank columns, sixteen threads to
  // a row; zero beyond it.
  template <int kCount>
  __device__ void copy_rows(const T* from, index_t stride, int first, int rows, T* to) {
    constexpr int kTogether = kScanRowsThreads / 16;
    const int r = static_cast<int>(threadIdx.x) % 16 * 8;
    const int pitch = pitch_of(p_.dt_rank);
    const int whole = (p_.dt_rank + kRun - 1) / kRun * kRun;
#pragma unroll
    for (int i = 0; i < kCount; i += kTogether) {
      const int row = i + static_cast<int>(threadIdx.x) / 16;
      const bool exists = first + row < rows;
      const T* const row_from = from + (exists ? first + row : 0) * static_cast<int>(stride);
#pragma unroll
      for (int k = 0; k < kScanRowsRank; k += 16 * 8) {
        if (r + k >= whole) continue;
        const bool inside = exists && r + k < p_.dt_rank;
        async_copy_16(to + row * pitch + r + k, row_from + (inside ? r + k : 0), inside ? 16 : 0);
      }
    }
  }

  const ScanStepParams<T, H>& p_;
  Parts& parts_;
  T* weight_;
};

// Which of the tiles, those of the same channels one after another.
struct ScanRowsPlace {
  int slice, tile;  // of the channels; of the rows
  int tiles;        // of a slice

  __device__ int channel0() const { return slice * kScanRowsChannels; }
  __device__ int row0() const { return tile * kScanRowsRows; }
  __device__ ScanRowsPlace after() const {
    return tile + 1 < tiles ? ScanRowsPlace{slice, tile + 1, tiles}
                            : ScanRowsPlace{slice + 1, 0, tiles};
  }
};

// A thread's part in the copies of a tile. Offsets are of 32 bits where scan_rows_takes has seen to
// it that they fit; so do the numbers of states, of which memory holds no more.
template <class T, class H>
struct ScanRowsCopies {
  const ScanStepParams<T, H>& p;
  int lane, warp, rows, channels;

  // The states of the thread's rows, -1: none.
  __device__ void find(const ScanRowsPlace& place, int (&slot)[kScanRowsEach]) const {
#pragma unroll
    for (int j = 0; j < kScanRowsEach; ++j) {
      slot[j] = place.row0() + warp + j * kScanRowsWarps;
      if (slot[j] >= rows || place.channel0() + lane % 8 * 4 >= channels) {
        slot[j] = -1;
      } else if (p.slots != nullptr) {
        slot[j] = static_cast<int>(p.slots[slot[j] * p.slots_stride]);
      }
    }
  }
  // Where the lane's first four of them are.
  __device__ index_t state(const ScanRowsPlace& place, int slot, const Extents<3>& stride) const {
    return static_cast<index_t>(slot) * static_cast<int>(stride[0]) +
           (lane / 8 * 4 * static_cast<int>(stride[2]) + place.channel0() + lane % 8 * 4);
  }
  __device__ void states(const ScanRowsPlace& place, const int (&slot)[kScanRowsEach],
                         ScanRowsTile<T, H>* to) const {
#pragma unroll
    for (int j = 0; j < kScanRowsEach; ++j) {
      if (slot[j] < 0) continue;
      const H* const from = p.h0 + state(place, slot[j], p.h0_stride);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        async_copy<4 * sizeof(H)>(&to->states[j][n][warp * 32 + lane],
                                  from + n * static_cast<int>(p.h0_stride[2]));
      }
    }
  }
  __device__ void inputs(const ScanRowsPlace& place, ScanRowsTile<T, H>* to) const {
    const int thread = warp * 32 + lane;
    const auto row_of = [&](const T* data, const auto& stride, int row) {
      return data + (place.row0() + row) * static_cast<int>(stride[0]);
    };
    if (thread < kScanRowsThreads / 2) {
      const int row = thread / 8;
      const int d = thread % 8 * 4;
      const int channel = place.channel0() + d;
      if (place.row0() + row < rows && channel < channels) {
        async_copy<4 * sizeof(T)>(&to->x[row][d], row_of(p.x, p.x_stride, row) + channel);
        if (p.z != nullptr) {
          async_copy<4 * sizeof(T)>(&to->z[row][d], row_of(p.z, p.z_stride, row) + channel);
        }
      }
    } else {
      const int row = thread / 4 % kScanRowsRows;
      const int n = thread % 4;
      if (place.row0() + row < rows) {
        const bool is_B = thread / 64 == 2;
        const T* const from = is_B ? row_of(p.B, p.B_stride, row) : row_of(p.C, p.C_stride, row);
        async_copy<4 * sizeof(T)>(is_B ? &to->B[row][n] : &to->C[row][n], from + n * 4);
      }
    }
  }
};

// A block computes a run of tiles. Lane l has the states [4 (l / 8), + 4) of the channels
// [4 (l % 8), + 4), and the rest of channel 4 (l % 8) + l / 8: its step size, input and output.
template <class T, class H, class StepSizes>
__global__ void __launch_bounds__(kScanRowsThreads, kScanRowsBlocks)
    scan_step_rows_kernel(const ScanStepParams<T, H> p) {
  using Tile = ScanRowsTile<T, H>;
  extern __shared__ float4 scan_rows_memory[];
  Tile* const tiles = reinterpret_cast<Tile*>(scan_rows_memory);
  auto* const step_size_memory = reinterpret_cast<unsigned char*>(tiles + 2);
  const int tile_bytes = StepSizes::tile_bytes(p.dt_rank);
  const auto step_size_tile = [&](int i) {
    return reinterpret_cast<T*>(step_size_memory + i * tile_bytes);
  };
  StepSizes step_sizes(p, step_size_memory + 2 * tile_bytes);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int part = lane / 8;
  const int own_in_block = lane % 8 * 4 + part;
  const ScanRowsCopies<T, H> copies{p, lane, warp, static_cast<int>(p.sequences),
                                    static_cast<int>(p.channels)};

  const int tiles_of_slice = (static_cast<int>(p.sequences) + kScanRowsRows - 1) / kScanRowsRows;
  const index_t all = static_cast<index_t>(p.channel_blocks) * tiles_of_slice;
  const int begin = static_cast<int>(all * blockIdx.x / gridDim.x);
  const int count = static_cast<int>(all * (blockIdx.x + 1) / gridDim.x) - begin;
  ScanRowsPlace place{begin / tiles_of_slice, begin % tiles_of_slice, tiles_of_slice};

  float4 a[4];
  float bias, skip;
  const auto load_constants = [&](int channel0) {
    const int four = channel0 + lane % 8 * 4;
    const int own = channel0 + own_in_block;
    const bool channel = four < p.channels;  // a multiple of four
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      a[n] = {};
      if (channel) {
        a[n] = *reinterpret_cast<const float4*>(p.A + (part * 4 + n) * p.A_stride[1] + four);
      }
    }
    bias = channel && p.dt_bias != nullptr ? p.dt_bias[own * p.dt_bias_stride] : 0.0f;
    skip = channel && p.D != nullptr ? p.D[own * p.D_stride] : 0.0f;
  };
  int slot[kScanRowsEach];
  step_sizes.fetch_weight(place.channel0());
  load_constants(place.channel0());
  if (p.states_settled) {
    copies.find(place, slot);
    copies.states(place, slot, tiles);
  }
  wait_for_kernel_before();
  allow_kernel_after();
  if (!p.states_settled) {
    copies.find(place, slot);
    copies.states(place, slot, tiles);
  }
  copies.inputs(place, tiles);
  step_sizes.fetch(step_size_tile(0), place.channel0(), place.row0());
  async_commit();

  for (int i = 0; i < count; ++i) {
    const bool last = i + 1 == count;
    const ScanRowsPlace next = place.after();
    int next_slot[kScanRowsEach] = {};
    if (!last) copies.find(next, next_slot);
    async_wait_all();
    __syncthreads();
    if (!last) {
      copies.states(next, next_slot, &tiles[(i + 1) % 2]);
      copies.inputs(next, &tiles[(i + 1) % 2]);
      step_sizes.fetch(step_size_tile((i + 1) % 2), next.channel0(), next.row0());
    }
    async_commit();
    const Tile& tile = tiles[i % 2];
    const T* const step_sizes_of_tile = step_size_tile(i % 2);
    step_sizes.multiply(step_sizes_of_tile);
    const bool other_channels = !last && next.slice != place.slice;
    if (other_channels) {
      step_sizes.fetch_weight(next.channel0());
      async_commit();
    }
    float x[kScanRowsEach], delta[kScanRowsEach];  // of the lane's own channel
#pragma unroll
    for (int j = 0; j < kScanRowsEach; ++j) {
      const int row = warp + j * kScanRowsWarps;
      x[j] = load_float(tile.x[row][own_in_block]);
      delta[j] = bias + step_sizes.at(step_sizes_of_tile, row, own_in_block);
      if (p.delta_softplus) delta[j] = softplus_fast(delta[j]);
    }
#pragma unroll
    for (int j = 0; j < kScanRowsEach; ++j) {
      const int row = warp + j * kScanRowsWarps;
      const float rate = kLog2e * delta[j];
      const float input = delta[j] * x[j];
      float rates[4], inputs[4];
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        rates[c] = __shfl_sync(0xffffffffu, rate, lane % 8 + 8 * c);
        inputs[c] = __shfl_sync(0xffffffffu, input, lane % 8 + 8 * c);
      }
      const auto B = Elements<T, 4>::load(tile.B[row][part].v);
      const auto C = Elements<T, 4>::load(tile.C[row][part].v);
      float y[4] = {};
      Elements<H, 4> states[4];
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        states[n] = Elements<H, 4>::load(tile.states[j][n][threadIdx.x].v);
        const float a_of[4] = {a[n].x, a[n].y, a[n].z, a[n].w};
        float h[4];
#pragma unroll
        for (int c = 0; c < 4; ++c) {
          h[c] = fmaf(exp2_fast(rates[c] * a_of[c]), states[n][c], inputs[c] * B[n]);
          y[c] = fmaf(C[n], h[c], y[c]);
        }
        states[n].set_pair(0, h[0], h[1]);
        states[n].set_pair(2, h[2], h[3]);
      }
      if (slot[j] >= 0) {
        H* const after = p.h_last + copies.state(place, slot[j], p.h_last_stride);
#pragma unroll
        for (int n = 0; n < 4; ++n) {
          states[n].store_at_once(after + n * static_cast<int>(p.h_last_stride[2]));
        }
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
      float out = fmaf(skip, x[j], y[0]);
      if (p.z != nullptr) out *= silu_fast(load_float(tile.z[row][own_in_block]));
      p.y[(place.row0() + row) * static_cast<int>(p.y_stride[0]) +
          (place.channel0() + own_in_block) * static_cast<int>(p.y_stride[2])] = store_as<T>(out);
    }
    if (other_channels) load_constants(next.channel0());
    place = next;
#pragma unroll
    for (int j = 0; j < kScanRowsEach; ++j) slot[j] = next_slot[j];
  }
}

// Of shared memory, for a block.
template <class T, class H, class StepSizes>
int scan_rows_bytes(int dt_rank) noexcept {
  return 2 * (static_cast<int>(sizeof(ScanRowsTile<T, H>)) + StepSizes::tile_bytes(dt_rank)) +
         StepSizes::block_bytes(dt_rank);
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
    const int capacity = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    if (p.dt_weight == nullptr) {
      return fours(p.dt, p.dt_stride[0], p.dt_stride[2]) &&
             scan_rows_bytes<T, H, ScanRowsGivenDt<T, H>>(0) <= capacity;
    }
    if constexpr (std::is_same<T, float>::value) {
      return false;
    } else {
      using Projection = ScanRowsProjection<T, H>;
      return p.dt_packs && p.dt_rank <= kScanRowsRank &&
             scan_rows_bytes<T, H, Projection>(p.dt_rank) <= capacity &&
             compiled_for(scan_step_rows_kernel<T, H, Projection>, 80);
    }
  };
  // Offsets of 32 bits.
  const auto small = [](index_t count, index_t stride) {
    const index_t most = std::numeric_limits<int>::max() / 2 / std::max(count, index_t{1});
    return stride <= most && stride >= -most;
  };
  const auto offsets = [&] {
    return small(p.sequences, p.x_stride[0]) && small(p.sequences, p.z_stride[0]) &&
           small(p.sequences, p.B_stride[0]) && small(p.sequences, p.C_stride[0]) &&
           small(p.sequences, p.dt_stride[0]) && small(p.sequences, p.y_stride[0]) &&
           small(p.channels, p.y_stride[2]) && small(p.channels, p.dt_weight_stride[0]) &&
           small(1, p.h0_stride[0]) && small(kScanRowsStates, p.h0_stride[2]) &&
           small(1, p.h_last_stride[0]) && small(kScanRowsStates, p.h_last_stride[2]);
  };
  return shape() && offsets() && step_sizes() && fours(p.x, p.x_stride[0], p.x_stride[2]) &&
         (p.z == nullptr || fours(p.z, p.z_stride[0], p.z_stride[2])) &&
         fours(p.B, p.B_stride[0], p.B_stride[3]) && fours(p.C, p.C_stride[0], p.C_stride[3]) &&
         scan_rows_states(p.A, 0, p.A_stride[0], p.A_stride[1]) &&
         scan_rows_states(p.h0, p.h0_stride[0], p.h0_stride[1], p.h0_stride[2]) &&
         scan_rows_states(p.h_last, p.h_last_stride[0], p.h_last_stride[1], p.h_last_stride[2]);
}

// Of what scan_rows_takes has approved.
template <class T, class H>
Status launch_scan_rows(const char* operation, const Cuda& cuda, ScanStepParams<T, H> p) {
  const index_t slices = (p.channels + kScanRowsChannels - 1) / kScanRowsChannels;
  const index_t tiles = saturating_mul(slices, (p.sequences + kScanRowsRows - 1) / kScanRowsRows);
  const Status status = check_grid(operation, tiles);
  if (!status || tiles == 0) return status;
  p.channel_blocks = static_cast<unsigned>(slices);
  const auto run = [&](auto kernel, int bytes) {
    const index_t most = kScanRowsBlocks * device_attribute(cudaDevAttrMultiProcessorCount);
    cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error == cudaSuccess) {
      error = launch_dependent(cuda, kernel, std::min(tiles, most), kScanRowsThreads,
                               static_cast<std::size_t>(bytes), p);
    }
    return cuda_status(operation, error);
  };
  if constexpr (!std::is_same<T, float>::value) {
    if (p.dt_weight != nullptr) {
      using Projection = ScanRowsProjection<T, H>;
      return run(scan_step_rows_kernel<T, H, Projection>,
                 scan_rows_bytes<T, H, Projection>(p.dt_rank));
    }
  }
  using GivenDt = ScanRowsGivenDt<T, H>;
  return run(scan_step_rows_kernel<T, H, GivenDt>, scan_rows_bytes<T, H, GivenDt>(0));
}

}  // namespace detail
SSM_NAMESPACE_END
