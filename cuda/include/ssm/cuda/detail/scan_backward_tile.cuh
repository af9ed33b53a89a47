#pragma once

#include <cfloat>

#include "ssm/cuda/detail/scan_backward_general.cuh"
#include "ssm/cuda/detail/scan_tile.cuh"

// The gradient of the fused scan for real float systems with delta B (Euler) inputs. As in
// scan_tile.cuh a block owns kBlockChannels channels, a channel's states are spread over kLanes
// lanes of kStates registers, and the block walks tiles of kTile tokens. Two sweeps:
//
//   forwards   h <- a h + (delta x) B; the state before each tile goes to scratch,
//              4 d_state / kTile bytes per element;
//   backwards  tile after tile from the last: a_t h_{t-1} of the tile stays in registers, a_t is
//              computed once more (kept as well, it spills registers: 12 % slower), and
//                g <- g + e C;  s1 = sum_n g B;  s2 = sum_n g A a h_{t-1};
//                dA += delta g a h_{t-1};  g delta x and e h, summed over the block's channels,
//                are its share of dB and dC;  g <- a g;
//              per element dx = D e + delta s1, ddelta = s2 + x s1 and
//              dz = dy silu'(z) (C h + D x).
//
// Few channels in long sequences are cut into chunks. The forward sweep then starts every chunk
// from zero and also carries P_t = a_t ... a_first and G = sum_t P_t e_t C_t, what the chunk adds
// to the gradient of the state that enters it. scan_backward_carry_kernel turns these into the
// state and the gradient that enter each chunk, and the backward sweep adds exp(A sum delta) times
// the former to the tiles' states.

