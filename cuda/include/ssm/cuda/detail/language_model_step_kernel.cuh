#pragma once

#include <algorithm>
#include <type_traits>

#include "ssm/cuda/context.hpp"
#include "ssm/cuda/detail/matrix_tile.cuh"
#include "ssm/cuda/detail/shared_barrier.cuh"
#include "ssm/cuda/detail/tagged_words.cuh"
#include "ssm/cuda/detail/weight_stream.cuh"

// A token of a few rows through many layers, in one kernel of one block a multiprocessor. A block
// owns some channels of d_inner (their rows of in_proj, for x and for z, and of dt_proj, and their
// states), some rows of x_proj, of out_proj with their part of the residual, and of the head. A
// layer has five parts, each a product with some of its rows:
//
//   in    waits for the residual; norm, in_proj, convolution;  gives x
//   z     while x is on its way;  in_proj;                     keeps the gate
//   x     waits for x;            x_proj;                      gives dt (of low rank), B, C
//   dt    waits for dt, B, C;     dt_proj, scan, gate;         gives y
//   out   waits for y;            out_proj, residual;          gives the residual
//
// The rows of z that are a few copies for a lane (kStepCopiesOfZ) belong to the part `in`, which
// costs less than a part of their own.
//
// Weights depend on no activation: while a block waits, some of its warps go on copying them.
//
// What a part gives goes to all blocks as tagged words, with the layer as the tag, and each kind
// has one buffer for all layers. Every block owns a channel and an element of the residual, so
// nobody writes what is still to be read from the layer before:
//
// - x, after the whole residual: each block gave its part of that after it had read x.
// - dt, B and C, after all of x: each block gave its x after it had read dt, B and C.
// - y, after the whole residual too: each block gave its part of that after it had read y.
// - the residual, after all of y: each block gave its y after it had read the residual.
//
// All blocks must run at once: the launch is cooperative.

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kStepMaxTokens = 4;
// Layers of a launch, and the driver that takes so many parameters.
#if CUDART_VERSION >= 12010
constexpr int kStepMaxLayers = 64, kStepMaxParams = 32764, kStepDriver = 12010;
#else
constexpr int kStepMaxLayers = 32, kStepMaxParams = 4096, kStepDriver = 0;
#endif
constexpr int kStepMaxOlder = 3;  // d_conv - 1
constexpr int kStepStates = 4;    // of a thread
constexpr int kStepMaxStates = 32;
constexpr int kStepMinDepth = 4;  // of the ring of copies
// Groups of copies, of 2 KB, that a block has on their way at once: as many as keep the memory
// busy. More would only queue up, and what the blocks exchange would wait behind them.
constexpr int kStepInFlight = 16;

// Nanoseconds before a block looks for what others give: the best of those tried on an H100 at
// d_model 768, and at 2048 and 2560, whose weights take longer to come.
constexpr int step_nap(int tokens, bool z_apart) { return tokens == 4 ? 200 : z_apart ? 600 : 250; }

// The parts of a layer, and what follows the last one.
constexpr int kStepIn = 0, kStepZ = 1, kStepX = 2, kStepDt = 3, kStepOut = 4, kStepHead = 5;
constexpr int kStepLayerParts = 5, kStepParts = 6;
// Copies of a lane from which on the product for z is a part of its own.
constexpr int kStepCopiesOfZ = 4;

// Rows that a kernel is compiled for.
__host__ __device__ constexpr int step_tokens(int batch) { return batch <= 2 ? batch : 4; }
// Warps that multiply, at most, and that copy: eight in all where they need many registers.
__host__ __device__ constexpr int step_warps(int tokens) { return tokens == 4 ? 6 : 8; }
__host__ __device__ constexpr int step_copy_warps(int tokens) { return tokens == 4 ? 2 : 4; }

template <class T>
struct LanguageModelStepLayer {
  const T* in_proj_weight;
  const T* x_proj_weight;
  const T* dt_proj_weight;
  const T* out_proj_weight;
  const T* norm_weight;
  const T* in_proj_bias;
  const T* conv1d_weight;
  const T* conv1d_bias;
  const T* out_proj_bias;
  const float* dt_proj_bias;
  const float* A;
  const float* D;
  float* conv;
  float* ssm;

  LanguageModelStepLayer() = default;
  explicit LanguageModelStepLayer(const MambaStepArgs<T>& a) noexcept
      : in_proj_weight(a.in_proj_weight.data()),
        x_proj_weight(a.x_proj_weight.data()),
        dt_proj_weight(a.dt_proj_weight.data()),
        out_proj_weight(a.out_proj_weight.data()),
        norm_weight(a.norm_weight.data()),
        in_proj_bias(a.in_proj_bias.data()),
        conv1d_weight(a.conv1d_weight.data()),
        conv1d_bias(a.conv1d_bias.data()),
        out_proj_bias(a.out_proj_bias.data()),
        dt_proj_bias(a.dt_proj_bias.data()),
        A(a.A.data()),
        D(a.D.data()),
        conv(a.conv.data()),
        ssm(a.ssm.data()) {}
};

// What a block has in shared memory, as offsets in bytes.
template <class T>
struct StepShared {
  int layers, vectors, dt_BC, sums, z_sums, own_x, own_gate, squares, scales, places;
  int ring, barriers, bytes;
  int depth;  // groups of copies in the ring of a lane

  // Rows of the head that are multiplied before their sums are taken.
  __host__ __device__ static int head_rows(const StreamShape& s) {
    const int lanes = 1 << s.lanes_log2;
    return lanes < kStreamRows ? kStreamRows : lanes;
  }

