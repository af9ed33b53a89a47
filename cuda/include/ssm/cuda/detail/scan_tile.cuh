#pragma once

#include <cfloat>
#include <cstdint>

#include "ssm/cuda/detail/async_copy.cuh"
#include "ssm/cuda/detail/dependent_launch.cuh"
#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/detail/elements.cuh"
#include "ssm/cuda/detail/scan_chunk_end.cuh"
#include "ssm/ops/selective_scan.hpp"

// The fused selective scan for real float systems with delta B (Euler) inputs.
//
// A block owns kBlockChannels channels of one sequence (or of one chunk of it) and walks along
// the tokens in tiles. A channel's states are spread over kLanes lanes, kStates registers each, and
// a lane carries kChannels channels: lane j holds the states n = j, j + kLanes, …. Per tile:
//
//   P  the block computes delta = softplus(dt + bias) and delta x once per element and lays them
//      out in shared memory with tokens contiguous, beside B and C in float;
//   M  each lane walks the tokens: h <- 2^(delta A log2 e) h + (delta x) B, p = sum_s C h; the
//      partial sums of kLanes tokens are added over the lanes by a transposing butterfly, after
//      which lane j holds y of token j, which takes the place of delta in shared memory;
//   E  y + D x, the gate, and the store, by the thread that did P for the same elements.
//
// Inputs come through asynchronous copies of 16 bytes into raw tiles that land behind M, so no
// register waits for memory. E of one tile and P of the next are one stretch of code between two
// barriers, so that their chains of instructions interleave. Tokens past the end get delta = 0 and
// leave the state as it is, so a length that no tile divides costs nothing extra.

SSM_NAMESPACE_BEGIN
namespace detail {

// Strides in elements, in the order of the view's dimensions. Pointers to what is absent are null.
// H is how h0 and h_last are stored: not in float in decoding steps only.
template <class T, class H = float>
struct ScanTileParams {
  const T* x;
  const T* dt;
  const T* z;
  T* y;
  const T* B;
  const T* C;
  const float* A;
  const float* D;
  const float* dt_bias;
  const H* h0;  // null: zero
  H* h_last;    // null: not wanted
  const index_t* lengths;
  const index_t* starts;
  // Batch, length, channels; batch, length, groups, states. Length strides point along the scan:
  // negated if it runs in reverse.
  Extents<3> x_stride, dt_stride, z_stride, y_stride;
  Extents<4> B_stride, C_stride;
  Extents<2> A_stride;                  // channels, states
  Extents<3> h0_stride, h_last_stride;  // sequences, channels, states
  index_t D_stride, dt_bias_stride, lengths_stride, starts_stride;
  index_t length;          // extent of the token dimension
  index_t group_channels;  // channels per group
  index_t chunk_length;    // tokens per chunk, a multiple of 32, at most 2^30
  float* carry_state;      // (sequences, chunks, d_state, channels): see scan_carry_kernel
  float* carry_delta;      // (sequences, chunks, channels)
  index_t channels;
  index_t sequences;
  int d_state;
  int chunks;
  unsigned blocks_per_group, channel_blocks;
  bool delta_softplus, reverse;
  bool coefficient_vectors;  // B and C can be copied 16 bytes at a time
};

// How a block moves x, dt, z and y.
enum class ScanLayout {
  channel_vectors,  // channels contiguous (B, L, D): 16 bytes of neighbouring channels at a time
  token_vectors,    // tokens contiguous (B, D, L), forwards: 16 bytes of neighbouring tokens, from
                    // the 16-byte boundary before a channel's first token on
  elements,         // anything else, one element at a time
};

template <class T, int kLanes, int kChannels, int kStates, int kTile, int kThreads>
struct ScanTileShape {
  static constexpr int kSlots = 32 / kLanes;  // channels that start in a warp
  static constexpr int kWarpChannels = kChannels * kSlots;
  static constexpr int kBlockChannels = kThreads / 32 * kWarpChannels;
  static constexpr int kPadded = kLanes * kStates;  // states, rounded up
  // Four floats of padding put the rows of eight neighbouring channels or states in different banks
  // and keep 16-byte alignment.
  static constexpr int kRow = kTile + 4;
  static constexpr int kWindow = kLanes > 4 ? kLanes : 4;  // tokens per butterfly
  // Per tile and thread: groups of four tokens of a channel in P and E, copies, single elements.
  static constexpr int kTileElements = kBlockChannels * kTile;
  static constexpr int kUnits = (kTileElements / 4 + kThreads - 1) / kThreads;
  // Neighbouring channels that a thread takes together where channels are contiguous.
  static constexpr int kPair = kUnits % 2 == 0 ? 2 : 1;
  static constexpr int kVector = 16 / static_cast<int>(sizeof(T));  // elements per copy
  // Elements of a raw tile: a row of tokens may begin anywhere in its first vector.
  static constexpr int kRawTile = kBlockChannels * (kTile + kVector);
  static constexpr int kElements = (kTileElements + kThreads - 1) / kThreads;
  static_assert(kTile % kWindow == 0 && kTile % kVector == 0, "a tile is whole windows");
  static_assert(kBlockChannels % kVector == 0, "a token's channels are whole copies");