SSM_NAMESPACE_BEGIN
namespace detail {

template <class T>
struct ScanBackwardTileParams {
  ScanTileParams<T> forward;  // length strides point along the scan; y null: not wanted
  const T* dy;
  Extents<3> dy_stride;
  const float* dh_last;  // null: zero
  Extents<3> dh_last_stride;
  GradientRow<T> dx, ddt, dz;  // length strides point along the scan
  GradientRow<float> dh0;
  bool accumulate;
  ScanGradShares<float> shares;
  index_t batch;
  float* tile_state;  // (sequences, chunks, tiles of a chunk, channels, kLanes, kStates)
  float* tile_delta;  // (sequences, chunks, tiles of a chunk, channels): sum of delta before it
  // Chunks only. On entry to the carry kernel a chunk's end state and gradient from zero, on return
  // what enters the chunk from the left and from the right.
  float* chunk_state;     // (sequences, chunks, d_state, channels)
  float* chunk_gradient;  // (sequences, chunks, d_state, channels)
  float* chunk_delta;     // (sequences, chunks, channels): sum of delta
  index_t chunk_tiles;    // tiles of a whole chunk
};

template <int kLanes_, int kStates_>
struct ScanBackwardShape {
  static constexpr int kLanes = kLanes_;
  static constexpr int kStates = kStates_;
  static constexpr int kThreads = 128;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kTile = 8;
  static constexpr int kSlots = 32 / kLanes;
  static constexpr int kBlockChannels = kWarps * kSlots;
  static constexpr int kPadded = kLanes * kStates;
  static constexpr int kRow = kTile + 4;  // rows of eight neighbours start in different banks
  static constexpr int kElements = kTile * kBlockChannels / kThreads;
  static constexpr int kTokenStep = kThreads / kBlockChannels;
  static constexpr int kCoefficients = (2 * kTile * kPadded + kThreads - 1) / kThreads;
  static_assert(kTile * kBlockChannels % kThreads == 0 && kThreads % kBlockChannels == 0,
                "a thread's elements are whole and of one channel");
};

// The state that register s of a lane holds. Lanes of neighbouring slots hold their states in
// different orders, so that in state_sums() what a lane gives away has the same registers in all.
template <class Shape>
__device__ __forceinline__ int state_of(int j, int slot, int s) {
  return j + Shape::kLanes * (s ^ (slot & (Shape::kStates - 1)));
}

// From the states j + kLanes s to those of state_of().
template <class Shape>
__device__ __forceinline__ void reorder_states(float (&v)[Shape::kStates], int slot) {
#pragma unroll
  for (int bit = 1; bit < Shape::kStates; bit *= 2) {
    const bool swap = (slot & bit) != 0;
#pragma unroll
    for (int s = 0; s < Shape::kStates; ++s) {
      if ((s & bit) != 0) continue;
      const float low = v[s];
      const float high = v[s | bit];
      v[s] = swap ? high : low;
      v[s | bit] = swap ? low : high;
    }
  }
}

// Where B or C of one token and state lies in shared memory: four tokens of a state make a unit of
// 16 bytes, and the units of a lane's states are neighbours, so that the lanes that a load serves
// at once, of one j and different slots, meet in no bank.
template <class Shape>
__device__ __forceinline__ int coefficient_at(int n, int token) {
  const int unit = n % Shape::kLanes * Shape::kStates + n / Shape::kLanes;
  return (token / 4 * Shape::kPadded + unit) * 4 + token % 4;
}

// The sums of dB and of dC over the slots of a warp, each state's in one lane: of the state that
// register 0 holds, dB in dB[0] and dC in dC[0] if there are as many slots as states, else one of
// them in dB[0], dC in the lanes with the bit kStates of the slot. Further slots hold copies.
template <class Shape, int kHalf = Shape::kStates / 2>
__device__ __forceinline__ void state_sums(float (&dB)[Shape::kStates], float (&dC)[Shape::kStates],
                                           int slot) {
  if constexpr (kHalf >= 1) {
#pragma unroll
    for (int r = 0; r < kHalf; ++r) {
      dB[r] += __shfl_xor_sync(0xffffffffu, dB[r + kHalf], kHalf);
      dC[r] += __shfl_xor_sync(0xffffffffu, dC[r + kHalf], kHalf);
    }
    state_sums<Shape, kHalf / 2>(dB, dC, slot);
  } else if constexpr (Shape::kSlots > Shape::kStates) {
    const bool takes_C = (slot & Shape::kStates) != 0;
    const float keep = takes_C ? dC[0] : dB[0];
    const float send = takes_C ? dB[0] : dC[0];
    dB[0] = keep + __shfl_xor_sync(0xffffffffu, send, Shape::kStates);
#pragma unroll
    for (int bit = 2 * Shape::kStates; bit < Shape::kSlots; bit *= 2) {
      dB[0] += __shfl_xor_sync(0xffffffffu, dB[0], bit);
    }
  }
}

// Where a block stands: its channels and tokens. Tokens count along the scan.
struct ScanBackwardPlace {
  index_t sequence, row, group, slice, channel0, chunk;
  index_t first;     // of the chunk's first token, in units of the length strides
  index_t position;  // of that token in memory; the next is one further, or one back in reverse
  int channels, tokens;
};

template <class Shape, class T>
__device__ __forceinline__ ScanBackwardPlace scan_backward_place(const ScanTileParams<T>& p) {
  ScanBackwardPlace at;
  const unsigned channel_block = blockIdx.x % p.channel_blocks;
  const unsigned outer = blockIdx.x / p.channel_blocks;
  at.chunk = outer % static_cast<unsigned>(p.chunks);
  at.sequence = outer / static_cast<unsigned>(p.chunks);
  at.group = channel_block / p.blocks_per_group;
  at.slice = channel_block % p.blocks_per_group;
  const index_t in_group = at.slice * Shape::kBlockChannels;
  at.channel0 = at.group * p.group_channels + in_group;
  const index_t left = p.group_channels - in_group;
  at.channels = left < Shape::kBlockChannels ? static_cast<int>(left) : Shape::kBlockChannels;
  at.row = at.sequence;
  index_t begin = 0;
  index_t total = p.length;
  if (p.starts != nullptr) {
    at.row = 0;
    begin = p.starts[at.sequence * p.starts_stride];
    total = p.starts[(at.sequence + 1) * p.starts_stride] - begin;
  } else if (p.lengths != nullptr) {
    total = p.lengths[at.sequence * p.lengths_stride];
  }
  const index_t chunk_begin = at.chunk * p.chunk_length;
  const index_t rest = total - chunk_begin;
  at.tokens = static_cast<int>(rest < 0 ? 0 : (rest > p.chunk_length ? p.chunk_length : rest));
  at.position = p.reverse ? begin + total - 1 - chunk_begin : begin + chunk_begin;
  at.first = p.reverse ? -at.position : at.position;
  return at;
}

// Where this thread's elements of one array lie, of one tile: channel tid % kBlockChannels and the
// tokens tid / kBlockChannels + i kTokenStep. Stepped from tile to tile, as computing the addresses
// anew costs more than the recurrence.
template <class Shape, class P>
struct TileCursor {
  P* at = nullptr;
  index_t token_step = 0;  // from one of the elements to the next

  TileCursor() = default;
  // `first` is the block's first channel at the tile's first token.
  __device__ __forceinline__ TileCursor(P* first, const Extents<3>& stride) {
    const int channel = static_cast<int>(threadIdx.x) % Shape::kBlockChannels;
    const int token = static_cast<int>(threadIdx.x) / Shape::kBlockChannels;
    if (first != nullptr) at = first + token * stride[1] + channel * stride[2];
    token_step = Shape::kTokenStep * stride[1];
  }
  // A tile's tokens are kTile / kTokenStep of a thread's steps.
  __device__ __forceinline__ void move(int tiles) {
    at += tiles * (Shape::kTile / Shape::kTokenStep) * token_step;
  }
};

// The elements of x, dt, dy or z that this thread prepares, of one tile. Loaded a tile ahead.
template <class Shape, class T>
struct ScanElements {
  TileCursor<Shape, const T> cursor;
  T v[Shape::kElements];

