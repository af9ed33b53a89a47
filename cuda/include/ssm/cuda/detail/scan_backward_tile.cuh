#pragma once

#include "ssm/cuda/detail/scan_backward_general.cuh"
#include "ssm/cuda/detail/scan_tile.cuh"

// The gradient of the fused scan for real float systems with delta B (Euler) inputs. As in
// scan_tile.cuh a block owns kBlockChannels channels, a channel's states are spread over kLanes
// lanes of kStates registers, and the block walks tiles of kTile tokens. A lane has two
// neighbouring channels, which share what it reads of B and C and are summed in its registers for
// dB and dC. Two sweeps:
//
//   forwards   h <- a h + (delta x) B; the state before each tile goes to scratch,
//              4 d_state / kTile bytes per element;
//   backwards  tile after tile from the last: a_t and a_t h_{t-1} of the tile stay in registers,
//   and
//                g <- g + e C;  s1 = sum_n g B;  s2 = sum_n g A a h_{t-1};
//                dA += delta g a h_{t-1};  g delta x and e h, summed over the block's channels,
//                are its share of dB and dC;  g <- a g;
//              per element dx = D e + delta s1, ddelta = s2 + x s1 and
//              dz = dy silu'(z) (C h + D x).
//
// Few channels are cut along the sequence: into chunks, which a block of the backward sweep walks,
// and chunks into pieces, which a block of the forward sweep walks. The forward sweep then starts
// every piece from zero and, from the second chunk on, also carries P_t = a_t ... a_first and
// G = sum_t P_t e_t C_t, what the piece adds to the gradient of the state that enters it.
// scan_backward_carry_kernel turns these into the state that enters each piece and the gradient
// that enters each chunk, and the backward sweep adds exp(A sum delta) times the former to the
// tiles' states. Sequences that are not cut have a forward sweep of their own
// (scan_backward_whole.cuh).

SSM_NAMESPACE_BEGIN
namespace detail {

// What a block may have on a device of compute capability 7.5; on newer ones it is more.
constexpr std::size_t kScanBackwardLeastShared = 64 * 1024;

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
  float* tile_state;  // (sequences, pieces, tiles of a piece, channels, kLanes, kStates)
  // Pieces only. On entry to the carry kernel a piece's end state and gradient from zero, on return
  // what enters the piece from the left and from the right.
  float* tile_delta;      // (sequences, pieces, tiles of a piece, channels): sum before the tile
  float* piece_state;     // (sequences, pieces, d_state, channels)
  float* piece_gradient;  // (sequences, pieces, d_state, channels)
  float* piece_delta;     // (sequences, pieces, channels): sum of delta
  index_t piece_length;   // tokens, whole tiles
  int pieces;             // of a sequence: forward.chunks times as many as of a chunk
  int chunk_pieces;
};

template <int kLanes_, int kStates_>
struct ScanBackwardShape {
  static constexpr int kLanes = kLanes_;
  static constexpr int kStates = kStates_;
  static constexpr int kThreads = 128;
  static constexpr int kWarps = kThreads / 32;
  static constexpr int kTile = 8;
  static constexpr int kSlots = 32 / kLanes;      // pairs of channels that start in a warp
  static constexpr int kPairs = kWarps * kSlots;  // of neighbouring channels
  static constexpr int kBlockChannels = 2 * kPairs;
  static constexpr int kPadded = kLanes * kStates;
  static constexpr int kTokens = kTile * kPairs / kThreads;  // of a thread's elements, of one pair
  static constexpr int kElements = 2 * kTokens;
  static_assert(kThreads % kPairs == 0 && kTokens >= 1, "a thread's elements are of one pair");
  // Neighbouring threads take neighbouring channels.
  __device__ __forceinline__ static int pair_of(int thread) { return thread % kPairs; }
  __device__ __forceinline__ static int token_of(int thread) { return thread / kPairs * kTokens; }

  // Rows of delta, delta x, e and sums over states: a pair's tokens, two channels each. The padding
  // puts what eight lanes read or write at once in different banks; so does that between the sums
  // of neighbouring lanes, kParts apart.
  static constexpr int kPairRow = 2 * kTile + 4;
  static constexpr int kRows = kPairs * kPairRow;
  static constexpr int kParts = kRows + (kSlots < 8 ? 16 : 0);
  // Rows of B and C: a token's states, in each of the orders of state_of().
  static constexpr int kOrderRow = kPadded + 8;
  static constexpr int kTokenRow = kStates * kOrderRow + 16;
  static constexpr int kCoefficients = kTile * kTokenRow;

  // What the backward sweep keeps in shared memory, as it says.
  static constexpr int kKept = kElements * kThreads;
  static constexpr int kShares = kWarps * kTile * 2 * kPadded;
  static constexpr std::size_t kSharedFloats = 3 * kRows + 3 * kLanes * kParts + 4 * kKept +
                                               2 * kCoefficients + 2 * kStates * kThreads + kShares;
};

// The state that register s of a lane holds. Lanes of neighbouring slots hold their states in
// different orders, so that in channel_sums() what a lane gives away has the same registers in all.
template <class Shape>
__device__ __forceinline__ int state_of(int j, int slot, int s) {
  return j * Shape::kStates + (s ^ (slot & (Shape::kStates - 1)));
}

// The sums over a warp's channels of two tokens' terms, each state's in one lane: of the state that
// register 0 holds, in first[0] and second[0] if there are as many slots as states, else one of
// them in first[0], the second token's in the lanes with the bit kStates of the slot. Further slots
// hold copies.
template <class Shape, int kHalf = Shape::kStates / 2>
__device__ __forceinline__ void channel_sums(float (&first)[Shape::kStates],
                                             float (&second)[Shape::kStates], int slot) {
  if constexpr (kHalf >= 1) {
#pragma unroll
    for (int r = 0; r < kHalf; ++r) {
      first[r] += __shfl_xor_sync(0xffffffffu, first[r + kHalf], kHalf);
      second[r] += __shfl_xor_sync(0xffffffffu, second[r + kHalf], kHalf);
    }
    channel_sums<Shape, kHalf / 2>(first, second, slot);
  } else if constexpr (Shape::kSlots > Shape::kStates) {
    const bool takes_second = (slot & Shape::kStates) != 0;
    const float keep = takes_second ? second[0] : first[0];
    const float send = takes_second ? first[0] : second[0];
    first[0] = keep + __shfl_xor_sync(0xffffffffu, send, Shape::kStates);
#pragma unroll
    for (int bit = 2 * Shape::kStates; bit < Shape::kSlots; bit *= 2) {
      first[0] += __shfl_xor_sync(0xffffffffu, first[0], bit);
    }
  }
}