  StepShared() = default;
  StepShared(const StreamShape (&shapes)[kStepParts], int n_layer, int d_model, int d_inner,
             int mixes, int warps, int tokens, int capacity) noexcept {
    int used = 0;
    const auto take = [&](int count, std::size_t size) {
      const int at = used;
      used += (count * static_cast<int>(size) + 15) / 16 * 16;
      return at;
    };
    layers = take(std::min(n_layer, kStepMaxLayers), sizeof(LanguageModelStepLayer<T>));
    vectors = take(tokens, std::max(static_cast<std::size_t>(d_model) * sizeof(float),
                                    static_cast<std::size_t>(d_inner) * sizeof(T)));
    dt_BC = take(tokens * mixes, sizeof(float));
    const StreamShape& head = shapes[kStepHead];
    int most = 2 * head.warps * head.groups(warps) * head_rows(head);
    const auto sums_of = [&](int i) { return shapes[i].warps * shapes[i].fours * kStreamRows; };
    for (int i = 0; i < kStepLayerParts; ++i) most = std::max(most, sums_of(i));
    sums = take(most * tokens, sizeof(float));
    z_sums = take(sums_of(kStepZ) * tokens, sizeof(float));
    own_x = take(shapes[kStepDt].fours * kStreamRows * tokens, sizeof(float));
    own_gate = take(shapes[kStepDt].fours * kStreamRows * tokens, sizeof(float));
    squares = take(kStreamMaxWarps * tokens, sizeof(float));
    scales = take(3 * tokens, sizeof(float));
    places = take(kStepParts * kStreamMaxWarps, sizeof(int));
    // The ring has what is left, from a boundary of whole lines on.
    constexpr int kPlace = 32 * kStreamRows * 16, kBarriers = 2 * sizeof(SharedBarrier);
    used = (used + 127) / 128 * 128;
    depth = std::max(0, capacity - used) / (warps * (kPlace + kBarriers));
    ring = take(warps * depth, kPlace);
    barriers = take(warps * depth, kBarriers);
    bytes = used;
  }
};

template <class T>
struct LanguageModelStepParams {
  LanguageModelStepLayer<T> layers[kStepMaxLayers];
  StreamShape shapes[kStepParts];
  StepShared<T> shared;
  int first_layer, layer_count;
  int batch, d_model, d_inner, d_state, dt_rank, older, vocabulary;
  int state_lanes_log2;  // threads that share the states of a channel
  int nap;               // nanoseconds: step_nap
  float inverse_d_model, norm_eps, norm_f_eps, dt_b_c_eps;
  bool gate, z_apart, dt_b_c_norm, ends_in_head;
  Extents<2> conv_stride;  // of the state: slot, age
  Extents<2> ssm_stride;   // slot, state
  Extents<2> logits_stride;
  index_t conv1d_stride, A_stride, ids_stride, slots_stride, embedding_stride;
  const index_t* ids;
  const index_t* slots;  // null: row b has state b
  const T* embedding;
  const T* norm_f_weight;
  const T* head;
  float* logits;
  TaggedWords<float> residual;
  TaggedWords<T> x, y, dt_BC;
};
static_assert(sizeof(LanguageModelStepParams<float>) <= kStepMaxParams, "more than a kernel takes");

// A range of neighbouring rows or channels.
struct StepRange {
  int first, count;
  // The share of this block in `total`. The blocks that have one more than others are those from
  // number `dealt` on, modulo the blocks.
  static __device__ StepRange of_block(int total, int dealt) {
    const int blocks = static_cast<int>(gridDim.x);
    const int block = (static_cast<int>(blockIdx.x) + blocks - dealt % blocks) % blocks;
    const int each = total / blocks;
    const int more = total % blocks;
    return {block * each + min(block, more), each + (block < more ? 1 : 0)};
  }
};

// The vectors of a product in shared memory: packs of T, or of floats, whose halves are half_bytes
// apart.
struct StepVectors {
  const unsigned char* data;
  bool floats;
  int pack_bytes, half_bytes, token_bytes;
};

// What a lane multiplies: packs of kStreamRows rows with the packs of the vectors that stand at the
// same columns. A sum r kTokens + b is that of row r and token b.
template <class T, int kTokens, bool kOnTiles>
class StepProducts {
  static constexpr int kCount = Pack<T>::kCount;

 public:
  __device__ void fetch(const StepVectors& vectors, const unsigned char* at) {
#pragma unroll
    for (int b = 0; b < kTokens; ++b) {
      const unsigned char* const from = at + b * vectors.token_bytes;
      if (kCount == 8 && vectors.floats) {
#pragma unroll
        for (int h = 0; h < kCount / 4; ++h) {
          const float4 v = *reinterpret_cast<const float4*>(from + h * vectors.half_bytes);
          x_[b][4 * h] = v.x;
          x_[b][4 * h + 1] = v.y;
          x_[b][4 * h + 2] = v.z;
          x_[b][4 * h + 3] = v.w;
        }
      } else {
        Pack<T>{*reinterpret_cast<const uint4*>(from)}.widen(x_[b]);
      }
    }
  }
  __device__ void add(const Pack<T> (&packs)[kStreamRows]) {
#pragma unroll
    for (int r = 0; r < kStreamRows; ++r) {
      float weight[kCount];
      packs[r].widen(weight);
#pragma unroll
      for (int b = 0; b < kTokens; ++b) {
#pragma unroll
        for (int j = 0; j < kCount; ++j) {
          sum_[r * kTokens + b] = fmaf(weight[j], x_[b][j], sum_[r * kTokens + b]);
        }
      }
    }
  }
  __device__ void get(float (&sum)[kStreamRows * kTokens]) const {
#pragma unroll
    for (int i = 0; i < kStreamRows * kTokens; ++i) sum[i] = sum_[i];
  }

 private:
  float x_[kTokens][kCount];
  float sum_[kStreamRows * kTokens] = {};
};