  // `left` tokens of the tile exist; then the cursor moves on by `tiles`.
  __device__ __forceinline__ void load(int left, bool exists, int tiles) {
#pragma unroll
    for (int i = 0; i < Shape::kElements; ++i) {
      const int token =
          static_cast<int>(threadIdx.x) / Shape::kBlockChannels + i * Shape::kTokenStep;
      v[i] = store_as<T>(0.0f);
      if (exists && token < left) v[i] = cursor.at[i * cursor.token_step];
    }
    cursor.move(tiles);
  }
};

// B and C of one tile, this thread's share: n fastest, then tokens, then B before C.
template <class Shape, class T>
struct ScanCoefficients {
  static constexpr int kOfOne = Shape::kTile * Shape::kPadded;
  const T* at[Shape::kCoefficients];
  index_t tile_step[Shape::kCoefficients];
  T v[Shape::kCoefficients];

  __device__ __forceinline__ static int index(int i) {
    return static_cast<int>(threadIdx.x) + i * Shape::kThreads;
  }
  __device__ __forceinline__ static int token(int i) {
    return index(i) / Shape::kPadded % Shape::kTile;
  }
  __device__ __forceinline__ static int state(int i) { return index(i) % Shape::kPadded; }

  // B and C point at the tile's first token.
  __device__ __forceinline__ ScanCoefficients(const ScanTileParams<T>& p, const T* B, const T* C) {
#pragma unroll
    for (int i = 0; i < Shape::kCoefficients; ++i) {
      const bool is_C = index(i) >= kOfOne;
      const index_t token_step = is_C ? p.C_stride[1] : p.B_stride[1];
      const index_t state_step = is_C ? p.C_stride[3] : p.B_stride[3];
      at[i] = (is_C ? C : B) + token(i) * token_step + state(i) * state_step;
      tile_step[i] = Shape::kTile * token_step;
    }
  }
  __device__ __forceinline__ void load(int left, int d_state, int tiles) {
#pragma unroll
    for (int i = 0; i < Shape::kCoefficients; ++i) {
      v[i] = store_as<T>(0.0f);
      if (index(i) < 2 * kOfOne && state(i) < d_state && token(i) < left) v[i] = *at[i];
      at[i] += tiles * tile_step[i];
    }
  }
  // As coefficient_at() says, C after B.
  __device__ __forceinline__ void store(float* to) const {
#pragma unroll
    for (int i = 0; i < Shape::kCoefficients; ++i) {
      if (index(i) >= 2 * kOfOne) continue;
      const int which = index(i) / kOfOne;
      to[which * kOfOne + coefficient_at<Shape>(state(i), token(i))] = load_float(v[i]);
    }
  }
};

// kCount neighbouring floats, aligned to their size.
template <int kCount>
struct alignas(kCount * sizeof(float)) Floats {
  float v[kCount];
};

// A log2 e; the clamp keeps 0 * A finite for tokens past the end when A is -infinity.
template <class Params>
__device__ __forceinline__ float scan_rate(const Params& p, index_t d, index_t n) {
  const float rate = p.A[d * p.A_stride[0] + n * p.A_stride[1]] * kLog2e;
  return rate < -FLT_MAX ? -FLT_MAX : rate;
}

__device__ __forceinline__ float sigmoid_fast(float x) {
  return reciprocal_fast(1.0f + exp2_fast(-kLog2e * x));
}

// kCount neighbouring tokens of a row of shared memory.
template <int kCount>
__device__ __forceinline__ void load_tokens(const float* from, float (&to)[kCount]) {
  const auto v = *reinterpret_cast<const Floats<kCount>*>(from);
#pragma unroll
  for (int i = 0; i < kCount; ++i) to[i] = v.v[i];
}

// The forward sweep.
template <class T, int kLanes, int kStates, bool kChunked>
__global__ void __launch_bounds__(128, kChunked ? 5 : 6)
    scan_backward_states_kernel(const ScanBackwardTileParams<T> q) {
  using Shape = ScanBackwardShape<kLanes, kStates>;
  constexpr int kRow = Shape::kRow;
  constexpr int kTile = Shape::kTile;
  constexpr int kBlockChannels = Shape::kBlockChannels;
  const ScanTileParams<T>& p = q.forward;
  __shared__ float4 memory[(3 * kBlockChannels * kRow + 2 * Shape::kPadded * kTile) / 4];
  float* const s_delta = reinterpret_cast<float*>(memory);
  float* const s_input = s_delta + kBlockChannels * kRow;
  float* const s_e = s_input + kBlockChannels * kRow;
  float* const s_B = s_e + kBlockChannels * kRow;

  const ScanBackwardPlace at = scan_backward_place<Shape>(p);
  const int tid = static_cast<int>(threadIdx.x);
  const int lane = tid % 32;
  const int slot = lane % Shape::kSlots;
  const int j = lane / Shape::kSlots;
  const int lane_channel = tid / 32 * Shape::kSlots + slot;
  const bool lane_exists = lane_channel < at.channels;
  const index_t d = at.channel0 + lane_channel;
  const int channel = tid % kBlockChannels;
  const int token0 = tid / kBlockChannels;
  constexpr int kTokenStep = Shape::kTokenStep;
  const bool exists = channel < at.channels;

  // The block's first channel (state 0 of the group for B and C) at token t of the chunk.
  const auto origin = [&](auto* data, const auto& stride, index_t third, index_t t) {
    return data == nullptr
               ? data
               : data + at.row * stride[0] + (at.first + t) * stride[1] + third * stride[2];
  };
  const bool gated = p.z != nullptr;
  const float bias =
      exists && p.dt_bias != nullptr ? p.dt_bias[(at.channel0 + channel) * p.dt_bias_stride] : 0.0f;

  float A2[kStates], h[kStates], product[kStates], gradient[kStates];
#pragma unroll
  for (int s = 0; s < kStates; ++s) {
    const int n = j + kLanes * s;
    A2[s] = h[s] = gradient[s] = 0.0f;
    product[s] = 1.0f;
    if (lane_exists && n < p.d_state) {
      A2[s] = scan_rate(p, d, n);
      if (!kChunked && p.h0 != nullptr) {
        h[s] = p.h0[at.sequence * p.h0_stride[0] + d * p.h0_stride[1] + n * p.h0_stride[2]];
      }
    }
  }

  const index_t tiles = (at.tokens + kTile - 1) / kTile;
  const index_t first_tile = (at.sequence * p.chunks + at.chunk) * q.chunk_tiles;
  ScanElements<Shape, T> x, dt, dy, z;
  x.cursor = {origin(p.x, p.x_stride, at.channel0, 0), p.x_stride};
  dt.cursor = {origin(p.dt, p.dt_stride, at.channel0, 0), p.dt_stride};
  if (kChunked) dy.cursor = {origin(q.dy, q.dy_stride, at.channel0, 0), q.dy_stride};
  if (kChunked) z.cursor = {origin(p.z, p.z_stride, at.channel0, 0), p.z_stride};
  ScanCoefficients<Shape, T> coefficients(p, origin(p.B, p.B_stride, at.group, 0),
                                          origin(p.C, p.C_stride, at.group, 0));
  const auto fetch = [&](index_t tile) {
    const int left = at.tokens - static_cast<int>(tile) * kTile;
    x.load(left, exists, 1);
    dt.load(left, exists, 1);
    coefficients.load(left, p.d_state, 1);
    if constexpr (kChunked) {
      dy.load(left, exists, 1);
      if (gated) z.load(left, exists, 1);
    }
  };
  float delta_sum = 0.0f;   // of the lane's channel, before this tile
  float delta_rest = 0.0f;  // what the sum rounds away
  if (tiles > 0) fetch(0);
  for (index_t tile = 0; tile < tiles; ++tile) {
#pragma unroll
    for (int i = 0; i < Shape::kElements; ++i) {
      const int token = token0 + i * kTokenStep;
      float delta = load_float(dt.v[i]) + bias;
      if (p.delta_softplus) delta = softplus_fast(delta);
      if (tile * kTile + token >= at.tokens) delta = 0.0f;
      s_delta[channel * kRow + token] = delta;
      s_input[channel * kRow + token] = delta * load_float(x.v[i]);
      if constexpr (kChunked) {
        float e = load_float(dy.v[i]);
        if (gated) e *= silu_fast(load_float(z.v[i]));
        s_e[channel * kRow + token] = e;
      }
    }
    coefficients.store(s_B);
    __syncthreads();
    if (tile + 1 < tiles) fetch(tile + 1);

    const index_t tile_row = (first_tile + tile) * p.channels + at.channel0;
    if (lane_exists) {
      Floats<kStates> held;
#pragma unroll
      for (int s = 0; s < kStates; ++s) held.v[s] = h[s];
      reinterpret_cast<Floats<kStates>*>(
          q.tile_state + tile_row * Shape::kPadded)[lane_channel * kLanes + j] = held;
      if (kChunked && j == 0) q.tile_delta[tile_row + lane_channel] = delta_sum;
    }
#pragma unroll
    for (int t0 = 0; t0 < kTile; t0 += 4) {
      float delta[4], input[4], e[4];
      load_tokens(s_delta + lane_channel * kRow + t0, delta);
      load_tokens(s_input + lane_channel * kRow + t0, input);
      if constexpr (kChunked) load_tokens(s_e + lane_channel * kRow + t0, e);
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        float b[4], c[4];
        const int from = coefficient_at<Shape>(j + kLanes * s, t0);
        load_tokens(s_B + from, b);
        if constexpr (kChunked) load_tokens(s_B + Shape::kPadded * kTile + from, c);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float a = exp2_fast(delta[i] * A2[s]);
          h[s] = fmaf(a, h[s], input[i] * b[i]);
          if constexpr (kChunked) {
            product[s] *= a;
            gradient[s] = fmaf(product[s], e[i] * c[i], gradient[s]);
          }
        }
      }
      if constexpr (kChunked) {
        const float term = ((delta[0] + delta[1]) + (delta[2] + delta[3])) - delta_rest;
        const float sum = delta_sum + term;
        delta_rest = (sum - delta_sum) - term;
        delta_sum = sum;
      }
    }
    __syncthreads();
  }
  if (!kChunked || !lane_exists) return;
  const index_t chunk_row = at.sequence * p.chunks + at.chunk;