// Where a block stands: its channels and tokens, those of one chunk or piece. Tokens count along
// the scan.
struct ScanBackwardPlace {
  index_t sequence, row, group, slice, channel0, chunk;
  index_t first;     // of the chunk's first token, in units of the length strides
  index_t position;  // of that token in memory; the next is one further, or one back in reverse
  int channels, tokens;
};

// The sequences are cut into `chunks` of chunk_length tokens.
template <class Shape, class T>
__device__ __forceinline__ ScanBackwardPlace scan_backward_place(const ScanTileParams<T>& p,
                                                                 int chunks, index_t chunk_length) {
  ScanBackwardPlace at;
  const unsigned channel_block = blockIdx.x % p.channel_blocks;
  const unsigned outer = blockIdx.x / p.channel_blocks;
  at.chunk = outer % static_cast<unsigned>(chunks);
  at.sequence = outer / static_cast<unsigned>(chunks);
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
  const index_t chunk_begin = at.chunk * chunk_length;
  const index_t rest = total - chunk_begin;
  at.tokens = static_cast<int>(rest < 0 ? 0 : (rest > chunk_length ? chunk_length : rest));
  at.position = p.reverse ? begin + total - 1 - chunk_begin : begin + chunk_begin;
  at.first = p.reverse ? -at.position : at.position;
  return at;
}

// threadIdx.x, read anew at every call, for what is rarely done: a loop keeps nothing that follows
// from it in registers. (The remainder tells the compiler that it is small.)
__device__ __forceinline__ int fresh_thread() {
  unsigned thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return static_cast<int>(thread % 1024u);
}

// A thread's elements of a tile: a pair of channels at kTokens neighbouring tokens.
template <class Shape>
struct ThreadElements {
  int pair, token0;
  __device__ __forceinline__ explicit ThreadElements(int thread)
      : pair(Shape::pair_of(thread)), token0(Shape::token_of(thread)) {}
};

// An array at the tile where a block stands, stepped from tile to tile. The address is the block's,
// so that it takes no thread's registers.
template <class Shape, class P>
struct TileCursor {
  P* tile = nullptr;  // the block's first channel at the tile's first token; null: no array
  index_t tile_step = 0;
  int token_step = 0, channel_step = 0;

  TileCursor() = default;
  __device__ __forceinline__ TileCursor(P* first, const Extents<3>& stride)
      : tile(first),
        tile_step(Shape::kTile * stride[1]),
        token_step(static_cast<int>(stride[1])),
        channel_step(static_cast<int>(stride[2])) {}
  // Channel c of the pair at the thread's token i.
  __device__ __forceinline__ P* at(ThreadElements<Shape> of, int i, int c) const {
    return tile + ((of.token0 + i) * token_step + (2 * of.pair + c) * channel_step);
  }
  // Both channels, where they lie side by side.
  __device__ __forceinline__ P* pair_at(ThreadElements<Shape> of, int i) const {
    return tile + ((of.token0 + i) * token_step + 2 * of.pair);
  }
  __device__ __forceinline__ void move(int tiles) { tile += tiles * tile_step; }
};

// The elements of x, dt, dy and z that the threads prepare, of one tile, loaded a tile ahead. Where
// channels are contiguous 16 bytes of them at a time are copied to shared memory, else each thread
// loads its own.
template <class Shape, class T, int kArrays, bool kVectors>
struct ScanElements {
  static constexpr int kVector = 16 / static_cast<int>(sizeof(T));
  static constexpr int kRow = Shape::kBlockChannels;
  static constexpr int kRowCopies = kRow / kVector;
  static constexpr int kArrayCopies = Shape::kTile * kRowCopies;
  static constexpr int kCopies =
      (kArrays * kArrayCopies + Shape::kThreads - 1) / Shape::kThreads;  // of a thread
  static constexpr int kRaw = kVectors ? kArrays * Shape::kTile * kRow : 0;

  static constexpr int kNever = 0x7fffffff;
  const T* from[kVectors ? kCopies : 1];
  int step[kVectors ? kCopies : 1];   // from tile to tile
  int token[kVectors ? kCopies : 1];  // kNever: nothing there, zeros are copied
  TileCursor<Shape, const T> cursor[kArrays];
  T v[kVectors ? 1 : kArrays][Shape::kElements];

  // `first` points at the block's first channel at the tile's first token in each array; null: no
  // array. The block has `channels` channels.
  __device__ __forceinline__ ScanElements(const T* const (&first)[kArrays],
                                          const Extents<3>* const (&stride)[kArrays],
                                          int channels) {
    if constexpr (kVectors) {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const int copy = static_cast<int>(threadIdx.x) + i * Shape::kThreads;
        const int channel = copy % kRowCopies * kVector;
        const int at = copy % kArrayCopies / kRowCopies;
        from[i] = first[0];
        step[i] = 0;
        token[i] = kNever;
#pragma unroll
        for (int array = 0; array < kArrays; ++array) {
          if (copy / kArrayCopies != array || first[array] == nullptr || channel >= channels) {
            continue;
          }
          const int token_step = static_cast<int>((*stride[array])[1]);
          from[i] = first[array] + at * token_step + channel;
          step[i] = Shape::kTile * token_step;
          token[i] = at;
        }
      }
    } else {
#pragma unroll
      for (int array = 0; array < kArrays; ++array) cursor[array] = {first[array], *stride[array]};
    }
  }

  // `left` tokens of the tile and `channels` of the thread's pair exist; then moves on by `tiles`.
  __device__ __forceinline__ void load(T* raw, int left, int channels, int tiles) {
    if constexpr (kVectors) {
#pragma unroll
      for (int i = 0; i < kCopies; ++i) {
        const int copy = static_cast<int>(threadIdx.x) + i * Shape::kThreads;
        if (copy >= kArrays * kArrayCopies) continue;
        async_copy_16(raw + copy * kVector, from[i], token[i] < left ? 16 : 0);
        from[i] += tiles * step[i];
      }
      async_commit();
    } else {
      const ThreadElements<Shape> of(fresh_thread());
#pragma unroll
      for (int array = 0; array < kArrays; ++array) {
#pragma unroll
        for (int k = 0; k < Shape::kElements; ++k) {
          v[array][k] = store_as<T>(0.0f);
          if (cursor[array].tile != nullptr && of.token0 + k / 2 < left && k % 2 < channels) {
            v[array][k] = *cursor[array].at(of, k / 2, k % 2);
          }
        }
        if (cursor[array].tile != nullptr) cursor[array].move(tiles);
      }
    }
  }

  // This thread's, tokens, then channels.
  __device__ __forceinline__ void widen(const T* raw, int array, ThreadElements<Shape> of,
                                        float (&to)[Shape::kElements]) const {
    if constexpr (kVectors) {
#pragma unroll
      for (int i = 0; i < Shape::kTokens; ++i) {
        float both[2];
        load_floats(raw + (array * Shape::kTile + of.token0 + i) * kRow + 2 * of.pair, both);
        to[2 * i] = both[0];
        to[2 * i + 1] = both[1];
      }
    } else {
#pragma unroll
      for (int k = 0; k < Shape::kElements; ++k) to[k] = load_float(v[array][k]);
    }
  }
};

