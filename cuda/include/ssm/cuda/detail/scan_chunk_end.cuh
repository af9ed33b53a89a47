#pragma once

#include "ssm/core/config.hpp"
#include "ssm/cuda/detail/async_copy.cuh"
#include "ssm/cuda/detail/device_math.cuh"

// The end state of a chunk of a sequence that starts from zero, and the chunk's sum of delta: what
// scan_tile_kernel computes when it cuts sequences. No recurrence is needed for it:
//
//   end_n = sum over t of exp(A_n after_t) (delta_t x_t) B_tn,   after_t = sum of delta after t.
//
// A block takes the chunk's tiles from the last to the first and leaves off once every state has
// forgotten what was before. Per tile, after P of scan_tile_kernel:
//
//   S  each warp turns delta of its channels into `after`, in place;
//   M  each warp takes one of its channels after another. Lanes of the same j hold the states
//      n = j, j + kLanes, … and share the tokens, four neighbours at a time. A warp passes over
//      kLanes states of a channel that have forgotten, so that work follows each channel's decay.

SSM_NAMESPACE_BEGIN
namespace detail {

// A token's part is left out where its decay is below 2^kScanForgotten: 24 bits, float's precision,
// below T's rounding error of what the state once was. The state before the chunk decays by more
// and then has no part either.
template <class T>
constexpr float kScanForgotten = sizeof(T) == 4 ? -48.0f : -36.0f;

// kCount neighbouring floats of shared memory, four at a time where there are.
template <int kCount>
__device__ __forceinline__ void load_row(const float* from, float (&v)[kCount]) {
  if constexpr (kCount % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const float4 four = *reinterpret_cast<const float4*>(from + i);
      v[i] = four.x;
      v[i + 1] = four.y;
      v[i + 2] = four.z;
      v[i + 3] = four.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] = from[i];
  }
}
template <int kCount>
__device__ __forceinline__ void store_row(float* to, const float (&v)[kCount]) {
  if constexpr (kCount % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      *reinterpret_cast<float4*>(to + i) = make_float4(v[i], v[i + 1], v[i + 2], v[i + 3]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kCount; ++i) to[i] = v[i];
  }
}

// Where a block's results go: the rows of scan_carry_kernel, at the block's first channel.
struct ScanChunkEnd {
  float* state;  // (d_state, channels)
  float* delta;  // (channels)
};

// rate(channel, n) is A log2 e. copy(tile) and prepare(tile) are called for each tile in turn.
template <class T, class Shape, int kLanes, int kStates, int kTile, class Rate, class Copy,
          class Prepare>