#pragma unroll
  for (int s = 0; s < kStates; ++s) {
    const int n = j + kLanes * s;
    if (n >= p.d_state) continue;
    const index_t to = (chunk_row * p.d_state + n) * p.channels + d;
    q.chunk_state[to] = h[s];
    q.chunk_gradient[to] = gradient[s];
  }
  if (j == 0) q.chunk_delta[chunk_row * p.channels + d] = delta_sum;
}

// From what each chunk makes of a zero state and of a zero gradient to what enters it:
//   H_0 = h0,       H_{c+1} = exp(A sum of delta over c) H_c + end_c
//   G_last = dh_last,   G_{c-1} = exp(A sum of delta over c) G_c + begin_c
// One thread per channel and state, neighbouring threads on neighbouring channels.
template <class T>
__global__ void __launch_bounds__(128)
    scan_backward_carry_kernel(const ScanBackwardTileParams<T> q) {
  const ScanTileParams<T>& p = q.forward;
  const index_t d = static_cast<index_t>(blockIdx.x) * 128 + threadIdx.x;
  if (d >= p.channels) return;
  const index_t n = blockIdx.y;
  const float A2 = scan_rate(p, d, n);
  const index_t next = static_cast<index_t>(p.d_state) * p.channels;
  constexpr int kAhead = 8;  // loads in flight: the chain itself is one instruction per chunk
  for (index_t sequence = blockIdx.z; sequence < p.sequences; sequence += gridDim.z) {
    const index_t first = (sequence * p.chunks * p.d_state + n) * p.channels + d;
    float* const state = q.chunk_state + first;
    float* const gradient = q.chunk_gradient + first;
    const float* const delta = q.chunk_delta + sequence * p.chunks * p.channels + d;
    float h = p.h0 == nullptr
                  ? 0.0f
                  : p.h0[sequence * p.h0_stride[0] + d * p.h0_stride[1] + n * p.h0_stride[2]];
    for (int c0 = 0; c0 < p.chunks; c0 += kAhead) {
      float end[kAhead], decay[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (c0 + i >= p.chunks) continue;
        end[i] = state[(c0 + i) * next];
        decay[i] = exp2_fast(A2 * delta[(c0 + i) * p.channels]);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (c0 + i >= p.chunks) continue;
        state[(c0 + i) * next] = h;
        h = fmaf(decay[i], h, end[i]);
      }
    }
    float g = q.dh_last == nullptr ? 0.0f
                                   : q.dh_last[sequence * q.dh_last_stride[0] +
                                               d * q.dh_last_stride[1] + n * q.dh_last_stride[2]];
    for (int c0 = p.chunks - 1; c0 >= 0; c0 -= kAhead) {
      float begin[kAhead], decay[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (c0 < i) continue;
        begin[i] = gradient[(c0 - i) * next];
        decay[i] = exp2_fast(A2 * delta[(c0 - i) * p.channels]);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (c0 < i) continue;
        gradient[(c0 - i) * next] = g;
        g = fmaf(decay[i], g, begin[i]);
      }
    }
  }
}