// The thread's elements of a gradient or of y, in the order of widen(). `left` and `channels` as
// in load().
template <bool kVectors, class Shape, class T>
__device__ __forceinline__ void store_elements(const TileCursor<Shape, T>& to,
                                               ThreadElements<Shape> of,
                                               const float (&v)[Shape::kElements], int left,
                                               int channels) {
#pragma unroll
  for (int i = 0; i < Shape::kTokens; ++i) {
    const bool exists = of.token0 + i < left;
    if constexpr (kVectors) {
      Elements<T, 2> both;
      both.v[0] = store_as<T>(v[2 * i]);
      both.v[1] = store_as<T>(v[2 * i + 1]);
      if (exists && channels > 0) both.store(to.pair_at(of, i));
    } else {
      if (exists && channels > 0) *to.at(of, i, 0) = store_as<T>(v[2 * i]);
      if (exists && channels > 1) *to.at(of, i, 1) = store_as<T>(v[2 * i + 1]);
    }
  }
}
template <class Shape, class T>
__device__ __forceinline__ void add_elements(const TileCursor<Shape, T>& from,
                                             ThreadElements<Shape> of, float (&v)[Shape::kElements],
                                             int left, int channels) {
#pragma unroll
  for (int k = 0; k < Shape::kElements; ++k) {
    if (of.token0 + k / 2 < left && k % 2 < channels) {
      v[k] += load_float(*from.at(of, k / 2, k % 2));
    }
  }
}

// B, or B and C, of one tile, a thread's share: states fastest, then tokens, then B before C.
template <class Shape, class T, int kArrays>
struct ScanCoefficients {
  static constexpr int kOfOne = Shape::kTile * Shape::kPadded;
  static constexpr int kCount = (kArrays * kOfOne + Shape::kThreads - 1) / Shape::kThreads;
  const T* B;  // at the tile's first token
  const T* C;
  Extents<4> B_stride, C_stride;
  T v[kCount];

  struct Place {
    bool exists, is_C;
    int token, state;
    __device__ __forceinline__ Place(int thread, int i) {
      const int index = thread + i * Shape::kThreads;
      exists = index < kArrays * kOfOne;
      // Known to the compiler where whole turns of the threads are of one array.
      is_C = kOfOne % Shape::kThreads == 0 ? i >= kOfOne / Shape::kThreads : index >= kOfOne;
      token = index / Shape::kPadded % Shape::kTile;
      state = index % Shape::kPadded;
    }
  };

  __device__ __forceinline__ void load(int thread, int left, int d_state, int tiles) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const Place at(thread, i);
      const int token_step = static_cast<int>(at.is_C ? C_stride[1] : B_stride[1]);
      const int state_step = static_cast<int>(at.is_C ? C_stride[3] : B_stride[3]);
      const T* const from = at.is_C ? C : B;
      v[i] = store_as<T>(0.0f);
      if (at.exists && at.state < d_state && at.token < left) {
        v[i] = from[at.token * token_step + at.state * state_step];
      }
    }
    B += tiles * Shape::kTile * B_stride[1];
    if (kArrays > 1) C += tiles * Shape::kTile * C_stride[1];
  }
  // A state's tokens side by side.
  __device__ __forceinline__ void store_rows(int thread, float* to) const {
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const Place at(thread, i);
      if (at.exists) to[Shape::coefficient_row(at.state) + at.token] = load_float(v[i]);
    }
  }
  // In every order of a lane's states.
  __device__ __forceinline__ void store(int thread, float* to) const {
    constexpr int kStates = Shape::kStates;
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      const Place at(thread, i);
      if (!at.exists) continue;
      const float value = load_float(v[i]);
      float* const row = to + (at.is_C ? Shape::kCoefficients : 0) + at.token * Shape::kTokenRow +
                         at.state / kStates * kStates;
#pragma unroll
      for (int order = 0; order < kStates; ++order) {
        row[order * Shape::kOrderRow + (at.state % kStates ^ order)] = value;
      }
    }
  }
};

template <int kCount>
__device__ __forceinline__ Elements<float, kCount> load_vector(const float* from) {
  return Elements<float, kCount>::load(from);
}
template <int kCount>
__device__ __forceinline__ void store_vector(float* to, const float (&v)[kCount]) {
  Elements<float, kCount> all;
#pragma unroll
  for (int k = 0; k < kCount; ++k) all.v[k] = v[k];
  all.store(to);
}

// softplus and its slope, 1 / (1 + e^-x). e^-|x| is good to |x| 2^-24.
__device__ __forceinline__ float softplus_with_slope(float x, float& slope) {
  const float e = exp2_fast(-kLog2e * fabsf(x));
  const float r = reciprocal_fast(1.0f + e);
  slope = x < 0.0f ? e * r : r;
  return softplus_from(x, e);
}

// How many of a pair's channels the block has.
__device__ __forceinline__ int pair_channels(const ScanBackwardPlace& at, int pair) {
  const int left = at.channels - 2 * pair;
  return left < 0 ? 0 : (left > 2 ? 2 : left);
}