  // delta, delta x, B and C in float, and raw dt, x, z, B and C.
  static constexpr int kFloats = kRow * (2 * kBlockChannels + 2 * kPadded);
  static constexpr int kRaw = 3 * kRawTile + 2 * kTile * kPadded;
  static constexpr std::size_t kSharedBytes = sizeof(float) * kFloats + sizeof(T) * kRaw;

  // The carry pass: delta, delta x, B and the rates in float, and twice raw dt, x and B.
  static constexpr int kCarryFloats =
      kRow * (2 * kBlockChannels + kPadded) + kBlockChannels * kPadded;
  static constexpr int kCarryRaw = 2 * kRawTile + kTile * kPadded;
  static constexpr std::size_t kCarrySharedBytes =
      sizeof(float) * kCarryFloats + sizeof(T) * 2 * kCarryRaw;
};

// kCount neighbouring elements, widened.
template <int kCount>
__device__ __forceinline__ void load_floats(const float* from, float (&to)[kCount]) {
  if constexpr (kCount == 2) {
    const float2 v = *reinterpret_cast<const float2*>(from);
    to[0] = v.x;
    to[1] = v.y;
  } else {
    to[0] = *from;
  }
}
template <int kCount>
__device__ __forceinline__ void load_floats(const bf16* from, float (&to)[kCount]) {
  if constexpr (kCount == 2) {
    const unsigned v = *reinterpret_cast<const unsigned*>(from);
    to[0] = __uint_as_float(v << 16);
    to[1] = __uint_as_float(v & 0xffff0000u);
  } else {
    to[0] = load_float(*from);
  }
}
template <int kCount>
__device__ __forceinline__ void load_floats(const f16* from, float (&to)[kCount]) {
  if constexpr (kCount == 2) {
    const float2 v = __half22float2(*reinterpret_cast<const __half2*>(from));
    to[0] = v.x;
    to[1] = v.y;
  } else {
    to[0] = load_float(*from);
  }
}

// After it, v[w kLanes] of lane j is the sum over the lanes of their v[w kLanes + j]. One stage
// halves the values a lane holds: it keeps those whose token has lane j's bit and sends the others.
// (A recursion, because the compiler does not unroll a loop over stages.)
template <int kLanes, int kWindow, int kBit = kLanes / 2>
__device__ __forceinline__ void transpose_sum(float (&v)[kWindow], int j) {
  if constexpr (kBit >= 1) {
    const bool upper = (j & kBit) != 0;
#pragma unroll
    for (int w = 0; w < kWindow; w += kLanes) {
#pragma unroll
      for (int r = 0; r < kBit; ++r) {
        const float low = v[w + r];
        const float high = v[w + r + kBit];
        const float keep = upper ? high : low;
        const float send = upper ? low : high;
        v[w + r] = keep + __shfl_xor_sync(0xffffffffu, send, kBit * (32 / kLanes));
      }
    }
    transpose_sum<kLanes, kWindow, kBit / 2>(v, j);
  }
}

// A log2 e; the clamp keeps 0 * A finite for tokens past the end when A is -infinity.
template <class Params>
__device__ __forceinline__ float scan_rate(const Params& p, index_t d, index_t n) {
  const float rate = p.A[d * p.A_stride[0] + n * p.A_stride[1]] * kLog2e;
  return rate < -FLT_MAX ? -FLT_MAX : rate;
}

// kCarry: computes only each chunk's end state from a zero start and its sum of delta
// (scan_chunk_end.cuh), from the last tile to the first.
template <class T, int kLanes, int kChannels, int kStates, int kTile, int kThreads,
          ScanLayout kLayout, bool kCarry>
// Sixteen warps to a multiprocessor, so at most 128 registers.
__global__ void __launch_bounds__(kThreads, 512 / kThreads)
    scan_tile_kernel(const ScanTileParams<T> p) {
  using Shape = ScanTileShape<T, kLanes, kChannels, kStates, kTile, kThreads>;
  constexpr int kRow = Shape::kRow;
  constexpr int kUnits = Shape::kUnits;
  constexpr int kPadded = Shape::kPadded;
  constexpr int kSlots = Shape::kSlots;
  constexpr int kVector = Shape::kVector;
  constexpr int kBlockChannels = Shape::kBlockChannels;
  constexpr int kRows = kBlockChannels * kRow;
  constexpr int kRawTile = Shape::kRawTile;
  // A row of a raw tile is a channel's tokens, or else a token's channels.
  constexpr bool kTokenRows = kLayout == ScanLayout::token_vectors;
  constexpr bool kVectors = kLayout != ScanLayout::elements;
  constexpr int kRawRow = kTokenRows ? kTile + kVector : kBlockChannels;
  constexpr int kRawRows = kTokenRows ? kBlockChannels : kTile;
  constexpr int kCopies = (kRawRows * (kRawRow / kVector) + kThreads - 1) / kThreads;
  extern __shared__ float4 shared_memory[];

  const int tid = static_cast<int>(threadIdx.x);
  float* const s_delta = reinterpret_cast<float*>(shared_memory);  // y takes its place
  float* const s_input = s_delta + kRows;
  float* const s_B = s_input + kRows;
  float* const s_C = s_B + kPadded * kRow;
  T* const raw_dt =
      reinterpret_cast<T*>(s_C + kPadded * (kCarry ? kBlockChannels : kRow));  // else the rates
  T* const raw_x = raw_dt + kRawTile;
  T* const raw_z = raw_x + kRawTile;
  T* const raw_B = kCarry ? raw_z : raw_z + kRawTile;  // then C
  const auto raw_stage = [](int tile) { return kCarry ? tile % 2 * Shape::kCarryRaw : 0; };

  // Which channels, which sequence, which tokens.
  const unsigned channel_block = blockIdx.x % p.channel_blocks;
  const unsigned outer = blockIdx.x / p.channel_blocks;
  // The carry pass leaves out the last chunk, whose end state nothing follows.
  const unsigned launched_chunks = static_cast<unsigned>(kCarry ? p.chunks - 1 : p.chunks);
  const index_t chunk = outer % launched_chunks;
  const index_t sequence = outer / launched_chunks;
  const index_t group = channel_block / p.blocks_per_group;
  const index_t in_group =
      static_cast<index_t>(channel_block % p.blocks_per_group) * kBlockChannels;
  const index_t channel0 = group * p.group_channels + in_group;
  const index_t group_left = p.group_channels - in_group;
  const int channels = group_left < kBlockChannels ? static_cast<int>(group_left) : kBlockChannels;

  index_t row = sequence;
  index_t begin = 0;
  index_t total = p.length;
  if (p.starts != nullptr) {
    row = 0;
    begin = p.starts[sequence * p.starts_stride];
    total = p.starts[(sequence + 1) * p.starts_stride] - begin;
  } else if (p.lengths != nullptr) {
    total = p.lengths[sequence * p.lengths_stride];
  }
  const index_t chunk_begin = chunk * p.chunk_length;
  const index_t rest = total - chunk_begin;
  const int tokens =
      static_cast<int>(rest < 0 ? 0 : (rest > p.chunk_length ? p.chunk_length : rest));
  // In units of the length strides, which point along the scan.
  const index_t first = p.reverse ? -(begin + total - 1 - chunk_begin) : begin + chunk_begin;
  const int tiles = (tokens + kTile - 1) / kTile;
  // Tokens of a tile, at most kTile.
  const auto tile_size = [&](int tile) {
    const int left = tokens - tile * kTile;
    return left < kTile ? left : kTile;
  };
  const int first_tile = kCarry && tiles > 0 ? tiles - 1 : 0;
  constexpr int kNextTile = kCarry ? -1 : 1;

  // The first token, at channel0 (at state 0 of the group for B and C).
  const auto origin = [&](const T* data, const Extents<3>& stride) {
    return data + row * stride[0] + first * stride[1] + channel0 * stride[2];
  };
  const T* const x0 = origin(p.x, p.x_stride);
  const T* const dt0 = origin(p.dt, p.dt_stride);
  const bool gated = p.z != nullptr;
  const T* const z0 = gated ? origin(p.z, p.z_stride) : x0;
  const T* const B0 = p.B + row * p.B_stride[0] + first * p.B_stride[1] + group * p.B_stride[2];
  const T* const C0 = p.C + row * p.C_stride[0] + first * p.C_stride[1] + group * p.C_stride[2];

  // Where a channel's first token lies in the row of tokens that begins at a 16-byte boundary.
  const auto token_shift = [&](const T* data, const Extents<3>& stride, int channel) {
    if constexpr (kTokenRows) {
      const auto at = reinterpret_cast<std::uintptr_t>(data + channel * stride[2]) / sizeof(T);
      return static_cast<int>(at % kVector);
    } else {
      return 0;
    }
  };

  // This thread's 16 bytes of each raw tile of x, dt and z.
  int copy_row[kCopies] = {}, copy_column[kCopies] = {}, copy_to[kCopies] = {};
  const T* x_from[kCopies];
  const T* dt_from[kCopies];
  const T* z_from[kCopies];
  if constexpr (kVectors) {
#pragma unroll
    for (int c = 0; c < kCopies; ++c) {
      constexpr int kRowVectors = kRawRow / kVector;
      const int index = tid + c * kThreads;
      copy_row[c] = index / kRowVectors;
      copy_column[c] = index % kRowVectors * kVector;
      copy_to[c] = copy_row[c] * kRawRow + copy_column[c];
      const index_t token = kTokenRows ? copy_column[c] : copy_row[c];
      const int channel = kTokenRows ? copy_row[c] : copy_column[c];
      const auto from = [&](const T* data, const Extents<3>& stride) {
        return data + (static_cast<index_t>(first_tile) * kTile + token) * stride[1] +
               channel * stride[2] - token_shift(data, stride, channel);
      };
      x_from[c] = from(x0, p.x_stride);
      dt_from[c] = from(dt0, p.dt_stride);
      z_from[c] = from(z0, p.z_stride);
    }
  }

  const auto copy_elements = [&](const T* from, const Extents<3>& stride, T* to, int tile,
                                 int tile_tokens) {
    T held[Shape::kElements];
#pragma unroll
    for (int e = 0; e < Shape::kElements; ++e) {
      const int index = tid + e * kThreads;
      const int token = index / kBlockChannels;
      const int channel = index % kBlockChannels;
      held[e] = store_as<T>(0.0f);
      if (token < tile_tokens && channel < channels) {
        held[e] =
            from[(static_cast<index_t>(tile) * kTile + token) * stride[1] + channel * stride[2]];
      }
    }
#pragma unroll
    for (int e = 0; e < Shape::kElements; ++e) {
      const int index = tid + e * kThreads;
      if (index < Shape::kTileElements) to[index] = held[e];
    }
  };
  // B, then C unless only states are wanted.
  constexpr int kCoefficientRows = (kCarry ? 1 : 2) * kTile;
  constexpr int kRowVectors = kPadded / kVector > 0 ? kPadded / kVector : 1;
  constexpr int kCoefficientVectors = kCoefficientRows * kRowVectors;
  // The first copy's source is carried along; what a wide state needs beyond it is computed anew.
  const auto coefficient_source = [&](int index, index_t tile_begin) {
    const bool is_C = index >= kTile * kRowVectors;
    const int token = index / kRowVectors % kTile;
    const int n = index % kRowVectors * kVector;
    return (is_C ? C0 : B0) + (tile_begin + token) * (is_C ? p.C_stride[1] : p.B_stride[1]) + n;
  };
  const T* coefficient_from = coefficient_source(tid, static_cast<index_t>(first_tile) * kTile);
  const index_t coefficient_step =
      kNextTile * kTile * (tid >= kTile * kRowVectors ? p.C_stride[1] : p.B_stride[1]);
  const auto copy_coefficients = [&](int tile, int tile_tokens) {
    const index_t tile_begin = static_cast<index_t>(tile) * kTile;
    if (p.coefficient_vectors) {
#pragma unroll
      for (int i = 0; i < kCoefficientVectors; i += kThreads) {
        const int index = tid + i;
        if (index < kCoefficientVectors && index / kRowVectors % kTile < tile_tokens) {
          async_copy_16(raw_B + raw_stage(tile) + index * kVector,
                        i == 0 ? coefficient_from : coefficient_source(index, tile_begin), 16);
        }
      }
      coefficient_from += coefficient_step;
    } else {
#pragma unroll 1
      for (int index = tid; index < kCoefficientRows * kPadded; index += kThreads) {
        const int token = index / kPadded % kTile;
        const int n = index % kPadded;
        T value = store_as<T>(0.0f);
        if (token < tile_tokens && n < p.d_state) {
          const index_t t = tile_begin + token;
          value = index >= kTile * kPadded ? C0[t * p.C_stride[1] + n * p.C_stride[3]]
                                           : B0[t * p.B_stride[1] + n * p.B_stride[3]];
        }
        raw_B[raw_stage(tile) + index] = value;
      }
    }
  };
  // Copy c of a tile, as far as it lies within it. Channels come in whole vectors; the last tokens
  // of a token row may not.
  const auto copy_vector = [&](int c, const T* data, const Extents<3>& stride, const T*& from,
                               T* to, int tile_tokens) {
    const int row_end =
        kTokenRows ? tile_tokens + token_shift(data, stride, copy_row[c]) : channels;
    const int valid = row_end - copy_column[c];
    if (copy_row[c] < (kTokenRows ? channels : tile_tokens) && valid > 0) {
      async_copy_16(to + copy_to[c], from,
                    kTokenRows && valid < kVector ? valid * static_cast<int>(sizeof(T)) : 16);
    }
    from += kNextTile * kTile * stride[1];
  };
  // Both are called for each tile in turn.
  const auto copy_tile = [&](int tile) {
    const int tile_tokens = tile_size(tile);
    if constexpr (kVectors) {
#pragma unroll
      for (int c = 0; c < kCopies; ++c) {
        copy_vector(c, dt0, p.dt_stride, dt_from[c], raw_dt + raw_stage(tile), tile_tokens);
        copy_vector(c, x0, p.x_stride, x_from[c], raw_x + raw_stage(tile), tile_tokens);
      }
    } else {
      copy_elements(dt0, p.dt_stride, raw_dt + raw_stage(tile), tile, tile_tokens);
      copy_elements(x0, p.x_stride, raw_x + raw_stage(tile), tile, tile_tokens);
    }
    copy_coefficients(tile, tile_tokens);
  };
  const auto copy_gate = [&](int tile) {
    const int tile_tokens = tile_size(tile);
    if constexpr (kVectors) {
#pragma unroll
      for (int c = 0; c < kCopies; ++c) {
        copy_vector(c, z0, p.z_stride, z_from[c], raw_z, tile_tokens);
      }
    } else {
      copy_elements(z0, p.z_stride, raw_z, tile, tile_tokens);
    }
  };

  // P and E: this thread's groups of four tokens of kPair neighbouring channels; `exists` is false
  // for threads beyond the tile's groups, which repeat group 0 and store nothing.
  constexpr int kPair = kLayout == ScanLayout::channel_vectors ? Shape::kPair : 1;
  constexpr int kGroups = kUnits / kPair;
  constexpr int kBlockPairs = kBlockChannels / kPair;
  bool exists[kGroups];
  int unit_token[kGroups], unit_row[kGroups];
  int unit_dt[kGroups], unit_x[kGroups], unit_z[kGroups];  // in raw tiles
  float D[kGroups][kPair], bias[kGroups][kPair];
  T* y_at[kGroups];
  constexpr int kTokenStep = kTokenRows ? 1 : kBlockChannels;
  const int y_step = static_cast<int>(p.y_stride[1]);
#pragma unroll
  for (int u = 0; u < kGroups; ++u) {
    int index = tid + u * kThreads;
    exists[u] = index < kBlockPairs * (kTile / 4);
    if (!exists[u]) index = 0;
    const int channel = kPair * (kTokenRows ? index / (kTile / 4) : index % kBlockPairs);
    unit_token[u] = 4 * (kTokenRows ? index % (kTile / 4) : index / kBlockPairs);
    const int raw =
        kTokenRows ? channel * kRawRow + unit_token[u] : unit_token[u] * kRawRow + channel;
    unit_dt[u] = raw + token_shift(dt0, p.dt_stride, channel);
    unit_x[u] = raw + token_shift(x0, p.x_stride, channel);
    unit_z[u] = raw + token_shift(z0, p.z_stride, channel);
    unit_row[u] = channel * kRow + unit_token[u];
    const bool valid = exists[u] && channel < channels;
    const index_t d = channel0 + (valid ? channel : 0);
#pragma unroll
    for (int c = 0; c < kPair; ++c) {
      bias[u][c] = p.dt_bias == nullptr ? 0.0f : p.dt_bias[(d + c) * p.dt_bias_stride];
      D[u][c] = kCarry || p.D == nullptr ? 0.0f : p.D[(d + c) * p.D_stride];
    }
    y_at[u] =
        p.y + row * p.y_stride[0] + (first + unit_token[u]) * p.y_stride[1] + d * p.y_stride[2];
    if (!valid) y_at[u] = nullptr;
  }

  float x[kGroups][kPair][4];  // of the tile prepared last, for its D x
  const auto prepare = [&](int tile) {
    const int tile_tokens = tile_size(tile);
    float delta[kGroups][kPair][4];
#pragma unroll
    for (int u = 0; u < kGroups; ++u) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        float dt_value[kPair], x_value[kPair];
        load_floats(raw_dt + raw_stage(tile) + unit_dt[u] + k * kTokenStep, dt_value);
        load_floats(raw_x + raw_stage(tile) + unit_x[u] + k * kTokenStep, x_value);
#pragma unroll
        for (int c = 0; c < kPair; ++c) {
          delta[u][c][k] = dt_value[c] + bias[u][c];
          x[u][c][k] = x_value[c];
        }
      }
    }
    // Branches stand outside the loops, so that the elements' chains of instructions interleave.
    if (p.delta_softplus) {
#pragma unroll
      for (int u = 0; u < kGroups; ++u) {
#pragma unroll
        for (int c = 0; c < kPair; ++c) {
#pragma unroll
          for (int k = 0; k < 4; ++k) delta[u][c][k] = softplus_of<T>(delta[u][c][k]);
        }
      }
    }
    if (tile_tokens < kTile) {
#pragma unroll
      for (int u = 0; u < kGroups; ++u) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
#pragma unroll
          for (int c = 0; c < kPair; ++c) {
            if (unit_token[u] + k >= tile_tokens) delta[u][c][k] = x[u][c][k] = 0.0f;
          }
        }
      }
    }