// The backward sweep.
template <class T, int kLanes, int kStates, bool kChunked>
__global__ void __launch_bounds__(128, 3)
    scan_backward_tile_kernel(const ScanBackwardTileParams<T> q) {
  using Shape = ScanBackwardShape<kLanes, kStates>;
  constexpr int kRow = Shape::kRow;
  constexpr int kTile = Shape::kTile;
  constexpr int kElements = Shape::kElements;
  constexpr int kSlots = Shape::kSlots;
  constexpr int kPadded = Shape::kPadded;
  constexpr int kBlockChannels = Shape::kBlockChannels;
  constexpr int kTokenStep = Shape::kTokenStep;
  constexpr int kRows = kBlockChannels * kRow;
  constexpr int kThreads = Shape::kThreads;
  constexpr int kKept = kElements * kThreads;
  const ScanTileParams<T>& p = q.forward;
  // delta, delta x, e; C h, g B and g A a h summed over the states; what a thread keeps of its
  // elements until the end of the tile, as registers are short: x, d delta / d dt, silu(z),
  // dy silu'(z); B and C; shares of dB and dC.
  __shared__ float4
      memory[(6 * kRows + 4 * kKept + 2 * kPadded * kTile + Shape::kWarps * kTile * 2 * kPadded) /
             4];
  float* const s_delta = reinterpret_cast<float*>(memory);
  float* const s_input = s_delta + kRows;
  float* const s_e = s_input + kRows;
  float* const s_y = s_e + kRows;
  float* const s_gB = s_y + kRows;
  float* const s_gA = s_gB + kRows;
  float* const s_x = s_gA + kRows;
  float* const s_slope = s_x + kKept;
  float* const s_gate = s_slope + kKept;
  float* const s_dz = s_gate + kKept;
  float* const s_B = s_dz + kKept;
  float* const s_share = s_B + 2 * kPadded * kTile;  // (warps, tokens, B before C, states)

  const ScanBackwardPlace at = scan_backward_place<Shape>(p);
  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid / 32;
  const int lane = tid % 32;
  const int slot = lane % kSlots;
  const int j = lane / kSlots;
  const int lane_channel = warp * kSlots + slot;
  const bool lane_exists = lane_channel < at.channels;
  const index_t lane_d = at.channel0 + lane_channel;
  const int channel = tid % kBlockChannels;
  const int token0 = tid / kBlockChannels;
  const bool exists = channel < at.channels;
  const index_t d = at.channel0 + channel;

  // The block's first channel (state 0 of the group for B and C) at token t of the chunk.
  const auto origin = [&](auto* data, const auto& stride, index_t third, index_t t) {
    return data == nullptr
               ? data
               : data + at.row * stride[0] + (at.first + t) * stride[1] + third * stride[2];
  };
  const bool gated = p.z != nullptr;
  const float bias = exists && p.dt_bias != nullptr ? p.dt_bias[d * p.dt_bias_stride] : 0.0f;
  const float D = exists && p.D != nullptr ? p.D[d * p.D_stride] : 0.0f;
  const index_t chunk_row = at.sequence * p.chunks + at.chunk;
  const index_t groups = p.channels / p.group_channels;

  float A2[kStates], g[kStates], dA[kStates], entering[kStates];
#pragma unroll
  for (int s = 0; s < kStates; ++s) {
    const int n = state_of<Shape>(j, slot, s);
    A2[s] = g[s] = dA[s] = entering[s] = 0.0f;
    if (!lane_exists || n >= p.d_state) continue;
    A2[s] = scan_rate(p, lane_d, n);
    if constexpr (kChunked) {
      const index_t from = (chunk_row * p.d_state + n) * p.channels + lane_d;
      entering[s] = q.chunk_state[from];
      g[s] = q.chunk_gradient[from];
    } else if (q.dh_last != nullptr) {
      g[s] = q.dh_last[at.sequence * q.dh_last_stride[0] + lane_d * q.dh_last_stride[1] +
                       n * q.dh_last_stride[2]];
    }
  }

  const index_t tiles = (at.tokens + kTile - 1) / kTile;
  const index_t first_tile = chunk_row * q.chunk_tiles;
  // Everything starts at the last tile and moves backwards.
  const index_t last = (tiles > 0 ? tiles - 1 : 0) * kTile;
  ScanElements<Shape, T> x, dt, dy, z;
  x.cursor = {origin(p.x, p.x_stride, at.channel0, last), p.x_stride};
  dt.cursor = {origin(p.dt, p.dt_stride, at.channel0, last), p.dt_stride};
  dy.cursor = {origin(q.dy, q.dy_stride, at.channel0, last), q.dy_stride};
  z.cursor = {origin(p.z, p.z_stride, at.channel0, last), p.z_stride};
  ScanCoefficients<Shape, T> coefficients(p, origin(p.B, p.B_stride, at.group, last),
                                          origin(p.C, p.C_stride, at.group, last));
  const auto output = [&](const GradientRow<T>& row) {
    return TileCursor<Shape, T>(origin(row.data, row.stride, at.channel0, last), row.stride);
  };
  TileCursor<Shape, T> dx_to = output(q.dx);
  TileCursor<Shape, T> ddt_to = output(q.ddt);
  TileCursor<Shape, T> dz_to = output(q.dz);
  TileCursor<Shape, T> y_to(origin(p.y, p.y_stride, at.channel0, last), p.y_stride);
  // The shares of dB and dC: neighbouring threads take neighbouring states, B before C, then
  // tokens.
  constexpr int kShares = (2 * kTile * kPadded + Shape::kThreads - 1) / Shape::kThreads;
  constexpr int kShareTokens = Shape::kThreads / (2 * kPadded);  // between a thread's shares
  const int share_state = tid % kPadded;
  const int share_token = tid / (2 * kPadded);
  float* share_to = tid / kPadded % 2 == 0 ? q.shares.dB : q.shares.dC;
  const index_t share_step = (p.reverse ? -1 : 1) * groups * p.d_state;
  if (share_state >= p.d_state) share_to = nullptr;
  if (share_to != nullptr) {
    share_to +=
        (((at.slice * q.batch + at.row) * p.length + at.position) * groups + at.group) * p.d_state +
        (last + share_token) * share_step + share_state;
  }
  float state[kStates];  // before the tile
  float delta_before = 0.0f;
  const auto fetch = [&](index_t tile) {
    const int left = at.tokens - static_cast<int>(tile) * kTile;
    x.load(left, exists, -1);
    dt.load(left, exists, -1);
    dy.load(left, exists, -1);
    if (gated) z.load(left, exists, -1);
    coefficients.load(left, p.d_state, -1);
  };
  const auto fetch_state = [&](index_t tile) {
    const index_t tile_row = (first_tile + tile) * p.channels + at.channel0;
    if (lane_exists) {
      const Floats<kStates> held = reinterpret_cast<const Floats<kStates>*>(
          q.tile_state + tile_row * kPadded)[lane_channel * kLanes + j];
#pragma unroll
      for (int s = 0; s < kStates; ++s) state[s] = held.v[s];
      if constexpr (kChunked) delta_before = q.tile_delta[tile_row + lane_channel];
    }
  };
#pragma unroll
  for (int s = 0; s < kStates; ++s) state[s] = 0.0f;

  float dD = 0.0f;
  float dbias = 0.0f;
  const auto prepare = [&](index_t tile) {
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      const int token = token0 + i * kTokenStep;
      const int to = channel * kRow + token;
      const int kept = i * kThreads + tid;
      const float biased = load_float(dt.v[i]) + bias;
      const float x_value = load_float(x.v[i]);
      float delta = biased;
      float slope = 1.0f;
      if (p.delta_softplus) {
        delta = softplus_fast(biased);
        slope = sigmoid_fast(biased);
      }
      float e = load_float(dy.v[i]);
      if (gated) {
        const float z_value = load_float(z.v[i]);
        const float sigma = sigmoid_fast(z_value);
        s_gate[kept] = z_value * sigma;
        s_dz[kept] = e * sigma * fmaf(z_value, 1.0f - sigma, 1.0f);
        e *= z_value * sigma;
      }
      if (tile * kTile + token >= at.tokens) delta = 0.0f;
      s_x[kept] = x_value;
      s_slope[kept] = slope;
      s_delta[to] = delta;
      s_input[to] = delta * x_value;
      s_e[to] = e;
    }
    coefficients.store(s_B);
  };

  if (tiles > 0) {
    fetch(tiles - 1);
    fetch_state(tiles - 1);
    prepare(tiles - 1);
  }
  __syncthreads();
  for (index_t tile = tiles - 1; tile >= 0; --tile) {
    if (tile > 0) fetch(tile - 1);
    reorder_states<Shape>(state, slot);  // not where they are loaded: that would wait for them
    float h[kStates];
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      h[s] = kChunked ? fmaf(exp2_fast(A2[s] * delta_before), entering[s], state[s]) : state[s];
    }
    if (tile > 0) fetch_state(tile - 1);

    float decayed[kTile][kStates];  // a_t h_{t-1}
    {
      float y[kTile];
#pragma unroll
      for (int t0 = 0; t0 < kTile; t0 += 4) {
        float delta[4], input[4];
        load_tokens(s_delta + lane_channel * kRow + t0, delta);
        load_tokens(s_input + lane_channel * kRow + t0, input);
#pragma unroll
        for (int s = 0; s < kStates; ++s) {
          float b[4], c[4];
          const int from = coefficient_at<Shape>(state_of<Shape>(j, slot, s), t0);
          load_tokens(s_B + from, b);
          load_tokens(s_B + kPadded * kTile + from, c);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int t = t0 + i;
            decayed[t][s] = exp2_fast(delta[i] * A2[s]) * h[s];
            h[s] = fmaf(input[i], b[i], decayed[t][s]);
            y[t] = s == 0 ? h[s] * c[i] : fmaf(h[s], c[i], y[t]);
          }
        }
      }
      transpose_sum<kLanes, kTile>(y, j);