// Of the thread's elements, from dt and x to delta, delta x and the slope d delta / d dt. The tile
// begins at token `first` of `tokens`, beyond which delta is zero.
template <class Shape>
__device__ __forceinline__ void prepare_deltas(ThreadElements<Shape> of, const float (&bias)[2],
                                               bool softplus, int first, int tokens,
                                               float (&delta)[Shape::kElements],
                                               float (&input)[Shape::kElements],
                                               float (&slope)[Shape::kElements]) {
#pragma unroll
  for (int k = 0; k < Shape::kElements; ++k) {
    delta[k] += bias[k % 2];
    slope[k] = 1.0f;
  }
  if (softplus) {
#pragma unroll
    for (int k = 0; k < Shape::kElements; ++k) {
      delta[k] = softplus_with_slope(delta[k], slope[k]);
    }
  }
#pragma unroll
  for (int k = 0; k < Shape::kElements; ++k) {
    if (first + of.token0 + k / 2 >= tokens) delta[k] = 0.0f;
    input[k] *= delta[k];
  }
}

// The block's first channel, or state 0 of its group for B and C, at token t of the chunk.
template <class P, class Stride>
__device__ __forceinline__ P* scan_origin(const ScanBackwardPlace& at, P* data,
                                          const Stride& stride, index_t third, index_t t) {
  return data == nullptr
             ? data
             : data + at.row * stride[0] + (at.first + t) * stride[1] + third * stride[2];
}

// Bytes of shared memory of the backward sweep.
template <class Shape, class T, bool kVectors>
constexpr int scan_backward_bytes() {
  constexpr std::size_t kBytes =
      sizeof(float) * Shape::kSharedFloats + sizeof(T) * ScanElements<Shape, T, 4, kVectors>::kRaw;
  static_assert(kVectors || kBytes <= kScanBackwardLeastShared, "every device has as much");
  return static_cast<int>(kBytes);
}

// The shared memory of the forward sweep of pieces, twice: delta, delta x, e for the gradient, B, C
// for the gradient; x, dt, dy and z as they come.
template <class T, class Shape, bool kGradient, bool kVectors>
struct ScanBackwardStates {
  static constexpr int kArrays = kGradient ? 2 : 1;
  using Inputs = ScanElements<Shape, T, 2 * kArrays, kVectors>;
  static constexpr int kHalf = (1 + kArrays) * Shape::kRows + kArrays * Shape::kCoefficients;
  static constexpr std::size_t kBytes = 2 * (sizeof(float) * kHalf + sizeof(T) * Inputs::kRaw);
};

// The forward sweep of pieces. The next tile is prepared in the other half of the shared memory, so
// that one barrier per tile is enough. kGradient: also what the piece adds to the gradient of the
// state that enters it.
template <class T, class Shape, bool kGradient, bool kVectors>
__device__ __forceinline__ void scan_backward_states(const ScanBackwardTileParams<T>& q,
                                                     const ScanBackwardPlace& at, float4* memory) {
  using Layout = ScanBackwardStates<T, Shape, kGradient, kVectors>;
  using Inputs = typename Layout::Inputs;
  constexpr int kStates = Shape::kStates;
  constexpr int kTile = Shape::kTile;
  constexpr int kElements = Shape::kElements;
  constexpr int kRows = Shape::kRows;
  constexpr int kArrays = Layout::kArrays;
  constexpr int kHalf = Layout::kHalf;
  const ScanTileParams<T>& p = q.forward;
  const auto half = [&](int tile) { return reinterpret_cast<float*>(memory) + tile % 2 * kHalf; };
  const auto raw = [&](int tile) {
    return reinterpret_cast<T*>(memory + 2 * kHalf / 4) + tile % 2 * Inputs::kRaw;
  };

  const int tid = static_cast<int>(threadIdx.x);
  const int lane = tid % 32;
  const int slot = lane % Shape::kSlots;
  const int j = lane / Shape::kSlots;
  const int lane_pair = tid / 32 * Shape::kSlots + slot;
  const int lane_channels = pair_channels(at, lane_pair);
  const index_t lane_d = at.channel0 + 2 * lane_pair;
  const int order_row = slot % kStates * Shape::kOrderRow + j * kStates;
  const ThreadElements<Shape> mine(tid);
  const int channels = pair_channels(at, mine.pair);
  const int element_row = mine.pair * Shape::kPairRow + 2 * mine.token0;
  const bool gated = p.z != nullptr;
  float bias[2];
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    bias[c] = c < channels && p.dt_bias != nullptr
                  ? p.dt_bias[(at.channel0 + 2 * mine.pair + c) * p.dt_bias_stride]
                  : 0.0f;
  }

  float A2[2][kStates], h[2][kStates], product[2][kStates], gradient[2][kStates];
#pragma unroll
  for (int c = 0; c < 2; ++c) {
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      const int n = state_of<Shape>(j, slot, s);
      const index_t d = lane_d + c;
      A2[c][s] = h[c][s] = gradient[c][s] = 0.0f;
      product[c][s] = 1.0f;
      if (c < lane_channels && n < p.d_state) A2[c][s] = scan_rate(p, d, n);
    }
  }

  const int tiles = (at.tokens + kTile - 1) / kTile;
  const index_t piece_row = at.sequence * q.pieces + at.chunk;
  // The block's first channel; the lane's pair and states are a few words further.
  const index_t first_row = piece_row * (q.piece_length / kTile) * p.channels + at.channel0;
  float* state_to = q.tile_state + first_row * Shape::kPadded;
  float* delta_to = q.tile_delta + first_row;
  const int lane_state = (2 * lane_pair * Shape::kLanes + j) * kStates;
  const auto elements_of = [&] {
    const T* const x = scan_origin(at, p.x, p.x_stride, at.channel0, 0);
    const T* const dt = scan_origin(at, p.dt, p.dt_stride, at.channel0, 0);
    if constexpr (kGradient) {
      return Inputs({x, dt, scan_origin(at, q.dy, q.dy_stride, at.channel0, 0),
                     scan_origin(at, p.z, p.z_stride, at.channel0, 0)},
                    {&p.x_stride, &p.dt_stride, &q.dy_stride, &p.z_stride}, at.channels);
    } else {
      return Inputs({x, dt}, {&p.x_stride, &p.dt_stride}, at.channels);
    }
  };
  Inputs elements = elements_of();
  ScanCoefficients<Shape, T, kArrays> coefficients = {scan_origin(at, p.B, p.B_stride, at.group, 0),
                                                      scan_origin(at, p.C, p.C_stride, at.group, 0),
                                                      p.B_stride,
                                                      p.C_stride,
                                                      {}};
  const auto fetch = [&](int tile) {
    if (tile < tiles) elements.load(raw(tile), at.tokens - tile * kTile, channels, 1);
  };
  const auto fetch_coefficients = [&](int tile) {
    if (tile < tiles) coefficients.load(tid, at.tokens - tile * kTile, p.d_state, 1);
  };
  const auto prepare = [&](int tile) {
    float* const s_delta = half(tile) + element_row;
    float delta[kElements], input[kElements], slope[kElements];
    elements.widen(raw(tile), 1, mine, delta);
    elements.widen(raw(tile), 0, mine, input);
    prepare_deltas(mine, bias, p.delta_softplus, tile * kTile, at.tokens, delta, input, slope);
    store_vector(s_delta, delta);
    store_vector(s_delta + kRows, input);
    if constexpr (kGradient) {
      float e[kElements], gate[kElements];
      elements.widen(raw(tile), 2, mine, e);
      if (gated) {
        elements.widen(raw(tile), 3, mine, gate);
#pragma unroll
        for (int k = 0; k < kElements; ++k) e[k] *= silu_fast(gate[k]);
      }
      store_vector(s_delta + 2 * kRows, e);
    }
    coefficients.store(tid, half(tile) + (1 + kArrays) * kRows);
  };
  float delta_sum[2] = {};   // of the lane's channels, before this tile
  float delta_rest[2] = {};  // what the sums round away
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
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      if (c < lane_channels) {
        store_vector(state_to + lane_state + c * Shape::kPadded, h[c]);
        if (j == 0) delta_to[2 * lane_pair + c] = delta_sum[c];
      }
    }
    state_to += p.channels * Shape::kPadded;
    delta_to += p.channels;
    const float* const s_delta = half(tile) + lane_pair * Shape::kPairRow;
    const float* const s_B = half(tile) + (1 + kArrays) * kRows + order_row;
    float tile_sum[2] = {};