// The same on the tensor cores. Four neighbouring lanes, a group, have the row g of a tile (16 x
// 16) of vectors, g + 8 of a second token, and the column g of a tile of weights (16 x 8): of
// the products of all groups with all, their own are on the diagonal.
template <class T, int kTokens>
class StepProducts<T, kTokens, true> {
  static_assert(kTokens % 2 == 0, "two tokens share a tile");

 public:
  __device__ void fetch(const StepVectors& vectors, const unsigned char* at) {
#pragma unroll
    for (int b = 0; b < kTokens; ++b) {
      x_[b] = *reinterpret_cast<const uint4*>(at + b * vectors.token_bytes);
    }
  }
  __device__ void add(const Pack<T> (&packs)[kStreamRows]) {
#pragma unroll
    for (int r = 0; r < kStreamRows; ++r) {
      const uint4 w = packs[r].bits;
#pragma unroll
      for (int i = 0; i < kTokens / 2; ++i) {
        const uint4 x = x_[2 * i], y = x_[2 * i + 1];
        multiply_tile<T>(tiles_[r][i], {x.x, y.x, x.y, y.y}, {w.x, w.y});
        multiply_tile<T>(tiles_[r][i], {x.z, y.z, x.w, y.w}, {w.z, w.w});
      }
    }
  }
  // A lane without an element of the diagonal has zeros.
  __device__ void get(float (&sum)[kStreamRows * kTokens]) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int at = lane / 4 - 2 * (lane % 4);
#pragma unroll
    for (int r = 0; r < kStreamRows; ++r) {
#pragma unroll
      for (int b = 0; b < kTokens; ++b) {
        const float* const own = tiles_[r][b / 2] + b % 2 * 2;
        sum[r * kTokens + b] = at == 0 ? own[0] : at == 1 ? own[1] : 0.0f;
      }
    }
  }

 private:
  uint4 x_[kTokens];
  float tiles_[kStreamRows][kTokens / 2][4] = {};
};

template <class T, int kTokens>
class LanguageModelStepBlock {
  static constexpr int kCount = Pack<T>::kCount;
  // Products on the tensor cores, of vectors rounded to T, where there are rows enough. Before its
  // scale, what is normed has the range of floats, which f16 has not.
  static constexpr bool kOnTiles = std::is_same<T, bf16>::value && kTokens == 4;
  static constexpr int kFloat = static_cast<int>(sizeof(float));
  // Channels of which a thread has kStepStates states in one row, at most.
  static constexpr int kScans = kTokens;
  static constexpr int kCopyWarps = step_copy_warps(kTokens);
  using Params = LanguageModelStepParams<T>;
  using Layer = LanguageModelStepLayer<T>;

 public:
  __device__ LanguageModelStepBlock(const Params& params, unsigned char* shared)
      : p_(params),
        at_(params.shared),
        shared_(shared),
        thread_(static_cast<int>(threadIdx.x)),
        threads_(static_cast<int>(blockDim.x) - 32 * kCopyWarps),
        warp_(thread_ / 32),
        channels_(StepRange::of_block(p_.d_inner, 0)),
        outputs_(StepRange::of_block(p_.d_model, p_.d_inner)),
        mixes_(StepRange::of_block(mixes(), p_.d_inner + p_.d_model)),
        words_(StepRange::of_block(p_.vocabulary, p_.d_inner + p_.d_model + mixes())),
        channel_(share_of(thread_, channels_.count)),
        mix_(share_of(thread_, mixes_.count)),
        output_(share_of(thread_, outputs_.count)) {
    for (int i = 0; i < kScans; ++i) {
      scan_[i] = share_of((i * threads_ + thread_) >> p_.state_lanes_log2, channels_.count);
    }
  }

  __device__ void run() {
    const int all = static_cast<int>(blockDim.x);
    for (int i = thread_; i < kStepParts * kStreamMaxWarps; i += all) {
      const StreamShape& s = p_.shapes[i / kStreamMaxWarps];
      const int warp = i % kStreamMaxWarps;
      const int group = warp / s.warps;
      at<int>(at_.places)[i] = warp < threads_ / 32 && group < threads_ / 32 / s.warps
                                   ? group << 8 | warp % s.warps
                                   : -1;
    }
    for (int i = thread_; i < threads_ / 32 * at_.depth; i += all) {
      at<SharedBarrier>(at_.barriers)[2 * i].init(32);
      at<SharedBarrier>(at_.barriers)[2 * i + 1].init(1);
    }
    // In shared memory the pointers are nearer than those of a parameter that was not read before.
    constexpr int kWords = static_cast<int>(sizeof(Layer) / sizeof(std::uint64_t));
    for (int i = thread_; i < kWords * p_.layer_count; i += all) {
      at<std::uint64_t>(at_.layers)[i] = reinterpret_cast<const std::uint64_t*>(p_.layers)[i];
    }
    __syncthreads();
    if (thread_ >= threads_) return copy_weights();
    prepare_convolution(layer(0));
    begin_residual();
#pragma unroll 1
    for (int l = 0; l < p_.layer_count; ++l) run_layer(l);
    if (p_.ends_in_head) run_head();
  }

 private:
  // What a thread has of a vector of `count` values of the block for every row: row 2^16 + place;
  // negative: nothing.
  __device__ int share_of(int i, int count) const {
    return i < count * p_.batch ? i / count << 16 | i % count : -1;
  }
  // The row of element i of all rows' vectors of `count`.
  static __device__ int row_at(int i, int count) {
    int b = 0;
#pragma unroll
    for (int c = 1; c < kTokens; ++c) b += i >= c * count ? 1 : 0;
    return b;
  }
  static __device__ int row_of(int share) { return share >> 16; }
  static __device__ int place_in(int share) { return share & 0xffff; }