#pragma unroll
      for (int t = 0; t < kTile; t += kLanes) s_y[lane_channel * kRow + t + j] = y[t];
    }
    {
      constexpr int kGroup = 4;
      float gB[kTile], gA[kTile];
#pragma unroll
      for (int t0 = kTile - kGroup; t0 >= 0; t0 -= kGroup) {
        float delta[kGroup], input[kGroup], e[kGroup], b[kStates][kGroup], c[kStates][kGroup];
        load_tokens(s_delta + lane_channel * kRow + t0, delta);
        load_tokens(s_input + lane_channel * kRow + t0, input);
        load_tokens(s_e + lane_channel * kRow + t0, e);
#pragma unroll
        for (int s = 0; s < kStates; ++s) {
          const int from = coefficient_at<Shape>(state_of<Shape>(j, slot, s), t0);
          load_tokens(s_B + from, b[s]);
          load_tokens(s_B + kPadded * kTile + from, c[s]);
        }
#pragma unroll
        for (int i = kGroup - 1; i >= 0; --i) {
          const int t = t0 + i;
          float dB[kStates], dC[kStates];
#pragma unroll
          for (int s = 0; s < kStates; ++s) {
            g[s] = fmaf(e[i], c[s][i], g[s]);
            const float by_A = g[s] * decayed[t][s];
            gB[t] = s == 0 ? g[s] * b[s][i] : fmaf(g[s], b[s][i], gB[t]);
            gA[t] = s == 0 ? A2[s] * by_A : fmaf(A2[s], by_A, gA[t]);
            dA[s] = fmaf(delta[i], by_A, dA[s]);
            dB[s] = g[s] * input[i];
            dC[s] = e[i] * fmaf(input[i], b[s][i], decayed[t][s]);
            g[s] *= exp2_fast(delta[i] * A2[s]);
          }
          state_sums<Shape>(dB, dC, slot);
          float* const to =
              s_share + (warp * kTile + t) * 2 * kPadded + state_of<Shape>(j, slot, 0);
          if constexpr (kSlots == kStates) {
            to[0] = dB[0];
            to[kPadded] = dC[0];
          } else if (slot < 2 * kStates) {
            to[(slot & kStates) != 0 ? kPadded : 0] = dB[0];
          }
        }
      }
      transpose_sum<kLanes, kTile>(gB, j);
      transpose_sum<kLanes, kTile>(gA, j);
#pragma unroll
      for (int t = 0; t < kTile; t += kLanes) {
        s_gB[lane_channel * kRow + t + j] = gB[t];
        s_gA[lane_channel * kRow + t + j] = gA[t];
      }
    }
    __syncthreads();

    const int left = at.tokens - static_cast<int>(tile) * kTile;