#pragma unroll
    for (int u = 0; u < kGroups; ++u) {
#pragma unroll
      for (int c = 0; c < kPair; ++c) {
        const float(&dl)[4] = delta[u][c];
        if (exists[u]) {
          const int at = unit_row[u] + c * kRow;
          *reinterpret_cast<float4*>(s_delta + at) = make_float4(dl[0], dl[1], dl[2], dl[3]);
          *reinterpret_cast<float4*>(s_input + at) = make_float4(
              dl[0] * x[u][c][0], dl[1] * x[u][c][1], dl[2] * x[u][c][2], dl[3] * x[u][c][3]);
        }
      }
    }
    // B and C: four tokens of one state at a time; zero past the end, where the raw tile holds
    // anything.
    constexpr int kCoefficientGroups = kCoefficientRows / 4 * kPadded;
#pragma unroll
    for (int i = 0; i < kCoefficientGroups; i += kThreads) {
      const int index = tid + i;
      const int n = index % kPadded;
      const int token = 4 * (index / kPadded % (kTile / 4));
      const int which = index / (kPadded * (kTile / 4));  // B, C
      if (kCoefficientGroups % kThreads == 0 || index < kCoefficientGroups) {
        const T* const from = raw_B + raw_stage(tile) + (which * kTile + token) * kPadded + n;
        float v[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) v[k] = load_float(from[k * kPadded]);
        if (tile_tokens < kTile) {
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            if (token + k >= tile_tokens) v[k] = 0.0f;
          }
        }
        *reinterpret_cast<float4*>(s_B + (which * kPadded + n) * kRow + token) =
            make_float4(v[0], v[1], v[2], v[3]);
      }
    }
  };

  if (tiles > 0) {
    copy_tile(first_tile);
    async_commit();
    async_wait_all();
    __syncthreads();
    prepare(first_tile);
    __syncthreads();
  }

  if constexpr (kCarry) {
    allow_kernel_after();
    static_assert(kChannels == 1,
                  "a lane of the carry pass has states of every channel of its warp");
    const index_t at = sequence * p.chunks + chunk;
    const ScanChunkEnd to = {p.carry_state + (at + 1) * p.d_state * p.channels + channel0,
                             p.carry_delta + at * p.channels + channel0};
    scan_chunk_end<T, Shape, kLanes, kStates, kTile>(
        to, channels, p.channels, p.d_state, tiles, s_delta, s_input, s_B, s_C,
        [&](int channel, int n) { return scan_rate(p, channel0 + channel, n); }, copy_tile,
        prepare);
  } else {
    if (p.chunks > 1) wait_for_kernel_before();

    // M: this lane's channels and states.
    const int lane = tid % 32;
    const int j = lane / kSlots;
    const int lane_row = tid / 32 * Shape::kWarpChannels + lane % kSlots;
    float A2[kChannels][kStates];
    float h[kChannels][kStates];
#pragma unroll
    for (int q = 0; q < kChannels; ++q) {
      const int channel = lane_row + q * kSlots;
      const index_t d = channel0 + channel;
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        const int n = j + kLanes * s;
        A2[q][s] = 0.0f;
        h[q][s] = 0.0f;
        if (channel < channels && n < p.d_state) {
          A2[q][s] = scan_rate(p, d, n);
          if (p.chunks > 1) {
            h[q][s] =
                p.carry_state[((sequence * p.chunks + chunk) * p.d_state + n) * p.channels + d];
          } else if (p.h0 != nullptr) {
            h[q][s] = p.h0[sequence * p.h0_stride[0] + d * p.h0_stride[1] + n * p.h0_stride[2]];
          }
        }
      }
    }

    for (int tile = 0; tile < tiles; ++tile) {
      if (tile + 1 < tiles) copy_tile(tile + 1);
      if (gated) copy_gate(tile);
      async_commit();

      {  // M
        float* const delta_row = s_delta + lane_row * kRow;
        const float* const input_row = s_input + lane_row * kRow;
        const float* const B_states = s_B + j * kRow;
        const float* const C_states = s_C + j * kRow;
        float y[kChannels][kTile / kLanes];
#pragma unroll
        for (int window = 0; window < kTile; window += Shape::kWindow) {
          float partial[kChannels][Shape::kWindow];
#pragma unroll
          for (int i = 0; i < Shape::kWindow; i += 4) {
            const int t = window + i;
            float4 delta[kChannels], input[kChannels];
#pragma unroll
            for (int q = 0; q < kChannels; ++q) {
              const int at = q * kSlots * kRow + t;
              delta[q] = *reinterpret_cast<const float4*>(delta_row + at);
              input[q] = *reinterpret_cast<const float4*>(input_row + at);
            }
#pragma unroll
            for (int s = 0; s < kStates; ++s) {
              const float4 b = *reinterpret_cast<const float4*>(B_states + kLanes * s * kRow + t);
              const float4 c = *reinterpret_cast<const float4*>(C_states + kLanes * s * kRow + t);
#pragma unroll
              for (int q = 0; q < kChannels; ++q) {
                const auto advance = [&](float dl, float in, float bb, float cc, float& sum) {
                  h[q][s] = fmaf(exp2_fast(dl * A2[q][s]), h[q][s], in * bb);
                  sum = s == 0 ? h[q][s] * cc : fmaf(h[q][s], cc, sum);
                };
                advance(delta[q].x, input[q].x, b.x, c.x, partial[q][i]);
                advance(delta[q].y, input[q].y, b.y, c.y, partial[q][i + 1]);
                advance(delta[q].z, input[q].z, b.z, c.z, partial[q][i + 2]);
                advance(delta[q].w, input[q].w, b.w, c.w, partial[q][i + 3]);
              }
            }
          }
#pragma unroll
          for (int q = 0; q < kChannels; ++q) {
            transpose_sum<kLanes, Shape::kWindow>(partial[q], j);
#pragma unroll
            for (int w = 0; w < Shape::kWindow; w += kLanes) {
              y[q][(window + w) / kLanes] = partial[q][w];
            }
          }
        }
        __syncwarp();  // every lane of the channel has read its delta
#pragma unroll
        for (int q = 0; q < kChannels; ++q) {
#pragma unroll
          for (int w = 0; w < kTile / kLanes; ++w) {
            delta_row[q * kSlots * kRow + w * kLanes + j] = y[q][w];
          }
        }
      }

      async_wait_all();
      __syncthreads();

      {  // E
        const int tile_tokens = tile_size(tile);
        float out[kGroups][kPair][4];
#pragma unroll
        for (int u = 0; u < kGroups; ++u) {
#pragma unroll
          for (int c = 0; c < kPair; ++c) {
            const float4 sum = *reinterpret_cast<const float4*>(s_delta + unit_row[u] + c * kRow);
            out[u][c][0] = fmaf(D[u][c], x[u][c][0], sum.x);
            out[u][c][1] = fmaf(D[u][c], x[u][c][1], sum.y);
            out[u][c][2] = fmaf(D[u][c], x[u][c][2], sum.z);
            out[u][c][3] = fmaf(D[u][c], x[u][c][3], sum.w);
          }
        }
        if (gated) {
#pragma unroll
          for (int u = 0; u < kGroups; ++u) {
#pragma unroll
            for (int k = 0; k < 4; ++k) {
              float z_value[kPair];
              load_floats(raw_z + unit_z[u] + k * kTokenStep, z_value);
#pragma unroll
              for (int c = 0; c < kPair; ++c) out[u][c][k] *= silu_fast(z_value[c]);
            }
          }
        }
#pragma unroll
        for (int u = 0; u < kGroups; ++u) {
          if (y_at[u] == nullptr) continue;
          if (kTokenRows && tile_tokens == kTile &&
              reinterpret_cast<std::uintptr_t>(y_at[u]) % (4 * sizeof(T)) == 0) {
            *reinterpret_cast<Elements<T, 4>*>(y_at[u]) = {
                store_as<T>(out[u][0][0]), store_as<T>(out[u][0][1]), store_as<T>(out[u][0][2]),
                store_as<T>(out[u][0][3])};
          } else {
            const int count = tile_tokens - unit_token[u];
#pragma unroll
            for (int k = 0; k < 4; ++k) {
              if (k >= count) continue;
              Elements<T, kPair> value;
#pragma unroll
              for (int c = 0; c < kPair; ++c) value.v[c] = store_as<T>(out[u][c][k]);
              *reinterpret_cast<Elements<T, kPair>*>(y_at[u] + k * static_cast<index_t>(y_step)) =
                  value;
            }
          }
          y_at[u] += kTile * p.y_stride[1];
        }
      }
      if (tile + 1 < tiles) prepare(tile + 1);
      __syncthreads();
    }

