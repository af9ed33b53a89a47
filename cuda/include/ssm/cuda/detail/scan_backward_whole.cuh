#pragma once

#include "ssm/cuda/detail/scan_backward_tile.cuh"

// The forward sweep of the scan's gradient over sequences that are not cut
// (scan_backward_tile.cuh): nothing of the gradient is carried, so that few registers are needed
// and many warps hide one another's waits. Special functions bound it.

SSM_NAMESPACE_BEGIN
namespace detail {

// A lane has one channel; kLanes and kStates are those of the backward sweep, which finds a state
// where a lane left it.
template <int kLanes_, int kStates_>
struct ScanWholeShape {
  static constexpr int kLanes = kLanes_;
  static constexpr int kStates = kStates_;
  static constexpr int kThreads = 128;
  static constexpr int kTile = 16;
  static constexpr int kBlockChannels = kThreads / kLanes;
  static constexpr int kPairs = kBlockChannels / 2;
  static constexpr int kPadded = kLanes * kStates;
  static constexpr int kTokens = kTile * kPairs / kThreads;  // of a thread's elements, of one pair
  static constexpr int kElements = 2 * kTokens;
  static constexpr int kTurns = kTile / kTokens;
  static_assert(kThreads % kPairs == 0 && kTokens >= 1, "a thread's elements are of one pair");
  // Neighbouring threads take neighbouring tokens, which lie side by side in the rows.
  __device__ __forceinline__ static int pair_of(int thread) { return thread / kTurns; }
  __device__ __forceinline__ static int token_of(int thread) { return thread % kTurns * kTokens; }

  // Rows of delta and delta x: a channel's tokens. Rows of B: a state's tokens. The padding puts
  // what eight lanes read or write at once in different banks.
  static constexpr int kRow = kTile + 8;
  static constexpr int kRows = kBlockChannels * kRow;
  static constexpr int kCoefficients = kPadded * kTile + 4 * kLanes;
  __device__ __forceinline__ static int coefficient_row(int n) {
    return n * kTile + n / kStates * 4;
  }
};

// The next tile is prepared in the other half of the shared memory, so that one barrier per tile is
// enough.
template <class T, int kLanes, int kStates, bool kVectors>
__global__ void __launch_bounds__(128, 6)
    scan_backward_whole_kernel(const ScanBackwardTileParams<T> q) {
  using Shape = ScanWholeShape<kLanes, kStates>;
  using Inputs = ScanElements<Shape, T, 2, kVectors>;
  constexpr int kTile = Shape::kTile;
  constexpr int kTokens = Shape::kTokens;
  constexpr int kElements = Shape::kElements;
  constexpr int kRow = Shape::kRow;
  constexpr int kRows = Shape::kRows;
  constexpr int kCoefficientsAt = 2 * kRows;  // where B begins, then x and dt as they come
  constexpr int kRawAt = kCoefficientsAt + Shape::kCoefficients;
  constexpr int kHalf = kRawAt + Inputs::kRaw * static_cast<int>(sizeof(T)) / 4;
  constexpr int kKept = ScanBackwardShape<kLanes, kStates>::kTile;  // tokens of a kept state
  const ScanTileParams<T>& p = q.forward;
  __shared__ float4 memory[2 * kHalf / 4];
  const auto half = [&](int tile) { return reinterpret_cast<float*>(memory) + tile % 2 * kHalf; };
  const auto raw = [&](int tile) { return reinterpret_cast<T*>(half(tile) + kRawAt); };

  const ScanBackwardPlace at = scan_backward_place<Shape>(p, 1, q.piece_length);
  const int tid = static_cast<int>(threadIdx.x);
  const int channel = tid / Shape::kLanes;
  const bool exists = channel < at.channels;
  const index_t d = at.channel0 + channel;
  const ThreadElements<Shape> mine(tid);
  const int channels = pair_channels(at, mine.pair);
  const int element_row = 2 * mine.pair * kRow + mine.token0;
  float bias[2];
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    bias[c] = c < channels && p.dt_bias != nullptr
                  ? p.dt_bias[(at.channel0 + 2 * mine.pair + c) * p.dt_bias_stride]
                  : 0.0f;
  }