#pragma unroll
    for (int i = 0; i < kElements; ++i) {
      const int token = token0 + i * kTokenStep;
      if (!exists || token >= left) continue;
      const int from = channel * kRow + token;
      const int kept = i * kThreads + tid;
      const float x_value = s_x[kept];
      const float e = s_e[from];
      const float sum_y = fmaf(D, x_value, s_y[from]);
      const float sum_gB = s_gB[from];
      const float dx = fmaf(D, e, s_delta[from] * sum_gB);
      const float ddt = fmaf(x_value, sum_gB, s_gA[from] * kLn2) * s_slope[kept];
      dD = fmaf(e, x_value, dD);
      dbias += ddt;
      const auto store = [&](const TileCursor<Shape, T>& to, float value) {
        if (to.at != nullptr) store_gradient(to.at + i * to.token_step, value, q.accumulate);
      };
      store(dx_to, dx);
      store(ddt_to, ddt);
      if (gated) store(dz_to, s_dz[kept] * sum_y);
      if (y_to.at != nullptr) {
        y_to.at[i * y_to.token_step] = store_as<T>(gated ? sum_y * s_gate[kept] : sum_y);
      }
    }
    for (TileCursor<Shape, T>* const to : {&dx_to, &ddt_to, &dz_to, &y_to}) {
      if (to->at != nullptr) to->move(-1);
    }
    if (share_to != nullptr) {
#pragma unroll
      for (int i = 0; i < kShares; ++i) {
        const int token = share_token + i * kShareTokens;
        if (token >= left || token >= kTile) continue;
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < Shape::kWarps; ++w) {
          sum += s_share[w * kTile * 2 * kPadded + tid + i * Shape::kThreads];
        }
        share_to[i * kShareTokens * share_step] = sum;
      }
      share_to -= kTile * share_step;
    }
    if (tile > 0) prepare(tile - 1);
    __syncthreads();
  }