  template <class U>
  __device__ U* at(int offset) const {
    return reinterpret_cast<U*>(shared_ + offset);
  }
  __device__ const Layer& layer(int l) const { return at<const Layer>(at_.layers)[l]; }
  __device__ index_t slot_of(int b) const {
    return p_.slots == nullptr ? b : p_.slots[b * p_.slots_stride];
  }
  __device__ int mixes() const { return p_.dt_rank + 2 * p_.d_state; }
  // What the block has of a part's rows.
  __device__ StepRange range_of(int part) const {
    switch (part) {
      case kStepX:
        return mixes_;
      case kStepOut:
        return outputs_;
      case kStepHead:
        return words_;
      case kStepZ:
        return p_.z_apart ? channels_ : StepRange{0, 0};
      default:
        return channels_;
    }
  }
  static __device__ int fours_of(int rows) { return (rows + kStreamRows - 1) / kStreamRows; }
  __device__ bool z_within() const { return p_.gate && !p_.z_apart; }
  // The rows of z within the part `in` follow on the last four of x.
  __device__ StreamPlace place_of(int part, int warp) const {
    const int fours = fours_of(range_of(part).count) << (part == kStepIn && z_within() ? 1 : 0);
    return stream_place(p_.shapes[part], at<int>(at_.places)[part * kStreamMaxWarps + warp], fours);
  }
  __device__ const T* weight_of(const Layer& layer, int part) const {
    switch (part) {
      case kStepX:
        return layer.x_proj_weight;
      case kStepDt:
        return layer.dt_proj_weight;
      case kStepOut:
        return layer.out_proj_weight;
      default:
        return layer.in_proj_weight;
    }
  }
  // The packs of this lane of a warp in a place of the ring: one of each row of a four, 32 apart.
  __device__ uint4* ring(int warp, int place) const {
    return at<uint4>(at_.ring) + (warp * at_.depth + place) * kStreamRows * 32 + thread_ % 32;
  }
  // Of a place: that all lanes' copies have landed, and that it is free again.
  __device__ SharedBarrier& landed(int warp, int place) const {
    return at<SharedBarrier>(at_.barriers)[2 * (warp * at_.depth + place)];
  }
  __device__ SharedBarrier& taken(int warp, int place) const {
    return at<SharedBarrier>(at_.barriers)[2 * (warp * at_.depth + place) + 1];
  }

  // Where the copies for a warp are.
  struct Ahead {
    int warp;
    unsigned parts;  // of which the warp has rows, as bits
    int layer = 0, part = -1;
    int copied = 0;       // the place of the ring that is next
    unsigned parity = 1;  // of the phase in which it was free, which has been at the start
    StreamPlace place;    // of the fours still to be copied
    // Of the part.
    const unsigned char* weight;  // this lane's first pack of row 0
    int first_row, row_count, x_fours;
    int lane_packs, packs;  // of a row that a lane has, and that there are for this one
    int step;               // bytes from a lane's pack to its next
    unsigned row_bytes;
    // Of the four.
    const unsigned char* from;  // the next pack of its first row
    int done;                   // packs
    int rows;                   // from its first on
  };

  // The work of a copying warp: the streams of some of the others, whichever has a free place.
  __device__ void copy_weights() {
    constexpr int kStreams = step_warps(kTokens) / kCopyWarps;
    Ahead streams[kStreams];
#pragma unroll
    for (int i = 0; i < kStreams; ++i) {
      streams[i].warp = warp_ - threads_ / 32 + i * kCopyWarps;
      begin_stream(streams[i]);
    }
    bool more;
    do {
      more = false;
      bool copied = false;
#pragma unroll
      for (int i = 0; i < kStreams; ++i) {
        Ahead& s = streams[i];
        if (s.place.warp_fours == 0) continue;
        more = true;
        if (!__all_sync(0xffffffffu, taken(s.warp, s.copied).passed(s.parity))) continue;
        copy_group(s);
        copied = true;
      }
      if (!copied) __nanosleep(20);
    } while (more);
    async_wait_all();
  }
  __device__ void begin_stream(Ahead& s) const {
    s.parts = 0;
    for (int part = 0; part < (p_.ends_in_head ? kStepParts : kStepLayerParts); ++part) {
      if (place_of(part, s.warp).warp_fours > 0) s.parts |= 1u << part;
    }
    next_weight(s);
  }
  // Goes on to the next part of which the warp has rows; false at the end of the stream.
  __device__ bool next_part(Ahead& s) const {
    constexpr unsigned kOfLayer = (1u << kStepLayerParts) - 1;
    const unsigned later = s.parts & ~0u << (s.part + 1);
    unsigned next = later & kOfLayer;
    if (next == 0 && ++s.layer < p_.layer_count) next = s.parts & kOfLayer;
    if (next == 0) next = later;
    s.part = __ffs(static_cast<int>(next)) - 1;
    return next != 0;
  }
  // Goes on to the next weight, or to the end of the stream.
  __device__ void next_weight(Ahead& s) const {
    s.place.warp_fours = 0;
    if (!next_part(s)) return;
    const int part = s.part;
    s.place = place_of(part, s.warp);
    const StreamShape& shape = p_.shapes[part];
    const StepRange range = range_of(part);
    const T* const weight = part == kStepHead ? p_.head : weight_of(layer(s.layer), part);
    s.weight = reinterpret_cast<const unsigned char*>(weight) + s.place.pack * 16;
    s.first_row = range.first;
    s.row_count = range.count;
    s.x_fours = part == kStepIn ? fours_of(range.count) : part == kStepZ ? 0 : 0x7fffffff;
    s.row_bytes = shape.row_bytes;
    s.lane_packs = shape.lane_packs;
    s.step = 16 << shape.lanes_log2;
    s.packs = (shape.packs - s.place.pack + (1 << shape.lanes_log2) - 1) >> shape.lanes_log2;
    begin_four(s);
  }
  __device__ void begin_four(Ahead& s) const {
    const bool z = s.place.first >= s.x_fours;
    const int row = (z ? s.place.first - s.x_fours : s.place.first) * kStreamRows;
    const int weight_row = s.first_row + row + (z ? p_.d_inner : 0);
    s.done = 0;
    s.rows = s.place.fours > 0 ? s.row_count - row : 0;
    s.from = s.weight + static_cast<std::size_t>(static_cast<unsigned>(weight_row)) * s.row_bytes;
  }
  // One pack of each row of a four, into the next place of the ring.
  __device__ void copy_group(Ahead& s) const {
    const int bytes = s.done < s.packs ? 16 : 0;
    const unsigned char* const from = s.from;
    const std::size_t row_bytes = s.row_bytes;
    uint4* const to = ring(s.warp, s.copied);
#pragma unroll
    for (int r = 0; r < kStreamRows; ++r) {
      if (r < s.rows) async_copy_16(to + r * 32, from + r * row_bytes, bytes);
    }
    landed(s.warp, s.copied).arrive_after_copies();
    async_commit();
    async_wait<kStepInFlight / kCopyWarps>();
    if (++s.copied == at_.depth) {
      s.copied = 0;
      s.parity ^= 1;
    }
    s.from += s.step;
    if (++s.done < s.lane_packs) return;
    ++s.place.first;
    --s.place.fours;
    if (--s.place.warp_fours == 0) {
      next_weight(s);
    } else {
      begin_four(s);
    }
  }