__device__ __forceinline__ void scan_chunk_end(const ScanChunkEnd& to, int channels,
                                               index_t all_channels, int d_state, int tiles,
                                               float* s_delta, const float* s_input,
                                               const float* s_B, float* s_rate, Rate rate,
                                               Copy copy, Prepare prepare) {
  constexpr unsigned kWarp = 0xffffffffu;
  constexpr int kRow = Shape::kRow;
  constexpr int kWarpChannels = 32 / kLanes;
  constexpr int kPart = kTile / kLanes;  // tokens of a channel that a lane sums in S
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int channel0 = static_cast<int>(threadIdx.x) / 32 * kWarpChannels;

  // S: this lane's channel and its place among the lanes of that channel, which is also the j of
  // the states whose rates it keeps.
  const int own_channel = channel0 + lane / kLanes;
  const int part = lane % kLanes;
  float* const own_delta = s_delta + own_channel * kRow + part * kPart;
  constexpr unsigned kOneChannel = (1u << kLanes) - 1;
  const unsigned own_bits = kOneChannel << (lane - part);
  float own_rate[kStates];
  unsigned any = 0;         // of the following
  unsigned alive[kStates];  // bit q kLanes + j: state j + kLanes s of channel q has not forgotten
#pragma unroll
  for (int s = 0; s < kStates; ++s) {
    const int n = part + kLanes * s;
    const bool exists = own_channel < channels && n < d_state;
    own_rate[s] = exists ? rate(own_channel, n) : 0.0f;
    alive[s] = __ballot_sync(kWarp, exists);
    any |= alive[s];
  }
  store_row(s_rate + own_channel * Shape::kPadded + part * kStates, own_rate);
  float after = 0.0f, rest = 0.0f;  // sum of delta of the tiles taken, and what its sum rounds away

  // M.
  const int j = lane / kWarpChannels;
  const int slot = lane % kWarpChannels;
  float end[kWarpChannels][kStates] = {};

  if (tiles > 1) copy(tiles - 2);
  async_commit();
  for (int tile = tiles - 1; tile >= 0; --tile) {
    if (tile > 1) copy(tile - 2);
    async_commit();

    {  // S
      float v[kPart];
      load_row(own_delta, v);
      float sum = 0.0f;
#pragma unroll
      for (int i = kPart - 1; i >= 0; --i) {
        const float delta = v[i];
        v[i] = sum;
        sum += delta;
      }
#pragma unroll
      for (int m = 1; m < kLanes; m *= 2) {
        const float later = __shfl_down_sync(kWarp, sum, m, kLanes);
        if (part + m < kLanes) sum += later;
      }
      float later = __shfl_down_sync(kWarp, sum, 1, kLanes);
      if (part == kLanes - 1) later = 0.0f;
#pragma unroll
      for (int i = 0; i < kPart; ++i) v[i] += later + after;
      store_row(own_delta, v);
      // Compensated, as it runs over thousands of tiles, and only as far as the channel's own
      // states remember, so that no neighbour decides how far.
      const float term = __shfl_sync(kWarp, sum, 0, kLanes) - rest;
      const float total = after + term;
      if ((any & own_bits) != 0) {
        rest = (total - after) - term;
        after = total;
      }
    }
    __syncwarp();

    // M
    unsigned all = kWarp;
#pragma unroll
    for (int s = 0; s < kStates; ++s) all &= alive[s];
#pragma unroll
    for (int t0 = 0; t0 < kTile; t0 += 4 * kWarpChannels) {
      const int t = t0 + 4 * slot;
      float4 b[kStates];
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        b[s] = *reinterpret_cast<const float4*>(s_B + (j + kLanes * s) * kRow + t);
      }
#pragma unroll
      for (int q = 0; q < kWarpChannels; ++q) {
        const auto of_channel = [&](unsigned mask) { return mask >> (q * kLanes) & kOneChannel; };
        if (of_channel(any) == 0) continue;
        const int at = (channel0 + q) * kRow + t;
        const float4 later = *reinterpret_cast<const float4*>(s_delta + at);
        const float4 in = *reinterpret_cast<const float4*>(s_input + at);
        float a[kStates];
        load_row(s_rate + (channel0 + q) * Shape::kPadded + j * kStates, a);
        const auto add = [&](int s) {
          float& sum = end[q][s];
          sum = fmaf(exp2_fast(a[s] * later.x), in.x * b[s].x, sum);
          sum = fmaf(exp2_fast(a[s] * later.y), in.y * b[s].y, sum);
          sum = fmaf(exp2_fast(a[s] * later.z), in.z * b[s].z, sum);
          sum = fmaf(exp2_fast(a[s] * later.w), in.w * b[s].w, sum);
        };
        if (of_channel(~all) == 0) {  // no branch between the states: their chains interleave
#pragma unroll
          for (int s = 0; s < kStates; ++s) add(s);
        } else {
#pragma unroll
          for (int s = 0; s < kStates; ++s) {
            if (of_channel(alive[s]) != 0) add(s);
          }
        }
      }
    }
    any = 0;
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      // Not-a-number never forgets.
      alive[s] &= __ballot_sync(kWarp, !(own_rate[s] * after < kScanForgotten<T>));
      any |= alive[s];
    }

    async_wait<1>();
    if (__syncthreads_or(any != 0) == 0) break;
    if (tile > 0) prepare(tile - 1);
    __syncthreads();
  }
  async_wait_all();

  if (part == 0 && own_channel < channels) to.delta[own_channel] = after;
#pragma unroll
  for (int q = 0; q < kWarpChannels; ++q) {
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
#pragma unroll
      for (int m = 1; m < kWarpChannels; m *= 2) {
        end[q][s] += __shfl_xor_sync(kWarp, end[q][s], m);
      }
      const int n = j + kLanes * s;
      if (q == slot && channel0 + q < channels && n < d_state) {
        to.state[n * all_channels + channel0 + q] = end[q][s];
      }
    }
  }
}

}  // namespace detail
SSM_NAMESPACE_END