#pragma unroll
  for (int s = 0; s < kStates; ++s) {
    const int n = state_of<Shape>(j, slot, s);
    if (!lane_exists || n >= p.d_state) continue;
    if (q.shares.dA != nullptr) {
      q.shares.dA[(chunk_row * p.channels + lane_d) * p.d_state + n] = dA[s];
    }
    if (at.chunk == 0 && q.dh0.data != nullptr) {
      store_sum(q.dh0.data + at.sequence * q.dh0.stride[0] + lane_d * q.dh0.stride[1] +
                    n * q.dh0.stride[2],
                g[s], q.accumulate);
    }
  }
  // Per channel: the threads' sums in the order of their tokens.
  s_delta[tid] = dD;
  s_delta[Shape::kThreads + tid] = dbias;
  __syncthreads();
  if (tid < at.channels) {
    float sum_D = 0.0f;
    float sum_bias = 0.0f;
    for (int i = tid; i < Shape::kThreads; i += kBlockChannels) {
      sum_D += s_delta[i];
      sum_bias += s_delta[Shape::kThreads + i];
    }
    const index_t to = chunk_row * p.channels + at.channel0 + tid;
    if (q.shares.dD != nullptr) q.shares.dD[to] = sum_D;
    if (q.shares.dbias != nullptr) q.shares.dbias[to] = sum_bias;
  }
}

}  // namespace detail
SSM_NAMESPACE_END