  float A2[kStates], h[kStates];
  int B_row[kStates];
#pragma unroll
  for (int s = 0; s < kStates; ++s) {
    const int n = state_of<Shape>(tid % kLanes, channel / 2, s);
    B_row[s] = Shape::coefficient_row(n);
    A2[s] = h[s] = 0.0f;
    if (!exists || n >= p.d_state) continue;
    A2[s] = scan_rate(p, d, n);
    if (p.h0 != nullptr) {
      h[s] = p.h0[at.sequence * p.h0_stride[0] + d * p.h0_stride[1] + n * p.h0_stride[2]];
    }
  }

  const int tiles = (at.tokens + kTile - 1) / kTile;
  const index_t first_row = at.sequence * (q.piece_length / kKept) * p.channels + at.channel0;
  float* state_to = q.tile_state + first_row * Shape::kPadded;
  Inputs elements({scan_origin(at, p.x, p.x_stride, at.channel0, 0),
                   scan_origin(at, p.dt, p.dt_stride, at.channel0, 0)},
                  {&p.x_stride, &p.dt_stride}, at.channels);
  ScanCoefficients<Shape, T, 1> coefficients = {
      scan_origin(at, p.B, p.B_stride, at.group, 0), nullptr, p.B_stride, p.C_stride, {}};
  const auto fetch = [&](int tile) {
    if (tile < tiles) elements.load(raw(tile), at.tokens - tile * kTile, channels, 1);
  };
  const auto fetch_coefficients = [&](int tile) {
    if (tile < tiles) coefficients.load(tid, at.tokens - tile * kTile, p.d_state, 1);
  };
  const auto prepare = [&](int tile) {
    float delta[kElements], input[kElements], slope[kElements];
    elements.widen(raw(tile), 1, mine, delta);
    elements.widen(raw(tile), 0, mine, input);
    prepare_deltas(mine, bias, p.delta_softplus, tile * kTile, at.tokens, delta, input, slope);
    float* const s_delta = half(tile) + element_row;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float of_channel[2][kTokens];
#pragma unroll
      for (int i = 0; i < kTokens; ++i) {
        of_channel[0][i] = delta[2 * i + c];
        of_channel[1][i] = input[2 * i + c];
      }
      store_vector(s_delta + c * kRow, of_channel[0]);
      store_vector(s_delta + kRows + c * kRow, of_channel[1]);
    }
    coefficients.store_rows(tid, half(tile) + kCoefficientsAt);
  };
  fetch(0);
  fetch_coefficients(0);
  async_wait_all();
  __syncthreads();
  if (tiles > 0) prepare(0);
  fetch(1);
  fetch_coefficients(1);
  for (int tile = 0; tile < tiles; ++tile) {
    async_wait_all();
    __syncthreads();
    if (kVectors) fetch(tile + 2);
    const float* const s_delta = half(tile) + channel * kRow;
    const float* const s_B = half(tile) + kCoefficientsAt;
#pragma unroll
    for (int t0 = 0; t0 < kTile; t0 += 4) {
      if (t0 % kKept == 0) {
        if (exists && tile * kTile + t0 < at.tokens) store_vector(state_to + tid * kStates, h);
        state_to += p.channels * Shape::kPadded;
      }
      const auto delta = load_vector<4>(s_delta + t0);
      const auto input = load_vector<4>(s_delta + kRows + t0);
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        const auto b = load_vector<4>(s_B + B_row[s] + t0);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          h[s] = fmaf(exp2_fast(delta.v[i] * A2[s]), h[s], input.v[i] * b.v[i]);
        }
      }
    }
    if (tile + 1 < tiles) prepare(tile + 1);
    if (!kVectors) fetch(tile + 2);
    fetch_coefficients(tile + 2);
  }
}

}  // namespace detail
SSM_NAMESPACE_END