#pragma unroll
    for (int t0 = 0; t0 < kTile; t0 += 2) {
      const auto delta = load_vector<4>(s_delta + 2 * t0);
      const auto input = load_vector<4>(s_delta + kRows + 2 * t0);
      Elements<float, 4> e;
      if constexpr (kGradient) e = load_vector<4>(s_delta + 2 * kRows + 2 * t0);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const auto b = load_vector<kStates>(s_B + (t0 + i) * Shape::kTokenRow);
        Elements<float, kStates> gain;
        if constexpr (kGradient) {
          gain = load_vector<kStates>(s_B + Shape::kCoefficients + (t0 + i) * Shape::kTokenRow);
        }
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          const int k = 2 * i + c;
          tile_sum[c] += delta.v[k];
#pragma unroll
          for (int s = 0; s < kStates; ++s) {
            const float a = exp2_fast(delta.v[k] * A2[c][s]);
            h[c][s] = fmaf(a, h[c][s], input.v[k] * b.v[s]);
            if constexpr (kGradient) {
              product[c][s] *= a;
              gradient[c][s] = fmaf(product[c][s], e.v[k] * gain.v[s], gradient[c][s]);
            }
          }
        }
      }
    }
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      const float term = tile_sum[c] - delta_rest[c];
      const float sum = delta_sum[c] + term;
      delta_rest[c] = (sum - delta_sum[c]) - term;
      delta_sum[c] = sum;
    }
    if (tile + 1 < tiles) prepare(tile + 1);
    if (!kVectors) fetch(tile + 2);
    fetch_coefficients(tile + 2);
  }
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    if (c >= lane_channels) continue;
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      const int n = state_of<Shape>(j, slot, s);
      if (n >= p.d_state) continue;
      const index_t to = (piece_row * p.d_state + n) * p.channels + lane_d + c;
      q.piece_state[to] = h[c][s];
      if (kGradient) q.piece_gradient[to] = gradient[c][s];
    }
    if (j == 0) q.piece_delta[piece_row * p.channels + lane_d + c] = delta_sum[c];
  }
}

template <class T, int kLanes, int kStates, bool kVectors>
__global__ void __launch_bounds__(128, 4)
    scan_backward_states_kernel(const ScanBackwardTileParams<T> q) {
  using Shape = ScanBackwardShape<kLanes, kStates>;
  __shared__ float4 memory[ScanBackwardStates<T, Shape, true, kVectors>::kBytes / sizeof(float4)];
  const ScanBackwardPlace at = scan_backward_place<Shape>(q.forward, q.pieces, q.piece_length);
  // No gradient is carried out of the first chunk.
  if (at.chunk >= q.chunk_pieces) {
    scan_backward_states<T, Shape, true, kVectors>(q, at, memory);
  } else {
    scan_backward_states<T, Shape, false, kVectors>(q, at, memory);
  }
}