  // This thread's element of the residual, if it has one.
  __device__ void begin_residual() {
    if (output_ < 0) return;
    const int b = row_of(output_);
    const int i = outputs_.first + place_in(output_);
    residual_ = p_.first_layer == 0 ? load_float(embedding_of(b)[i])
                                    : p_.residual.value(b * p_.d_model + i);
  }
  __device__ const T* embedding_of(int b) const {
    return p_.embedding + p_.ids[b * p_.ids_stride] * p_.embedding_stride;
  }

  // The parts are code of their own, so that what differs between them costs no instructions.
  __device__ void run_layer(int l) {
    const Layer& here = layer(l);
    const unsigned tag = static_cast<unsigned>(p_.first_layer + l);
    receive_residual(here.norm_weight, tag);
    sync_some(threads_);
    multiply_rows<kStepIn>(normed());
    finish_in(tag + 1);
    prepare_scan(here);
    if (p_.z_apart) {  // the residual is still there
      multiply_rows<kStepZ>(normed());
      finish_z(kStepZ, 0);
    }
    if (mixes_.count > 0) receive_rounded(p_.x, tag + 1);
    sync_some(threads_);
    multiply_rows<kStepX>(rounded(p_.d_inner));
    finish_x(tag + 1);

    receive_dt_b_c(tag + 1);
    sync_some(threads_);
    if (p_.dt_b_c_norm) norm_dt_b_c();
    multiply_rows<kStepDt>(low_rank());
    finish_dt(tag + 1);
    if (l + 1 < p_.layer_count) prepare_convolution(layer(l + 1));

    if (outputs_.count > 0) receive_rounded(p_.y, tag + 1);
    sync_some(threads_);
    multiply_rows<kStepOut>(rounded(p_.d_inner));
    finish_out(here, tag + 1);
  }

  // The head takes its rows a few at a time.
  __device__ void run_head() {
    const StreamShape& shape = p_.shapes[kStepHead];
    const StreamPlace place = place_of(kStepHead, warp_);
    receive_residual(p_.norm_f_weight, static_cast<unsigned>(p_.first_layer + p_.layer_count));
    sync_some(threads_);
    const int all = shape.groups(threads_ / 32);
    const int fours = StepShared<T>::head_rows(shape) / kStreamRows;
    const int stride = all * fours * kStreamRows;
    float* sums = at<float>(at_.sums);
    // The next ones have a place of their own while these are still read.
    int other = shape.warps * stride * kTokens;
#pragma unroll 1
    for (int four = 0; four < shape.fours_a_group; four += fours) {
      multiply(shape, place, normed(), four, four + fours,
               sums + (place.warp * stride + (place.group * fours - four) * kStreamRows) * kTokens);
      sync_some(threads_);
      finish_head(shape, sums, all, four, fours);
      sums += other;
      other = -other;
    }
  }

  // The residual as receive_residual leaves it, and x or y as receive_rounded does.
  __device__ StepVectors normed() const {
    if constexpr (kOnTiles) return rounded(p_.d_model);
    return {at<unsigned char>(at_.vectors), true, 16, kCount == 4 ? 0 : p_.d_model / 2 * kFloat,
            p_.d_model * kFloat};
  }
  __device__ StepVectors low_rank() const {
    if constexpr (kOnTiles) return rounded(p_.dt_rank);
    return {at<unsigned char>(at_.dt_BC), true, kCount * kFloat, 16, mixes() * kFloat};
  }
  __device__ StepVectors rounded(int count) const {
    return {at<unsigned char>(at_.vectors), sizeof(T) == 4, 16, 0,
            count * static_cast<int>(sizeof(T))};
  }
  __device__ void receive_rounded(const TaggedWords<T>& from, unsigned tag) const {
    T* const to = at<T>(at_.vectors);
    from.receive(
        threads_, p_.batch * p_.d_inner, tag, p_.nap, [](int) { return 0; },
        [&](int i, const typename TaggedWords<T>::Loaded& values, int) { values.store(to + i); });
  }
  __device__ void receive_dt_b_c(unsigned tag) const {
    float* const to = at<float>(at_.dt_BC);
    p_.dt_BC.receive(
        threads_, p_.batch * mixes(), tag, p_.nap, [](int) { return 0; },
        [&](int i, const typename TaggedWords<T>::Loaded& values, int) {
#pragma unroll
          for (int j = 0; j < TaggedWords<T>::kPerLoad; ++j) to[i + j] = values[j];
          if constexpr (kOnTiles) {
            const int b = row_at(i, mixes());
            const int k = i - b * mixes();
            if (k < p_.dt_rank) values.store(at<T>(at_.vectors) + b * p_.dt_rank + k);
          }
        });
  }
  // The sums of all of the block's rows of a part of a layer.
  template <int kPart>
  __device__ void multiply_rows(const StepVectors& vectors) {
    const StreamShape& shape = p_.shapes[kPart];
    const StreamPlace place = place_of(kPart, warp_);
    const int row = (place.warp * shape.fours + place.first) * kStreamRows;
    multiply(shape, place, vectors, 0, shape.fours_a_group,
             at<float>(sums_at(kPart)) + row * kTokens);
    sync_some(threads_);
  }