#pragma unroll
    for (int q = 0; q < kChannels; ++q) {
      const int channel = lane_row + q * kSlots;
      const index_t d = channel0 + channel;
#pragma unroll
      for (int s = 0; s < kStates; ++s) {
        const int n = j + kLanes * s;
        if (channel < channels && n < p.d_state) {
          if (p.h_last != nullptr && chunk == p.chunks - 1) {
            p.h_last[sequence * p.h_last_stride[0] + d * p.h_last_stride[1] +
                     n * p.h_last_stride[2]] = h[q][s];
          }
        }
      }
    }
  }
}

constexpr int kScanCarryThreads = 128;

// Turns the end state of each chunk, from zero, into the state each chunk starts from:
//   H_0 = h0,   H_{c+1} = exp(A sum of delta over c) H_c + end_c.
// On entry row c + 1 of carry_state holds end_c; on return row c holds H_c. One thread per channel
// and state, neighbouring threads on neighbouring channels.
template <class T>
__global__ void __launch_bounds__(kScanCarryThreads) scan_carry_kernel(const ScanTileParams<T> p) {
  allow_kernel_after();
  const unsigned channel_blocks =
      static_cast<unsigned>((p.channels + kScanCarryThreads - 1) / kScanCarryThreads);
  const unsigned outer = blockIdx.x / channel_blocks;
  const index_t d =
      static_cast<index_t>(blockIdx.x % channel_blocks) * kScanCarryThreads + threadIdx.x;
  if (d >= p.channels) return;
  const unsigned d_state = static_cast<unsigned>(p.d_state);
  const index_t n = outer % d_state;
  const unsigned sequences_at_once = gridDim.x / (channel_blocks * d_state);
  const float a = scan_rate(p, d, n);
  const index_t next = static_cast<index_t>(p.d_state) * p.channels;
  constexpr int kAhead = 8;  // loads in flight: the chain itself is two instructions per chunk
  wait_for_kernel_before();
  for (index_t sequence = outer / d_state; sequence < p.sequences; sequence += sequences_at_once) {
    float* const state = p.carry_state + (sequence * p.chunks * p.d_state + n) * p.channels + d;
    const float* const delta = p.carry_delta + sequence * p.chunks * p.channels + d;
    float h = p.h0 == nullptr
                  ? 0.0f
                  : p.h0[sequence * p.h0_stride[0] + d * p.h0_stride[1] + n * p.h0_stride[2]];
    state[0] = h;
    for (int c0 = 0; c0 < p.chunks - 1; c0 += kAhead) {
      float end[kAhead], sum[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (c0 + i < p.chunks - 1) {
          end[i] = state[(c0 + i + 1) * next];
          sum[i] = delta[(c0 + i) * p.channels];
        }
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (c0 + i < p.chunks - 1) {
          h = fmaf(exp2_fast(a * sum[i]), h, end[i]);
          state[(c0 + i + 1) * next] = h;
        }
      }
    }
  }
}

}  // namespace detail
SSM_NAMESPACE_END