// From what each piece makes of a zero state and of a zero gradient to what enters it:
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
  constexpr int kAhead = 8;  // loads in flight: the chain itself is one instruction per piece
  for (index_t sequence = blockIdx.z; sequence < p.sequences; sequence += gridDim.z) {
    const index_t first = (sequence * q.pieces * p.d_state + n) * p.channels + d;
    float* const state = q.piece_state + first;
    float* const gradient = q.piece_gradient + first;
    const float* const delta = q.piece_delta + sequence * q.pieces * p.channels + d;
    float h = p.h0 == nullptr
                  ? 0.0f
                  : p.h0[sequence * p.h0_stride[0] + d * p.h0_stride[1] + n * p.h0_stride[2]];
    for (int c0 = 0; c0 < q.pieces; c0 += kAhead) {
      float end[kAhead], decay[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (c0 + i >= q.pieces) continue;
        end[i] = state[(c0 + i) * next];
        decay[i] = exp2_fast(A2 * delta[(c0 + i) * p.channels]);
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (c0 + i >= q.pieces) continue;
        state[(c0 + i) * next] = h;
        h = fmaf(decay[i], h, end[i]);
      }
    }
    float g = q.dh_last == nullptr ? 0.0f
                                   : q.dh_last[sequence * q.dh_last_stride[0] +
                                               d * q.dh_last_stride[1] + n * q.dh_last_stride[2]];
    for (int c0 = q.pieces - 1; c0 >= 0; c0 -= kAhead) {
      float begin[kAhead], decay[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        if (c0 < i) continue;
        // That of the first chunk was not computed and goes nowhere.
        begin[i] = c0 - i < q.chunk_pieces ? 0.0f : gradient[(c0 - i) * next];
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
template <class T, int kLanes, int kStates, bool kPieces, bool kVectors>
__global__ void __launch_bounds__(128, 2)
    scan_backward_tile_kernel(const ScanBackwardTileParams<T> q) {
  using Shape = ScanBackwardShape<kLanes, kStates>;
  constexpr int kTile = Shape::kTile;
  constexpr int kElements = Shape::kElements;
  constexpr int kPadded = Shape::kPadded;
  constexpr int kThreads = Shape::kThreads;
  constexpr int kRows = Shape::kRows;
  constexpr int kParts = Shape::kParts;
  constexpr int kTokenRow = Shape::kTokenRow;
  const ScanTileParams<T>& p = q.forward;
  extern __shared__ float4 scan_backward_memory[];
  // Of the tile's elements.
  float* const s_delta = reinterpret_cast<float*>(scan_backward_memory);
  float* const s_input = s_delta + kRows;
  float* const s_e = s_input + kRows;
  // C h, g B and g A a h summed over each lane's states.
  float* const s_y = s_e + kRows;
  float* const s_gB = s_y + kLanes * kParts;
  float* const s_gA = s_gB + kLanes * kParts;
  // What a thread keeps of its elements until the end of the tile, as registers are short.
  float* const s_x = s_gA + kLanes * kParts;
  float* const s_slope = s_x + Shape::kKept;                   // d delta / d dt
  float* const s_dz = s_slope + Shape::kKept;                  // dy silu'(z)
  float* const s_gate = s_dz + Shape::kKept;                   // silu(z)
  float* const s_B = s_gate + Shape::kKept;                    // then C
  float* const s_entering = s_B + 2 * Shape::kCoefficients;    // a thread's states
  float* const s_share = s_entering + 2 * kStates * kThreads;  // (warps, tokens, B or C, states)
  using Inputs = ScanElements<Shape, T, 4, kVectors>;
  T* const raw = reinterpret_cast<T*>(s_share + Shape::kShares);  // x, dt, dy, z as they come

  const ScanBackwardPlace at = scan_backward_place<Shape>(p, p.chunks, p.chunk_length);
  const int tid = static_cast<int>(threadIdx.x);
  const int warp = tid / 32;
  const int lane = tid % 32;
  const int slot = lane % Shape::kSlots;
  const int j = lane / Shape::kSlots;
  const int lane_pair = warp * Shape::kSlots + slot;
  const int lane_channels = pair_channels(at, lane_pair);
  const index_t lane_d = at.channel0 + 2 * lane_pair;
  const int lane_row = lane_pair * Shape::kPairRow;
  const int order_row = slot % kStates * Shape::kOrderRow + j * kStates;
  const ThreadElements<Shape> mine(tid);
  const int channels = pair_channels(at, mine.pair);
  const int element_row = mine.pair * Shape::kPairRow + 2 * mine.token0;
  const int kept = tid * kElements;
  const bool gated = p.z != nullptr;
  float bias[2], D[2];
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    const index_t d = at.channel0 + 2 * mine.pair + c;
    bias[c] = c < channels && p.dt_bias != nullptr ? p.dt_bias[d * p.dt_bias_stride] : 0.0f;
    D[c] = c < channels && p.D != nullptr ? p.D[d * p.D_stride] : 0.0f;
  }
  const index_t chunk_row = at.sequence * p.chunks + at.chunk;
  const index_t first_piece = chunk_row * q.chunk_pieces;
  const int piece_tiles = static_cast<int>(q.piece_length / kTile);
  const index_t groups = p.channels / p.group_channels;

  float A2[2][kStates], g[2][kStates], dA[2][kStates];
#pragma unroll
  for (int c = 0; c < 2; ++c) {
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      const int n = state_of<Shape>(j, slot, s);
      const index_t d = lane_d + c;
      A2[c][s] = g[c][s] = dA[c][s] = 0.0f;
      if (c >= lane_channels || n >= p.d_state) continue;
      A2[c][s] = scan_rate(p, d, n);
      if constexpr (kPieces) {
        const index_t last_piece = first_piece + q.chunk_pieces - 1;
        g[c][s] = q.piece_gradient[(last_piece * p.d_state + n) * p.channels + d];
      } else if (q.dh_last != nullptr) {
        g[c][s] = q.dh_last[at.sequence * q.dh_last_stride[0] + d * q.dh_last_stride[1] +
                            n * q.dh_last_stride[2]];
      }
    }
  }
  // The states that enter a piece of the chunk, of this thread. Rarely called: nothing of it is
  // kept in registers.
  const auto enter = [&](int piece) {
    const int thread = fresh_thread();
    const int from_slot = thread % 32 % Shape::kSlots;
    const index_t from = (first_piece + piece) * p.d_state;
#pragma unroll 1
    for (int k = 0; k < 2 * kStates; ++k) {
      const int c = k / kStates;
      const int n = state_of<Shape>(thread % 32 / Shape::kSlots, from_slot, k % kStates);
      const int channel = 2 * (thread / 32 * Shape::kSlots + from_slot) + c;
      float entering = 0.0f;
      if (channel < at.channels && n < p.d_state) {
        entering = q.piece_state[(from + n) * p.channels + at.channel0 + channel];
      }
      s_entering[(c * kThreads + thread) * kStates + k % kStates] = entering;
    }
  };

  const int tiles = (at.tokens + kTile - 1) / kTile;
  // Everything starts at the last tile and moves backwards.
  const index_t last_tile = tiles > 0 ? tiles - 1 : 0;
  const index_t last = last_tile * kTile;
  const index_t last_row = (first_piece * piece_tiles + last_tile) * p.channels + at.channel0;
  const float* state_from = q.tile_state + last_row * kPadded;
  const float* delta_from = kPieces ? q.tile_delta + last_row : nullptr;
  const int lane_state = (2 * lane_pair * kLanes + j) * kStates;
  Inputs elements({scan_origin(at, p.x, p.x_stride, at.channel0, last),
                   scan_origin(at, p.dt, p.dt_stride, at.channel0, last),
                   scan_origin(at, q.dy, q.dy_stride, at.channel0, last),
                   scan_origin(at, p.z, p.z_stride, at.channel0, last)},
                  {&p.x_stride, &p.dt_stride, &q.dy_stride, &p.z_stride}, at.channels);
  ScanCoefficients<Shape, T, 2> coefficients = {scan_origin(at, p.B, p.B_stride, at.group, last),
                                                scan_origin(at, p.C, p.C_stride, at.group, last),
                                                p.B_stride,
                                                p.C_stride,
                                                {}};
  const auto output = [&](const GradientRow<T>& row) {
    return TileCursor<Shape, T>(scan_origin(at, row.data, row.stride, at.channel0, last),
                                row.stride);
  };
  TileCursor<Shape, T> dx_to = output(q.dx);
  TileCursor<Shape, T> ddt_to = output(q.ddt);
  TileCursor<Shape, T> dz_to = output(q.dz);
  TileCursor<Shape, T> y_to(scan_origin(at, p.y, p.y_stride, at.channel0, last), p.y_stride);
  // The shares of dB and dC: neighbouring threads take neighbouring states, B before C, then
  // tokens.
  constexpr int kShares = (2 * kTile * kPadded + kThreads - 1) / kThreads;
  constexpr int kShareTokens = kThreads / (2 * kPadded);  // between a thread's shares
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
  const auto fetch = [&](int tile) { elements.load(raw, at.tokens - tile * kTile, channels, -1); };
  const auto fetch_coefficients = [&](int tile) {
    coefficients.load(tid, at.tokens - tile * kTile, p.d_state, -1);
  };
  float state[2][kStates] = {};  // before the tile
  float delta_before[2] = {};
  const auto fetch_state = [&] {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      if (c >= lane_channels) continue;
      const auto held = load_vector<kStates>(state_from + lane_state + c * kPadded);
#pragma unroll
      for (int s = 0; s < kStates; ++s) state[c][s] = held.v[s];
      if constexpr (kPieces) delta_before[c] = delta_from[2 * lane_pair + c];
    }
    state_from -= p.channels * kPadded;
    if (kPieces) delta_from -= p.channels;
  };
  const auto prepare = [&](int tile) {
    float delta[kElements], input[kElements], slope[kElements], e[kElements];
    elements.widen(raw, 1, mine, delta);
    elements.widen(raw, 0, mine, input);
    elements.widen(raw, 2, mine, e);
    store_vector(s_x + kept, input);
    prepare_deltas(mine, bias, p.delta_softplus, tile * kTile, at.tokens, delta, input, slope);
    store_vector(s_slope + kept, slope);
    store_vector(s_delta + element_row, delta);
    store_vector(s_input + element_row, input);
    if (gated) {
      float gate[kElements], dz[kElements];
      elements.widen(raw, 3, mine, gate);
#pragma unroll
      for (int k = 0; k < kElements; ++k) {
        const float sigma = sigmoid_of(gate[k]);
        dz[k] = e[k] * sigma * fmaf(gate[k], 1.0f - sigma, 1.0f);
        gate[k] *= sigma;
        e[k] *= gate[k];
      }
      store_vector(s_dz + kept, dz);
      if (y_to.tile != nullptr) store_vector(s_gate + kept, gate);
    }
    store_vector(s_e + element_row, e);
    coefficients.store(tid, s_B);
  };
  // Two tokens' sums over the warp's channels, of B (0) or of C (1).
  const auto share = [&](int t0, int which, float(&first)[kStates], float(&second)[kStates]) {
    channel_sums<Shape>(first, second, slot);
    float* const to =
        s_share + ((warp * kTile + t0) * 2 + which) * kPadded + state_of<Shape>(j, slot, 0);
    if constexpr (Shape::kSlots == kStates) {
      to[0] = first[0];
      to[2 * kPadded] = second[0];
    } else if (slot < 2 * kStates) {
      to[(slot & kStates) != 0 ? 2 * kPadded : 0] = first[0];
    }
  };

  int piece = (tiles > 0 ? tiles - 1 : 0) / piece_tiles;  // the tile's
  float dD[2] = {};
  float dbias[2] = {};
  if (tiles > 0) {
    fetch(tiles - 1);
    fetch_coefficients(tiles - 1);
    fetch_state();
    if (kPieces) enter(piece);
    async_wait_all();
    __syncthreads();
    prepare(tiles - 1);
  }
  for (int tile = tiles - 1; tile >= 0; --tile) {
    __syncthreads();
    if (kVectors && tile > 0) fetch(tile - 1);
    float decay[kTile][2][kStates];    // a_t
    float decayed[kTile][2][kStates];  // a_t h_{t-1}
    {
      float h[2][kStates];
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        if constexpr (kPieces) {
          const auto entering = load_vector<kStates>(s_entering + (c * kThreads + tid) * kStates);
#pragma unroll
          for (int s = 0; s < kStates; ++s) {
            h[c][s] = fmaf(exp2_fast(A2[c][s] * delta_before[c]), entering.v[s], state[c][s]);
          }
        } else {
#pragma unroll
          for (int s = 0; s < kStates; ++s) h[c][s] = state[c][s];
        }
      }
#pragma unroll
      for (int t0 = 0; t0 < kTile; t0 += 2) {
        const auto delta = load_vector<4>(s_delta + lane_row + 2 * t0);
        const auto input = load_vector<4>(s_input + lane_row + 2 * t0);
        const auto e = load_vector<4>(s_e + lane_row + 2 * t0);
        float y[4], dC[2][kStates];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int t = t0 + i;
          const float* const row = s_B + order_row + t * kTokenRow;
          const auto b = load_vector<kStates>(row);
          const auto gain = load_vector<kStates>(row + Shape::kCoefficients);
#pragma unroll
          for (int s = 0; s < kStates; ++s) {
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const int k = 2 * i + c;
              decay[t][c][s] = exp2_fast(delta.v[k] * A2[c][s]);
              decayed[t][c][s] = decay[t][c][s] * h[c][s];
              h[c][s] = fmaf(input.v[k], b.v[s], decayed[t][c][s]);
              y[k] = s == 0 ? h[c][s] * gain.v[s] : fmaf(h[c][s], gain.v[s], y[k]);
              dC[i][s] = c == 0 ? e.v[k] * h[c][s] : fmaf(e.v[k], h[c][s], dC[i][s]);
            }
          }
        }
        store_vector(s_y + j * kParts + lane_row + 2 * t0, y);
        share(t0, 1, dC[0], dC[1]);
      }
    }