  // The residual before a layer times the weight of its norm into shared memory, and the sums of
  // the residual's squares.
  __device__ void receive_residual(const T* weight, unsigned tag) {
    constexpr int kPerLoad = TaggedWords<float>::kPerLoad;
    float* const to = at<float>(at_.vectors);
    float squares[kTokens] = {};
    const auto put = [&](int i, float value, float w) {
      const int b = row_at(i, p_.d_model);
      if constexpr (kOnTiles) {
        at<T>(at_.vectors)[i] = store_as<T>(value * w);
      } else {
        to[b * p_.d_model + gemv_slot<T>(i - b * p_.d_model, p_.d_model)] = value * w;
      }
#pragma unroll
      for (int c = 0; c < kTokens; ++c) {
        if (kTokens == 1 || b == c) squares[c] = fmaf(value, value, squares[c]);
      }
    };
    if (tag == 0) {
      for (int i = thread_; i < p_.batch * p_.d_model; i += threads_) {
        const int b = row_at(i, p_.d_model);
        const int place = i - b * p_.d_model;
        put(i, load_float(embedding_of(b)[place]), load_float(weight[place]));
      }
    } else {
      using Weights = Elements<T, kPerLoad>;
      p_.residual.receive(
          threads_, p_.batch * p_.d_model, tag, p_.nap,
          [&](int i) { return Weights::load(weight + i - row_at(i, p_.d_model) * p_.d_model); },
          [&](int i, const TaggedWords<float>::Loaded& values, const Weights& weights) {
#pragma unroll
            for (int j = 0; j < kPerLoad; ++j) put(i + j, values[j], weights[j]);
          });
    }
#pragma unroll
    for (int b = 0; b < kTokens; ++b) {
#pragma unroll
      for (int m = 16; m >= 1; m /= 2) squares[b] += __shfl_xor_sync(0xffffffffu, squares[b], m);
      if (thread_ % 32 == 0) at<float>(at_.squares)[warp_ * kTokens + b] = squares[b];
    }
  }
  __device__ float residual_scale(int b, float eps) const {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kStreamMaxWarps; ++w) {
      const float part = at<float>(at_.squares)[w * kTokens + b];
      sum += w < threads_ / 32 ? part : 0.0f;
    }
    return rsqrtf(fmaf(sum, p_.inverse_d_model, eps));
  }

  // The scales of dt, B and C of every row: a warp takes one after the other.
  __device__ void norm_dt_b_c() {
    for (int i = warp_; i < 3 * p_.batch; i += threads_ / 32) {
      const int kind = i % 3;
      const int count = kind == 0 ? p_.dt_rank : p_.d_state;
      const float* const from = at<float>(at_.dt_BC) + i / 3 * mixes() +
                                (kind == 0 ? 0 : p_.dt_rank + (kind - 1) * p_.d_state);
      float sum = 0.0f;
      for (int j = thread_ % 32; j < count; j += 32) sum = fmaf(from[j], from[j], sum);
#pragma unroll
      for (int m = 16; m >= 1; m /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, m);
      if (thread_ % 32 == 0) {
        at<float>(at_.scales)[i] = rsqrtf(sum / static_cast<float>(count) + p_.dt_b_c_eps);
      }
    }
  }
  __device__ float scale_of(int b, int kind) const {
    return p_.dt_b_c_norm ? at<float>(at_.scales)[3 * b + kind] : 1.0f;
  }

  // The fours [begin, end) of this lane's group. The sum of row r of its rows and token b goes to
  // sums[r kTokens + b].
  __device__ void multiply(const StreamShape& shape, const StreamPlace& place,
                           const StepVectors& vectors, int begin, int end, float* sums) {
    const int step = vectors.pack_bytes << shape.lanes_log2;
    const int lane_packs = shape.lane_packs;
    const int lanes_log2 = shape.lanes_log2;
    const unsigned char* const last = vectors.data + (shape.packs - 1) * vectors.pack_bytes;
    const unsigned char* const first = vectors.data + place.pack * vectors.pack_bytes;
    end = min(end, place.warp_fours);
#pragma unroll 1
    for (int four = begin; four < end; ++four) {
      StepProducts<T, kTokens, kOnTiles> products;
      const unsigned char* vector = first;
#pragma unroll 1
      for (int u = 0; u < lane_packs; ++u, vector += step) {
        // Beyond the end of a row the weights are zero.
        products.fetch(vectors, vector < last ? vector : last);
        while (!landed(warp_, next_).passed(parity_)) continue;
        const uint4* const from = ring(warp_, next_);
        Pack<T> packs[kStreamRows];
#pragma unroll
        for (int r = 0; r < kStreamRows; ++r) packs[r].bits = from[r * 32];
        products.add(packs);
        __syncwarp();
        if (thread_ % 32 == 0) taken(warp_, next_).arrive();
        if (++next_ == at_.depth) {
          next_ = 0;
          parity_ ^= 1;
        }
      }
      float sum[kStreamRows * kTokens];
      products.get(sum);
      sum_over_lanes(sum, lanes_log2, [&](int i, float value) {
        if (four < place.fours) sums[four * kStreamRows * kTokens + i] = value;
      });
    }
  }
  // The sum of a row over the warps of its group, in their order.
  __device__ float sum_of(const float* sums, const StreamShape& shape, int stride, int row,
                          int b) const {
    const float* from = sums + row * kTokens + b;
    float sum = 0.0f;
#pragma unroll 1
    for (int w = 0; w < shape.warps; w += 4) {
#pragma unroll
      for (int u = 0; u < 4; ++u) {
        if (w + u < shape.warps) sum += from[u * stride * kTokens];
      }
      from += 4 * stride * kTokens;
    }
    return sum;
  }
  __device__ int sums_at(int part) const { return part == kStepZ ? at_.z_sums : at_.sums; }
  __device__ float layer_sum(int part, int row, int b) const {
    const StreamShape& shape = p_.shapes[part];
    return sum_of(at<float>(sums_at(part)), shape, shape.fours * kStreamRows, row, b);
  }

  // Numbers of T as they were loaded: to widen one would be to wait for it.
  static __device__ float raw(T v) {
    if constexpr (sizeof(T) == 4) {
      return v;
    } else {
      return __uint_as_float(v.bits);
    }
  }
  static __device__ float widened(float v) {
    if constexpr (sizeof(T) == 4) {
      return v;
    } else {
      T narrow;
      narrow.bits = static_cast<std::uint16_t>(__float_as_uint(v));
      return load_float(narrow);
    }
  }
  // What a thread fetches of the convolution for its channel, before the products of the parts
  // `out` and `in`. The same registers are its states' until after `dt`.
  static constexpr int kBefore = 0, kTaps = kBefore + kStepMaxOlder, kLast = kTaps + kStepMaxOlder,
                       kBias = kLast + 1, kXBias = kBias + 1;
  __device__ void prepare_convolution(const Layer& layer) {
    if (channel_ < 0) return;
    const index_t d = channels_.first + place_in(channel_);
    float(&c)[kFetched] = fetched_[0];
    const index_t slot = slot_of(row_of(channel_));
    state_[0] = slot < 0 ? nullptr : layer.conv + slot * p_.conv_stride[0] + d;
    const T* const taps = layer.conv1d_weight + d * p_.conv1d_stride;
#pragma unroll
    for (int j = 0; j < kStepMaxOlder; ++j) {
      c[kBefore + j] = j < p_.older && slot >= 0 ? state_[0][j * p_.conv_stride[1]] : 0.0f;
      c[kTaps + j] = j < p_.older ? raw(taps[j]) : 0.0f;
    }
    c[kLast] = raw(taps[p_.older]);
    c[kBias] = layer.conv1d_bias == nullptr ? 0.0f : raw(layer.conv1d_bias[d]);
    c[kXBias] = z_bias_ = 0.0f;
    if (layer.in_proj_bias != nullptr) {
      c[kXBias] = raw(layer.in_proj_bias[d]);
      if (p_.gate) z_bias_ = raw(layer.in_proj_bias[p_.d_inner + d]);
    }
  }
  __device__ void finish_in(unsigned tag) {
    if (channel_ < 0) return;
    const int b = row_of(channel_);
    const int channel = place_in(channel_);
    const float(&c)[kFetched] = fetched_[0];
    const float scale = residual_scale(b, p_.norm_eps);
    const float x = fmaf(layer_sum(kStepIn, channel, b), scale, widened(c[kXBias]));
    float sum = widened(c[kBias]);
#pragma unroll
    for (int j = 0; j < kStepMaxOlder; ++j) {
      sum = fmaf(widened(c[kTaps + j]), c[kBefore + j], sum);
    }
    const T out = store_as<T>(silu_fast(fmaf(widened(c[kLast]), x, sum)));
    p_.x.put(b * p_.d_inner + channels_.first + channel, out, tag);
    at<float>(at_.own_x)[thread_] = load_float(out);
    if (z_within()) finish_z(kStepIn, fours_of(channels_.count) * kStreamRows);
    if (state_[0] == nullptr) return;
#pragma unroll
    for (int j = 0; j < kStepMaxOlder; ++j) {
      if (j >= p_.older) break;
      state_[0][j * p_.conv_stride[1]] =
          j + 1 < p_.older ? c[kBefore + (j + 1 < kStepMaxOlder ? j + 1 : j)] : x;
    }
  }

  // z's rows of the part are those from first_row on.
  __device__ void finish_z(int part, int first_row) {
    if (channel_ < 0) return;
    const int b = row_of(channel_);
    const float z = fmaf(layer_sum(part, first_row + place_in(channel_), b),
                         residual_scale(b, p_.norm_eps), widened(z_bias_));
    at<float>(at_.own_gate)[thread_] = silu_fast(load_float(store_as<T>(z)));
  }

  __device__ void finish_x(unsigned tag) {
    if (mix_ < 0) return;
    p_.dt_BC.put(row_of(mix_) * mixes() + mixes_.first + place_in(mix_),
                 store_as<T>(layer_sum(kStepX, place_in(mix_), row_of(mix_))), tag);
  }

  // kStepStates states of a channel of one row, and what belongs to the channel.
  static constexpr int kState = 0, kRate = kState + kStepStates, kD = kRate + kStepStates,
                       kDtBias = kD + 1, kFetched = kDtBias + 1;
  static_assert(kXBias < kFetched, "the registers of the one hold the other");
  __device__ int scan_lane() const { return thread_ & ((1 << p_.state_lanes_log2) - 1); }
  __device__ void prepare_scan(const Layer& layer) {
    const int first = scan_lane() * kStepStates;
#pragma unroll
    for (int i = 0; i < kScans; ++i) {
      if (scan_[i] < 0) break;
      float(&s)[kFetched] = fetched_[i];
      const index_t d = channels_.first + place_in(scan_[i]);
      const index_t slot = slot_of(row_of(scan_[i]));
      const float* const A = layer.A + d + first * p_.A_stride;
      state_[i] =
          slot < 0 ? nullptr : layer.ssm + slot * p_.ssm_stride[0] + d + first * p_.ssm_stride[1];
#pragma unroll
      for (int n = 0; n < kStepStates; ++n) {
        const bool exists = first + n < p_.d_state;
        s[kRate + n] = exists ? A[n * p_.A_stride] : 0.0f;
        s[kState + n] = exists && slot >= 0 ? state_[i][n * p_.ssm_stride[1]] : 0.0f;
      }
      s[kD] = layer.D == nullptr ? 0.0f : layer.D[d];
      s[kDtBias] = layer.dt_proj_bias == nullptr ? 0.0f : layer.dt_proj_bias[d];
    }
  }
  __device__ void finish_dt(unsigned tag) {
    const int first = scan_lane() * kStepStates;
#pragma unroll
    for (int i = 0; i < kScans; ++i) {
      // Whole warps go on, for the sums over the lanes of a channel.
      if (!__any_sync(0xffffffffu, scan_[i] >= 0)) break;
      float(&s)[kFetched] = fetched_[i];
      const int share = max(scan_[i], 0);
      const int b = row_of(share);
      const int own = b * channels_.count + place_in(share);
      const float x = at<float>(at_.own_x)[own];
      const float delta =
          softplus_fast(fmaf(layer_sum(kStepDt, place_in(share), b), scale_of(b, 0), s[kDtBias]));
      const float input = delta * x * scale_of(b, 1);
      const float* const B = at<float>(at_.dt_BC) + b * mixes() + p_.dt_rank + first;
      float y = 0.0f;
#pragma unroll
      for (int n = 0; n < kStepStates; ++n) {
        if (first + n >= p_.d_state) break;
        s[kState + n] =
            fmaf(exp2_fast(delta * (s[kRate + n] * kLog2e)), s[kState + n], input * B[n]);
        y = fmaf(B[p_.d_state + n], s[kState + n], y);
      }
#pragma unroll 1
      for (int m = (1 << p_.state_lanes_log2) / 2; m >= 1; m /= 2) {
        y += __shfl_xor_sync(0xffffffffu, y, m);
      }
      if (scan_[i] >= 0 && scan_lane() == 0) {
        y = fmaf(s[kD], x, y * scale_of(b, 2));
        if (p_.gate) y *= at<float>(at_.own_gate)[own];
        p_.y.put(b * p_.d_inner + channels_.first + place_in(share), store_as<T>(y), tag);
      }
      const bool kept = scan_[i] >= 0 && state_[i] != nullptr;
#pragma unroll
      for (int n = 0; n < kStepStates; ++n) {
        if (kept && first + n < p_.d_state) state_[i][n * p_.ssm_stride[1]] = s[kState + n];
      }
    }
  }

  __device__ void finish_out(const Layer& layer, unsigned tag) {
    if (output_ < 0) return;
    const int i = outputs_.first + place_in(output_);
    residual_ += layer_sum(kStepOut, place_in(output_), row_of(output_));
    if (layer.out_proj_bias != nullptr) residual_ += load_float(layer.out_proj_bias[i]);
    p_.residual.put(row_of(output_) * p_.d_model + i, residual_, tag);
  }

  // The logits of the fours [begin, begin + fours) of all groups, so many of them.
  __device__ void finish_head(const StreamShape& shape, const float* sums, int groups, int begin,
                              int fours) const {
    const int rows = fours * kStreamRows;
#pragma unroll 1
    for (int b = 0; b < p_.batch; ++b) {
      const float scale = residual_scale(b, p_.norm_f_eps);
#pragma unroll 1
      for (int i = thread_; i < groups * rows; i += threads_) {
        const int row = begin * kStreamRows + i % rows;
        const int word = i / rows * shape.fours_a_group * kStreamRows + row;
        if (row >= shape.fours_a_group * kStreamRows || word >= words_.count) continue;
        p_.logits[b * p_.logits_stride[0] + (words_.first + word) * p_.logits_stride[1]] =
            scale * sum_of(sums, shape, groups * rows, i, b);
      }
    }
  }

  const Params& p_;
  const StepShared<T>& at_;
  unsigned char* const shared_;
  const int thread_, threads_, warp_;
  const StepRange channels_, outputs_, mixes_, words_;
  const int channel_, mix_, output_;  // shares
  int scan_[kScans];
  int next_ = 0;  // place of the ring to be multiplied, and the parity of its phase
  unsigned parity_ = 0;
  float residual_ = 0.0f;
  float z_bias_;
  float fetched_[kScans][kFetched];
  float* state_[kScans];  // the first of what is fetched of it; null: none to update
};

template <class T, int kTokens>
__global__ void __launch_bounds__(32 * (step_warps(kTokens) + step_copy_warps(kTokens)), 1)
    language_model_step_kernel(const __grid_constant__ LanguageModelStepParams<T> p) {
  extern __shared__ uint4 step_shared[];
  LanguageModelStepBlock<T, kTokens>(p, reinterpret_cast<unsigned char*>(step_shared)).run();
}

}  // namespace detail
SSM_NAMESPACE_END