#pragma unroll
    for (int t0 = kTile - 2; t0 >= 0; t0 -= 2) {
      // From here on half of what decayed[] held is free.
      if (t0 == kTile / 2 - 2 && tile > 0) {
        if (!kVectors) fetch(tile - 1);
        fetch_coefficients(tile - 1);
        fetch_state();
      }
      const auto delta = load_vector<4>(s_delta + lane_row + 2 * t0);
      const auto input = load_vector<4>(s_input + lane_row + 2 * t0);
      const auto e = load_vector<4>(s_e + lane_row + 2 * t0);
      float gB[4], gA[4], dB[2][kStates];
#pragma unroll
      for (int i = 1; i >= 0; --i) {
        const int t = t0 + i;
        const float* const row = s_B + order_row + t * kTokenRow;
        const auto b = load_vector<kStates>(row);
        const auto gain = load_vector<kStates>(row + Shape::kCoefficients);
#pragma unroll
        for (int s = 0; s < kStates; ++s) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            const int k = 2 * i + c;
            g[c][s] = fmaf(e.v[k], gain.v[s], g[c][s]);
            const float by_A = g[c][s] * decayed[t][c][s];
            gB[k] = s == 0 ? g[c][s] * b.v[s] : fmaf(g[c][s], b.v[s], gB[k]);
            gA[k] = s == 0 ? A2[c][s] * by_A : fmaf(A2[c][s], by_A, gA[k]);
            dA[c][s] = fmaf(delta.v[k], by_A, dA[c][s]);
            dB[i][s] = c == 0 ? g[c][s] * input.v[k] : fmaf(g[c][s], input.v[k], dB[i][s]);
            g[c][s] *= decay[t][c][s];
          }
        }
      }
      store_vector(s_gB + j * kParts + lane_row + 2 * t0, gB);
      store_vector(s_gA + j * kParts + lane_row + 2 * t0, gA);
      share(t0, 0, dB[0], dB[1]);
    }
    async_wait_all();
    __syncthreads();

    const int left = at.tokens - tile * kTile;
    {
      // The sum over the lanes of what each summed over its states.
      const auto lanes_sum = [&](const float* from, float(&sum)[kElements]) {
#pragma unroll
        for (int other = 0; other < kLanes; ++other) {
          const auto part = load_vector<kElements>(from + other * kParts + element_row);
#pragma unroll
          for (int k = 0; k < kElements; ++k) sum[k] = other == 0 ? part.v[k] : sum[k] + part.v[k];
        }
      };
      float y[kElements], gB[kElements], gA[kElements], dx[kElements], ddt[kElements];
      lanes_sum(s_y, y);
      lanes_sum(s_gB, gB);
      lanes_sum(s_gA, gA);
      const auto x_value = load_vector<kElements>(s_x + kept);
      const auto slope = load_vector<kElements>(s_slope + kept);
      const auto delta = load_vector<kElements>(s_delta + element_row);
      const auto e = load_vector<kElements>(s_e + element_row);
#pragma unroll
      for (int k = 0; k < kElements; ++k) {
        y[k] = fmaf(D[k % 2], x_value.v[k], y[k]);
        dx[k] = fmaf(D[k % 2], e.v[k], delta.v[k] * gB[k]);
        ddt[k] = fmaf(x_value.v[k], gB[k], gA[k] * kLn2) * slope.v[k];
        dD[k % 2] = fmaf(e.v[k], x_value.v[k], dD[k % 2]);
        if (mine.token0 + k / 2 < left) dbias[k % 2] += ddt[k];
      }
      float dz[kElements] = {};
      if (gated) {
        const auto factor = load_vector<kElements>(s_dz + kept);
#pragma unroll
        for (int k = 0; k < kElements; ++k) dz[k] = factor.v[k] * y[k];
        if (y_to.tile != nullptr) {
          const auto gate = load_vector<kElements>(s_gate + kept);
#pragma unroll
          for (int k = 0; k < kElements; ++k) y[k] *= gate.v[k];
        }
      }
      if (q.accumulate) {
        if (dx_to.tile != nullptr) add_elements(dx_to, mine, dx, left, channels);
        if (ddt_to.tile != nullptr) add_elements(ddt_to, mine, ddt, left, channels);
        if (dz_to.tile != nullptr) add_elements(dz_to, mine, dz, left, channels);
      }
      const auto store = [&](TileCursor<Shape, T>& to, const float(&v)[kElements]) {
        if (to.tile == nullptr) return;
        store_elements<kVectors>(to, mine, v, left, channels);
        to.move(-1);
      };
      store(dx_to, dx);
      store(ddt_to, ddt);
      store(dz_to, dz);
      store(y_to, y);
    }
    if (share_to != nullptr) {
#pragma unroll
      for (int i = 0; i < kShares; ++i) {
        const int token = share_token + i * kShareTokens;
        if (token >= left || token >= kTile) continue;
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < Shape::kWarps; ++w) {
          sum += s_share[w * kTile * 2 * kPadded + tid + i * kThreads];
        }
        share_to[i * kShareTokens * share_step] = sum;
      }
      share_to -= kTile * share_step;
    }
    if (kPieces && tile > 0 && tile == piece * piece_tiles) enter(--piece);
    if (tile > 0) prepare(tile - 1);
  }

#pragma unroll
  for (int c = 0; c < 2; ++c) {
#pragma unroll
    for (int s = 0; s < kStates; ++s) {
      const int n = state_of<Shape>(j, slot, s);
      const index_t d = lane_d + c;
      if (c >= lane_channels || n >= p.d_state) continue;
      if (q.shares.dA != nullptr) {
        q.shares.dA[(chunk_row * p.channels + d) * p.d_state + n] = dA[c][s];
      }
      if (at.chunk == 0 && q.dh0.data != nullptr) {
        store_sum(
            q.dh0.data + at.sequence * q.dh0.stride[0] + d * q.dh0.stride[1] + n * q.dh0.stride[2],
            g[c][s], q.accumulate);
      }
    }
  }
  // Per channel: the threads' sums in the order of their tokens.
  __syncthreads();
  float* const s_dD = s_delta;
  float* const s_dbias = s_delta + 2 * kThreads;
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    s_dD[2 * tid + c] = dD[c];
    s_dbias[2 * tid + c] = dbias[c];
  }
  __syncthreads();
  if (tid < at.channels) {
    float sum_D = 0.0f;
    float sum_bias = 0.0f;
    for (int i = tid; i < 2 * kThreads; i += Shape::kBlockChannels) {
      sum_D += s_dD[i];
      sum_bias += s_dbias[i];
    }
    const index_t to = chunk_row * p.channels + at.channel0 + tid;
    if (q.shares.dD != nullptr) q.shares.dD[to] = sum_D;
    if (q.shares.dbias != nullptr) q.shares.dbias[to] = sum_bias;
  }
}

}  // namespace detail
SSM_NAMESPACE_END
