#pragma once

#include <algorithm>
#include <complex>
#include <numeric>

#include "ssm/cpu/backend.hpp"
#include "ssm/cpu/math.hpp"
#include "ssm/ops/selective_scan.hpp"

SSM_CPU_DETAIL_BEGIN

// The tokens of one sequence in the order in which the recurrence visits them: `data` is the first
// one at channel 0 (or group and state 0).
template <class T>
struct TokenRows {
  T* data;
  index_t token;  // stride from one visited token to the next

  template <int Rank>
  TokenRows(const View<T, Rank>& v, const Sequences::Range& r, bool reverse) noexcept
      : data(v.data()), token(reverse ? -v.stride(1) : v.stride(1)) {
    if (data == nullptr || r.begin == r.end) return;
    data += r.row * v.stride(0) + (reverse ? r.end - 1 : r.begin) * v.stride(1);
  }
};

// h + r <- e^v (h + r) + b, as h + (expm1(v) h + b) with what the sum rounds away kept in r (the
// two-sum of Knuth). Beyond |v| = 1/2 the decay itself is exact enough, and expm1(v) h would
// cancel against h.
template <class T>
SSM_ALWAYS_INLINE void accurate_step(Vec<T> v, Vec<T> b, Vec<T>& h, Vec<T>& r) noexcept {
  using V = Vec<T>;
  const auto small = less(abs(v), V(T(0.5)));
  const V far = fma(exp(v), h + r, b);
  const V increment = fma(expm1(v), h, b) + r;
  const V near = h + increment;
  const V added = near - h;
  const V rounded = (h - (near - added)) + (increment - added);
  r = V::select(small, rounded, V(T(0)));
  h = V::select(small, near, far);
}

// The scan of a real system with d_state <= kCapacity. The lanes of a register are channels: a
// block of V::kWidth channels runs through time together, kStates states of each in registers, so
// that no sum ever crosses lanes. Time goes in chunks: within one, delta and the input's products
// are computed once, then each tile of states makes a pass over the chunk.
template <class T>
class VectorScan {
 public:
  using Accum = accum_t<T>;
  using V = Vec<Accum>;
  using Args = SelectiveScanArgs<T, Accum>;

  static constexpr int kWidth = V::kWidth;
  // States in registers at once: with A, B and C as memory operands 16 of 32 registers, or 8 of 16.
  static constexpr int kStates = SSM_SIMD_AVX512 || SSM_SIMD_NEON ? 16 : 8;
  static constexpr int kTokens = 64;
  static constexpr int kTokensPerLane = 8;  // when B and C differ from lane to lane
  static constexpr int kCapacity = 256;     // state registers of a task
  static constexpr int kMaxBlocks = 8;      // blocks of a task: 512 bytes of each row in AVX-512

  // `magnitude` bounds |A|; infinity when it is not known. `threads` is how many tasks may run at
  // once; no block depends on the others of its task.
  VectorScan(const Args& args, Accum magnitude, int threads) noexcept
      : a_(args), magnitude_(magnitude), delta_limit_(limit_for(V(magnitude))) {
    const index_t channels = a_.x.extent(2);
    per_b_ = channels / a_.B.extent(2);
    per_c_ = channels / a_.C.extent(2);
    const index_t common = std::gcd(per_b_, per_c_);
    per_lane_ = common < kWidth && common < channels;
    stretch_ = per_lane_ ? channels : common;
    blocks_per_stretch_ = (stretch_ + kWidth - 1) / kWidth;
    blocks_ = channels / stretch_ * blocks_per_stretch_;
    const index_t d_state = a_.A.extent(1);
    const index_t sequences = a_.sequences.count(a_.x.extent(0));
    // Tasks of long rows, but four to a thread if there are as many blocks.
    blocks_per_task_ = std::min<index_t>(std::min<index_t>(kMaxBlocks, kCapacity / d_state),
                                         std::max<index_t>(blocks_ * sequences / (4 * threads), 1));
    tasks_per_sequence_ = (blocks_ + blocks_per_task_ - 1) / blocks_per_task_;
  }

  index_t tasks() const noexcept {
    return tasks_per_sequence_ * a_.sequences.count(a_.x.extent(0));
  }

  void operator()(index_t task) const noexcept {
    const index_t sequence = task / tasks_per_sequence_;
    const index_t first = task % tasks_per_sequence_ * blocks_per_task_;
    const index_t last = std::min(first + blocks_per_task_, blocks_);
    const Sequences::Range range = a_.sequences.range(sequence, a_.x.extent(1));
    const index_t length = range.end - range.begin;
    const index_t d_state = a_.A.extent(1);
    const Streams streams(a_, range);

    Memory memory;
    Block blocks[kMaxBlocks];
    for (index_t i = first; i < last; ++i) {
      Block& block = blocks[i - first];
      place_block(block, i);
      const index_t offset = (i - first) * d_state * kWidth;
      load_A(block, memory.A + offset, length);
      load_h0(block, sequence, memory.h + offset);
      aim_h_last(block, sequence);
      block.residual = memory.residual + offset;
      if (a_.mode == ScanMode::accurate) {
        std::fill(block.residual, block.residual + d_state * kWidth, Accum(0));
      }
    }
    const int count = static_cast<int>(last - first);
    run(blocks, count, streams, 0, length, true, memory.scratch);
    for (int i = 0; i < count; ++i) store_h_last(blocks[i], sequence);
  }

 protected:
  struct Streams {
    TokenRows<const T> x, dt, z, B, C;
    TokenRows<T> y;
    Streams(const Args& a, const Sequences::Range& r) noexcept
        : x(a.x, r, a.reverse),
          dt(a.dt, r, a.reverse),
          z(a.z, r, a.reverse),
          B(a.B, r, a.reverse),
          C(a.C, r, a.reverse),
          y(a.y, r, a.reverse) {}
  };

  // What one chunk of one block needs, kWidth values per token.
  struct Scratch {
    alignas(64) Accum delta[kTokens * kWidth];
    alignas(64) Accum scaled_delta[kTokens * kWidth];  // delta log2(e)
    alignas(64) Accum input[kTokens * kWidth];         // delta x
    alignas(64) Accum sum[kTokens * kWidth];           // D x + C h, as far as it goes
    static constexpr int kCoefficients =
        kStates * (kTokens > kTokensPerLane * kWidth ? kTokens : kTokensPerLane * kWidth);
    alignas(64) Accum B[kCoefficients];
    alignas(64) Accum C[kCoefficients];
  };

  struct Memory {
    alignas(64) Accum A[kCapacity * kWidth];
    alignas(64) Accum h[kCapacity * kWidth];
    alignas(64) Accum residual[kCapacity * kWidth];  // of ScanMode::accurate
    Scratch scratch;
  };

  // kWidth adjacent channels, of which the first `lanes` exist. State n of A and h is at
  // n * stride: the caller's own memory where channels are contiguous there, else a copy.
  struct Block {
    index_t channel, group_b, group_c;
    int lanes;
    const Accum* A;
    index_t A_stride;
    const Accum* h_in;
    index_t h_in_stride;
    Accum* h_out;
    index_t h_out_stride;
    Accum* h_end;  // h_out of the last chunk
    index_t h_end_stride;
    Accum* residual = nullptr;  // of ScanMode::accurate; else null or not looked at
    V delta_limit;              // on |delta| log2(e), so that exp2_bounded may be used
  };

  // Rows to ask the memory for: those of x, dt, z and y, `stride` elements from token to token.
  struct Ahead {
    const T* row[4];
    index_t stride[4];
    int tokens;
    SSM_ALWAYS_INLINE void fetch(index_t t) const noexcept {
      if (t >= tokens) return;
      for (int i = 0; i < 4; ++i) prefetch(row[i] + t * stride[i]);
    }
  };

  // One pass of a tile of states over a chunk.
  struct Pass {
    const Accum* delta;  // of Scratch, from the block's first row on
    const Accum* scaled_delta;
    const Accum* input;
    Accum* sum;
    const Accum* A;
    index_t A_stride;
    const Accum* h_in;
    index_t h_in_stride;
    Accum* h_out;
    index_t h_out_stride;
    Accum* residual = nullptr;
    const Accum* B;  // uniform: B[t * B_token + n]; per lane: a register at B[(t * B_token + n …)]
    index_t B_token, B_state;
    const Accum* C;
    index_t C_token, C_state;
    int tokens;
    Ahead ahead;
  };

  static V limit_for(V magnitude) noexcept {
    return min(V(simd::MathConstants<Accum>::exp2_bound) / magnitude,
               V(std::numeric_limits<Accum>::max()));
  }

  // a / b, without the wait for a division in the common case of one group.
  static index_t quotient(index_t a, index_t b) noexcept { return a < b ? 0 : a / b; }

  void place_block(Block& block, index_t i) const noexcept {
    const index_t stretch = quotient(i, blocks_per_stretch_);
    const index_t offset = (i - stretch * blocks_per_stretch_) * kWidth;
    block.channel = stretch * stretch_ + offset;
    block.group_b = quotient(block.channel, per_b_);
    block.group_c = quotient(block.channel, per_c_);
    block.lanes = static_cast<int>(std::min<index_t>(kWidth, stretch_ - offset));
  }

  void load_A(Block& block, Accum* copy, index_t length) const noexcept {
    const index_t d_state = a_.A.extent(1);
    const Accum* const data = a_.A.data() + block.channel * a_.A.stride(0);
    // A copy pays for itself soon: rows of A far apart may share a set of the first cache.
    if (a_.A.stride(0) == 1 && block.lanes == kWidth && length <= 16) {
      block.A = data;
      block.A_stride = a_.A.stride(1);
    } else {
      for (index_t n = 0; n < d_state; ++n) {
        load_strided<V>(data + n * a_.A.stride(1), a_.A.stride(0), block.lanes)
            .store(copy + n * kWidth);
      }
      block.A = copy;
      block.A_stride = kWidth;
    }
    // The bound over all channels will do for a few tokens; a longer run deserves its own.
    block.delta_limit = delta_limit_;
    if (length > 16 && magnitude_ < std::numeric_limits<Accum>::infinity()) {
      V magnitude(Accum(0));
      for (index_t n = 0; n < d_state; ++n) {
        magnitude = max(magnitude, abs(V::load(block.A + n * block.A_stride)));
      }
      block.delta_limit = limit_for(magnitude);
    }
  }

  // The state of the block is, and stays, at `h`.
  static void hold_state(Block& block, Accum* h) noexcept {
    block.h_in = block.h_out = block.h_end = h;
    block.h_in_stride = block.h_out_stride = block.h_end_stride = kWidth;
  }

  void load_h0(Block& block, index_t sequence, Accum* copy) const noexcept {
    const index_t d_state = a_.A.extent(1);
    hold_state(block, copy);
    if (!a_.h0.present()) {
      std::fill(copy, copy + d_state * kWidth, Accum(0));
      return;
    }
    const Accum* const data =
        a_.h0.data() + sequence * a_.h0.stride(0) + block.channel * a_.h0.stride(1);
    if (a_.h0.stride(1) == 1 && block.lanes == kWidth) {
      block.h_in = data;
      block.h_in_stride = a_.h0.stride(2);
      return;
    }
    for (index_t n = 0; n < d_state; ++n) {
      load_strided<V>(data + n * a_.h0.stride(2), a_.h0.stride(1), block.lanes)
          .store(copy + n * kWidth);
    }
  }

  bool h_last_is_direct(const Block& block) const noexcept {
    return a_.h_last.present() && a_.h_last.stride(1) == 1 && block.lanes == kWidth;
  }
  Accum* h_last_data(const Block& block, index_t sequence) const noexcept {
    return a_.h_last.data() + sequence * a_.h_last.stride(0) + block.channel * a_.h_last.stride(1);
  }

  // The last chunk leaves the state where the caller wants it.
  void aim_h_last(Block& block, index_t sequence) const noexcept {
    if (!h_last_is_direct(block)) return;
    block.h_end = h_last_data(block, sequence);
    block.h_end_stride = a_.h_last.stride(2);
  }

  void store_h_last(const Block& block, index_t sequence) const noexcept {
    if (!a_.h_last.present()) return;
    Accum* const data = h_last_data(block, sequence);
    if (block.h_in == data) return;
    for (index_t n = 0; n < a_.A.extent(1); ++n) {
      store_strided(V::load(block.h_in + n * block.h_in_stride), data + n * a_.h_last.stride(2),
                    a_.h_last.stride(1), block.lanes);
    }
  }

  // The visited tokens [begin, end) of a task's blocks; without outputs only the states move on.
  void run(Block* blocks, int count, const Streams& streams, index_t begin, index_t end,
           bool outputs, Scratch& s) const noexcept {
    const index_t step = per_lane_ ? kTokensPerLane : kTokens;
    for (index_t t = begin; t < end; t += step) {
      const int tokens = static_cast<int>(std::min(step, end - t));
      if (t + step >= end) {
        for (int i = 0; i < count; ++i) {
          blocks[i].h_out = blocks[i].h_end;
          blocks[i].h_out_stride = blocks[i].h_end_stride;
        }
      }
      // Several blocks abreast when their tokens are few, so that one's latencies hide another's.
      const int abreast = std::max(1, std::min(kMaxBlocks, kTokens / tokens));
      for (int i = 0; i < count; i += abreast) {
        run_chunk(blocks, i, std::min(i + abreast, count), count, streams, t, tokens,
                  std::min(step, end - t - tokens), outputs, s);
      }
    }
  }

  // The blocks [begin, end) of a task's `count`, over a chunk; `next_tokens` are in the chunk
  // after.
  void run_chunk(Block* blocks, int begin, int end, int count, const Streams& streams, index_t t0,
                 int tokens, index_t next_tokens, bool outputs, Scratch& s) const noexcept {
    bool bounded[kMaxBlocks];
    for (int i = begin; i < end; ++i) {
      bounded[i] = prepare(blocks[i], streams, t0, tokens, (i - begin) * tokens, s);
    }
    for (int i = begin; i < end; ++i) {
      Block& block = blocks[i];
      // What comes next streams in while this is computed: the rows are far apart, so the hardware
      // does not see it coming.
      Ahead ahead;
      ahead.tokens = 0;
      if (tokens == kTokens) {
        ahead = i + 1 < count ? look_ahead(blocks[i + 1], streams, t0, tokens)
                              : look_ahead(blocks[0], streams, t0 + tokens, next_tokens);
      }
      run_states(block, streams, t0, tokens, (i - begin) * tokens, bounded[i], ahead, s);
      block.h_in = block.h_out;
      block.h_in_stride = block.h_out_stride;
    }
    if (!outputs) return;
    for (int i = begin; i < end; ++i) {
      if (is_direct(blocks[i])) {
        finish<true>(blocks[i], streams, t0, tokens, (i - begin) * tokens, s);
      } else {
        finish<false>(blocks[i], streams, t0, tokens, (i - begin) * tokens, s);
      }
    }
  }

  // Whether the block's lanes are whole registers in memory.
  bool is_direct(const Block& block) const noexcept {
    return block.lanes == kWidth && a_.x.stride(2) == 1 && a_.dt.stride(2) == 1 &&
           a_.y.stride(2) == 1 && (!a_.z.present() || a_.z.stride(2) == 1);
  }

  Ahead look_ahead(const Block& block, const Streams& streams, index_t t,
                   index_t tokens) const noexcept {
    const index_t d = block.channel;
    Ahead ahead{{streams.x.data + t * streams.x.token + d * a_.x.stride(2),
                 streams.dt.data + t * streams.dt.token + d * a_.dt.stride(2),
                 streams.y.data + t * streams.y.token + d * a_.y.stride(2), nullptr},
                {streams.x.token, streams.dt.token, streams.y.token, 0},
                static_cast<int>(tokens)};
    const bool gated = a_.z.present();
    ahead.row[3] = gated ? streams.z.data + t * streams.z.token + d * a_.z.stride(2) : ahead.row[0];
    ahead.stride[3] = gated ? streams.z.token : streams.x.token;
    return ahead;
  }

  void run_states(const Block& block, const Streams& streams, index_t t0, int tokens, int row,
                  bool bounded, const Ahead& ahead, Scratch& s) const noexcept {
    const bool plain = a_.b_rule == BRule::euler && a_.mode != ScanMode::accurate;
    const int d_state = static_cast<int>(a_.A.extent(1));
    if (tokens == 1 && plain && bounded && !per_lane_) {
      return run_single(block, streams, t0, row, d_state, s);
    }
    for (int n = 0; n < d_state;) {
      const int width = std::min(d_state - n, kStates);
      Pass pass = make_pass(block, streams, t0, tokens, row, n, width, s);
      if (n == 0 && ahead.tokens > 0) pass.ahead = ahead;
      const int end = n + width;
      while (n < end) {
        const int done = plain ? run_plain(pass, end - n, bounded) : run_any(pass, end - n);
        n += done;
        if (n < end) advance(pass, done);
      }
    }
  }

  template <bool Direct>
  static SSM_ALWAYS_INLINE V load_lanes(const T* p, index_t stride, int lanes) noexcept {
    if constexpr (Direct) return V::load(p);
    return load_strided<V>(p, stride, lanes);
  }

  V load_channels(const View<const Accum, 1>& v, const Block& block) const noexcept {
    if (!v.present()) return V(Accum(0));
    return load_strided<V>(v.data() + block.channel * v.stride(0), v.stride(0), block.lanes);
  }

  // delta, its products and D x of a chunk; whether every delta A is within exp2_bounded.
  bool prepare(const Block& block, const Streams& streams, index_t t0, int tokens, int row,
               Scratch& s) const noexcept {
    return is_direct(block) ? prepare_as<true>(block, streams, t0, tokens, row, s)
                            : prepare_as<false>(block, streams, t0, tokens, row, s);
  }
  template <bool Direct>
  bool prepare_as(const Block& block, const Streams& streams, index_t t0, int tokens, int row,
                  Scratch& s) const noexcept {
    const T* const x = streams.x.data + t0 * streams.x.token + block.channel * a_.x.stride(2);
    const T* const dt = streams.dt.data + t0 * streams.dt.token + block.channel * a_.dt.stride(2);
    const V bias = load_channels(a_.dt_bias, block);
    const V skip = load_channels(a_.D, block);
    const V log2e(simd::MathConstants<Accum>::log2e);
    V outside(Accum(0));
    for (int t = 0; t < tokens; ++t) {
      const V input = load_lanes<Direct>(x + t * streams.x.token, a_.x.stride(2), block.lanes);
      V delta = load_lanes<Direct>(dt + t * streams.dt.token, a_.dt.stride(2), block.lanes) + bias;
      if (a_.delta_softplus) delta = softplus(delta);
      const V scaled = delta * log2e;
      const int at = (row + t) * kWidth;
      delta.store(s.delta + at);
      scaled.store(s.scaled_delta + at);
      (delta * input).store(s.input + at);
      // Added rather than always multiplied, so that an absent D ignores an infinite x.
      const V sum = a_.D.present() ? skip * input : V(Accum(0));
      sum.store(s.sum + at);
      outside = V::select(less_equal(abs(scaled), block.delta_limit), outside, V(Accum(1)));
    }
    return V::all(equal(outside, V(Accum(0))));
  }

  // y = sum silu(z)
  template <bool Direct>
  void finish(const Block& block, const Streams& streams, index_t t0, int tokens, int row,
              const Scratch& s) const noexcept {
    T* const y = streams.y.data + t0 * streams.y.token + block.channel * a_.y.stride(2);
    const T* const z = a_.z.present()
                           ? streams.z.data + t0 * streams.z.token + block.channel * a_.z.stride(2)
                           : nullptr;
    for (int t = 0; t < tokens; ++t) {
      V sum = V::load(s.sum + (row + t) * kWidth);
      if (z != nullptr) {
        sum = sum * silu(load_lanes<Direct>(z + t * streams.z.token, a_.z.stride(2), block.lanes));
      }
      if constexpr (Direct) {
        sum.store(y + t * streams.y.token);
      } else {
        store_strided(sum, y + t * streams.y.token, a_.y.stride(2), block.lanes);
      }
    }
  }

  Pass make_pass(const Block& block, const Streams& streams, index_t t0, int tokens, int row, int n,
                 int width, Scratch& s) const noexcept {
    Pass p;
    p.delta = s.delta + row * kWidth;
    p.scaled_delta = s.scaled_delta + row * kWidth;
    p.input = s.input + row * kWidth;
    p.sum = s.sum + row * kWidth;
    p.ahead.tokens = 0;
    p.A = block.A + n * block.A_stride;
    p.A_stride = block.A_stride;
    p.h_in = block.h_in + n * block.h_in_stride;
    p.h_in_stride = block.h_in_stride;
    p.h_out = block.h_out + n * block.h_out_stride;
    p.h_out_stride = block.h_out_stride;
    if (block.residual != nullptr) p.residual = block.residual + n * kWidth;
    p.tokens = tokens;
    place(a_.B, streams.B, block, block.group_b, per_b_, t0, tokens, n, width, s.B, p.B, p.B_token,
          p.B_state);
    place(a_.C, streams.C, block, block.group_c, per_c_, t0, tokens, n, width, s.C, p.C, p.C_token,
          p.C_state);
    return p;
  }

  static void advance(Pass& p, int states) noexcept {
    p.A += states * p.A_stride;
    p.h_in += states * p.h_in_stride;
    p.h_out += states * p.h_out_stride;
    if (p.residual != nullptr) p.residual += states * kWidth;
    p.B += states * p.B_state;
    p.C += states * p.C_state;
    p.ahead.tokens = 0;
  }

  // Where a pass finds `width` states of B or C from state n on: in the caller's memory, or widened
  // and gathered in `copy`.
  void place(const View<const T, 4>& m, const TokenRows<const T>& rows, const Block& block,
             index_t group_index, index_t per_group, index_t t0, int tokens, int n, int width,
             Accum* copy, const Accum*& data, index_t& token, index_t& state) const noexcept {
    const T* const first = rows.data + t0 * rows.token + n * m.stride(3);
    if (!per_lane_) {
      const T* const group = first + group_index * m.stride(2);
      state = 1;
      if constexpr (std::is_same<T, Accum>::value) {
        if (m.stride(3) == 1) {
          data = group;
          token = rows.token;
          return;
        }
      }
      data = copy;
      token = width;
      for (int t = 0; t < tokens; ++t) {
        const T* const row = group + t * rows.token;
        for (int i = 0; i < width; i += kWidth) {
          const int lanes = std::min(kWidth, width - i);
          store_first(load_strided<V>(row + i * m.stride(3), m.stride(3), lanes),
                      copy + t * width + i, lanes);
        }
      }
      return;
    }
    state = kWidth;
    data = copy;
    // Constant over the sequence: gathered once.
    token = rows.token == 0 ? 0 : width * kWidth;
    for (int t = 0; t < (rows.token == 0 ? 1 : tokens); ++t) {
      for (int i = 0; i < width; ++i) {
        const T* const row = first + t * rows.token + i * m.stride(3);
        Accum* const out = copy + (t * width + i) * kWidth;
        for (int lane = 0; lane < kWidth; ++lane) {
          const index_t channel = block.channel + std::min(lane, block.lanes - 1);
          out[lane] = widen(row[channel / per_group * m.stride(2)]);
        }
      }
    }
  }

  // One token, which is what decoding asks for: nothing to keep in registers from one to the next,
  // so the states go by one after another, in the order of every other path.
  void run_single(const Block& block, const Streams& streams, index_t t0, int row, int d_state,
                  Scratch& s) const noexcept {
    const V delta = V::load(s.scaled_delta + row * kWidth);
    const V input = V::load(s.input + row * kWidth);
    V sum = V::load(s.sum + row * kWidth);
    const Accum* A = block.A;
    const Accum* h_in = block.h_in;
    Accum* h_out = block.h_out;
    for (int n = 0; n < d_state;) {
      const int width = std::min(d_state - n, kStates);
      const Accum* B;
      const Accum* C;
      index_t token, state;
      place(a_.B, streams.B, block, block.group_b, per_b_, t0, 1, n, width, s.B, B, token, state);
      place(a_.C, streams.C, block, block.group_c, per_c_, t0, 1, n, width, s.C, C, token, state);
      for (int k = 0; k < width; ++k) {
        const V h = fma(exp2_bounded(delta, V::load(A)), V::load(h_in), input * V(B[k]));
        sum = fma(h, V(C[k]), sum);
        h.store(h_out);
        A += block.A_stride;
        h_in += block.h_in_stride;
        h_out += block.h_out_stride;
      }
      n += width;
    }
    sum.store(s.sum + row * kWidth);
  }

  // Runs the largest tile that fits in `states`; returns its size.
  int run_plain(const Pass& p, int states, bool bounded) const noexcept {
    if (bounded && !per_lane_) {
      if constexpr (kStates >= 16) {
        if (states >= 16) return plain<16, true, false>(p);
      }
      if (states >= 8) return plain<8, true, false>(p);
      if (states >= 4) return plain<4, true, false>(p);
      return plain<1, true, false>(p);
    }
    if (per_lane_) {
      if (states >= 4) return plain<4, false, true>(p);
      return plain<1, false, true>(p);
    }
    if (states >= 4) return plain<4, false, false>(p);
    return plain<1, false, false>(p);
  }

  // h <- 2^(delta log2(e) A) h + delta x B, sum <- sum + C h, for N states.
  template <int N, bool Bounded, bool PerLane>
  static int plain(const Pass& p) noexcept {
    V h[N];
    load_states<0, N>(h, p.h_in, p.h_in_stride);
    const Accum* const A = p.A;
    const index_t A_stride = p.A_stride;
    const Accum* B = p.B;
    const Accum* C = p.C;
    for (int t = 0; t < p.tokens; ++t) {
      const V delta = V::load(p.scaled_delta + t * kWidth);
      const V input = V::load(p.input + t * kWidth);
      V sum = V::load(p.sum + t * kWidth);
      p.ahead.fetch(t);
      plain_step<0, N, Bounded, PerLane>(h, delta, input, sum, A, A_stride, B, C);
      sum.store(p.sum + t * kWidth);
      B += p.B_token;
      C += p.C_token;
    }
    store_states<0, N>(h, p.h_out, p.h_out_stride);
    return N;
  }

  // State I and those after it. Recursions, because loops might stay loops and put h in memory.
  template <int I, int N>
  static SSM_ALWAYS_INLINE void load_states(V (&h)[N], const Accum* from, index_t stride) noexcept {
    if constexpr (I < N) {
      h[I] = V::load(from);
      load_states<I + 1, N>(h, from + stride, stride);
    }
  }
  template <int I, int N>
  static SSM_ALWAYS_INLINE void store_states(const V (&h)[N], Accum* to, index_t stride) noexcept {
    if constexpr (I < N) {
      h[I].store(to);
      store_states<I + 1, N>(h, to + stride, stride);
    }
  }

  template <int I, int N, bool Bounded, bool PerLane>
  static SSM_ALWAYS_INLINE void plain_step(V (&h)[N], const V& delta, const V& input, V& sum,
                                           const Accum* A, index_t A_stride, const Accum* B,
                                           const Accum* C) noexcept {
    if constexpr (I < N) {
      const V rate = V::load(A + I * A_stride);
      const V decay = Bounded ? exp2_bounded(delta, rate) : exp2_any(delta, rate);
      h[I] = fma(decay, h[I], input * coefficient<PerLane>(B, I));
      sum = fma(h[I], coefficient<PerLane>(C, I), sum);
      plain_step<I + 1, N, Bounded, PerLane>(h, delta, input, sum, A, A_stride, B, C);
    }
  }

  template <bool PerLane>
  static SSM_ALWAYS_INLINE V coefficient(const Accum* m, int n) noexcept {
    if constexpr (PerLane) return V::load(m + n * kWidth);
    return V(m[n]);
  }

  // The options beside the common ones: zero-order hold, and the compensated recurrence.
  int run_any(const Pass& p, int states) const noexcept {
    return per_lane_ ? run_any_as<true>(p, states) : run_any_as<false>(p, states);
  }
  template <bool PerLane>
  int run_any_as(const Pass& p, int states) const noexcept {
    const bool hold = a_.b_rule == BRule::zero_order_hold;
    if (a_.mode == ScanMode::accurate) {
      return hold ? any<PerLane, true, true>(p, states) : any<PerLane, false, true>(p, states);
    }
    return any<PerLane, true, false>(p, states);
  }

  template <bool PerLane, bool Hold, bool Accurate>
  static int any(const Pass& p, int states) noexcept {
    for (int n = 0; n < states; ++n) {
      const V A = V::load(p.A + n * p.A_stride);
      V h = V::load(p.h_in + n * p.h_in_stride);
      V residual = Accurate ? V::load(p.residual + n * kWidth) : V(Accum(0));
      for (int t = 0; t < p.tokens; ++t) {
        const V exponent = V::load(p.delta + t * kWidth) * A;
        V input = V::load(p.input + t * kWidth);
        if constexpr (Hold) input = input * phi1(exponent);
        const Accum* const B = p.B + t * p.B_token + n * p.B_state;
        const Accum* const C = p.C + t * p.C_token + n * p.C_state;
        input = input * coefficient<PerLane>(B, 0);
        if constexpr (Accurate) {
          accurate_step(exponent, input, h, residual);
        } else {
          h = fma(exp(exponent), h, input);
        }
        const V sum = V::load(p.sum + t * kWidth);
        fma(h, coefficient<PerLane>(C, 0), sum).store(p.sum + t * kWidth);
      }
      h.store(p.h_out + n * p.h_out_stride);
      if constexpr (Accurate) residual.store(p.residual + n * kWidth);
    }
    return states;
  }

  const Args& a_;
  const Accum magnitude_;
  const V delta_limit_;         // that serves every channel
  index_t per_b_, per_c_;       // channels of a group
  bool per_lane_;               // B or C changes within a register
  index_t stretch_;             // channels that share their groups, or all of them
  index_t blocks_per_stretch_;  // registers to cover a stretch
  index_t blocks_;
  index_t blocks_per_task_;
  index_t tasks_per_sequence_;
};

// The scan channel by channel, in scalar code: complex systems, and real ones with more states than
// VectorScan keeps.
template <class T, class S>
class ScalarScan {
 public:
  using Accum = accum_t<T>;
  using Args = SelectiveScanArgs<T, S>;
  static constexpr index_t kCapacity = 2048;

  explicit ScalarScan(const Args& args) noexcept : a_(args) {}

  // Ok, or why these arguments are beyond it.
  static Status supports(const Args& a) noexcept {
    const index_t d_state = a.A.extent(1);
    if (d_state <= kCapacity || (a.h_last.present() && a.mode != ScanMode::accurate)) {
      return Status::ok();
    }
    return Status::error(ErrorCode::unsupported, "selective_scan", "A",
                         "has more than 2048 states: needs h_last and a mode other than accurate");
  }

  index_t tasks() const noexcept { return a_.sequences.count(a_.x.extent(0)) * a_.x.extent(2); }

  void operator()(index_t task) const noexcept {
    const index_t channels = a_.x.extent(2);
    const index_t sequence = task / channels;
    const index_t d = task % channels;
    const Sequences::Range range = a_.sequences.range(sequence, a_.x.extent(1));
    const index_t d_state = a_.A.extent(1);

    // h, then what ScanMode::accurate carries beside it; not initialised beyond d_state.
    alignas(S) unsigned char bytes[2 * kCapacity * sizeof(S)];
    S* const memory = reinterpret_cast<S*>(bytes);
    const bool own = d_state <= kCapacity;
    State h = own ? State{memory, 1} : State{&a_.h_last(sequence, d, 0), a_.h_last.stride(2)};
    const State r{memory + kCapacity, 1};
    for (index_t n = 0; n < d_state; ++n) {
      h[n] = a_.h0.present() ? a_.h0(sequence, d, n) : S(0);
      if (a_.mode == ScanMode::accurate) r[n] = S(0);
    }
    for (index_t k = range.begin; k < range.end; ++k) {
      const index_t t = a_.reverse ? range.begin + range.end - 1 - k : k;
      step(range.row, t, d, h, r);
    }
    if (!own || !a_.h_last.present()) return;
    for (index_t n = 0; n < d_state; ++n) a_.h_last(sequence, d, n) = h[n];
  }

 private:
  using Real = real_t<S>;

  struct State {
    S* data;
    index_t stride;
    S& operator[](index_t n) const noexcept { return data[n * stride]; }
  };

  void step(index_t b, index_t t, index_t d, const State& h, const State& r) const noexcept {
    const index_t channels = a_.x.extent(2);
    const index_t group_b = d / (channels / a_.B.extent(2));
    const index_t group_c = d / (channels / a_.C.extent(2));
    const Accum x = widen(a_.x(b, t, d));
    Accum delta = widen(a_.dt(b, t, d));
    if (a_.dt_bias.present()) delta += a_.dt_bias(d);
    if (a_.delta_softplus) delta = softplus(delta);
    S sum(0);
    for (index_t n = 0; n < a_.A.extent(1); ++n) {
      const S v = delta * a_.A(d, n);
      S input = delta * x * S(a_.B(b, t, group_b, n));
      if (a_.b_rule == BRule::zero_order_hold) input *= phi1(v);
      if (a_.mode == ScanMode::accurate && std::abs(v) < Real(0.5)) {
        const S increment = (expm1_of(v) * h[n] + input) + r[n];
        const S next = h[n] + increment;
        const S added = next - h[n];
        r[n] = (h[n] - (next - added)) + (increment - added);
        h[n] = next;
      } else if (a_.mode == ScanMode::accurate) {
        h[n] = std::exp(v) * (h[n] + r[n]) + input;
        r[n] = S(0);
      } else {
        h[n] = std::exp(v) * h[n] + input;
      }
      sum += S(a_.C(b, t, group_c, n)) * h[n];
    }
    Accum y = is_complex_v<S> ? 2 * std::real(sum) : std::real(sum);
    if (a_.D.present()) y += a_.D(d) * x;
    if (a_.z.present()) y *= silu(widen(a_.z(b, t, d)));
    a_.y(b, t, d) = narrow<T>(y);
  }

  const Args& a_;
};

// A bound on |A|, infinity if A holds a NaN; negative if some value of A is positive. One pass over
// A for every call, of a single token too, hence in vectors, four chains of them abreast.
template <class R>
R decay_magnitude(View<const R, 2> A) noexcept {
  using V = Vec<R>;
  if (A.stride(0) < A.stride(1)) A = A.transpose(0, 1);
  constexpr int kChains = 4;
  V least[kChains];
  V sound[kChains];
  for (int k = 0; k < kChains; ++k) {
    least[k] = V(R(0));
    sound[k] = V(R(1));
  }
  const auto look = [](V v, V& low, V& good) noexcept {
    good = V::select(less_equal(v, V(R(0))), good, V(R(0)));
    low = min(v, low);
  };
  for (index_t i = 0; i < A.extent(0); ++i) {
    const R* const row = A.data() + i * A.stride(0);
    index_t j = 0;
    if (A.stride(1) == 1) {
      for (; j + kChains * V::kWidth <= A.extent(1); j += kChains * V::kWidth) {
        for (int k = 0; k < kChains; ++k) {
          look(V::load(row + j + k * V::kWidth), least[k], sound[k]);
        }
      }
    }
    for (; j < A.extent(1); j += V::kWidth) {
      const int lanes = static_cast<int>(std::min<index_t>(V::kWidth, A.extent(1) - j));
      look(load_strided<V>(row + j * A.stride(1), A.stride(1), lanes), least[0], sound[0]);
    }
  }
  const V low = min(min(least[0], least[1]), min(least[2], least[3]));
  const V good = min(min(sound[0], sound[1]), min(sound[2], sound[3]));
  if (V::all(equal(good, V(R(1))))) return max_lane(V(R(0)) - low);
  return state_matrix_decays(A) ? std::numeric_limits<R>::infinity() : R(-1);
}

// check_values of the operation, and the `magnitude` that VectorScan asks for.
template <class T, class S>
Status check_values(const SelectiveScanArgs<T, S>& a, S& magnitude) noexcept {
  magnitude = decay_magnitude(a.A);
  if (magnitude < 0) return ssm::check_values(a);
  return ssm::check_values(a.sequences, "selective_scan", a.x.extent(0), a.x.extent(1));
}

// Below this many state updates (some 10 µs) a call is not worth waking another thread.
inline constexpr index_t kScanSerialUpdates = index_t{1} << 15;

template <class T, class S>
Parallel scan_threads(const Cpu& cpu, const SelectiveScanArgs<T, S>& a) noexcept {
  const index_t updates = saturating_mul(a.x.size(), a.A.extent(1));
  return updates < kScanSerialUpdates ? Parallel{} : cpu.parallel;
}

SSM_CPU_DETAIL_END

SSM_CPU_NAMESPACE_BEGIN

// The selective scan on the CPU; see SelectiveScanArgs for the equation. Every option is supported;
// the fast path is a real system with euler's rule, B and C shared by at least a register of
// channels, and channels contiguous in x, dt, z, y (and in A, h0 and h_last, which otherwise are
// copied once per call). No allocation, no lock of its own, at most 128 KiB of stack (double).
//
// Modes `sequential` and `associative` are one here. `accurate` needs a compiler that keeps the
// order of additions (no -ffast-math). d_state above 2048 needs h_last, which then carries the
// state, and a mode other than accurate; else `unsupported`. On a bad argument it returns a Status
// and writes nothing.
template <class T, class S>
Status selective_scan(const Cpu& cpu, const SelectiveScanArgs<T, S>& a) noexcept {
  static_assert(std::is_same<accum_t<T>, float>::value || std::is_same<accum_t<T>, double>::value,
                "ssm::Cpu computes in float or double; ssm::Reference takes any scalar");
  using Accum = accum_t<T>;
  Status status = check_shapes(a);
  if (!status.is_ok()) return status;

  const Parallel parallel = detail::scan_threads(cpu, a);
  if constexpr (!is_complex_v<S>) {
    if (a.A.extent(1) <= detail::VectorScan<T>::kCapacity) {
      Accum magnitude;
      status = detail::check_values(a, magnitude);
      if (!status.is_ok() || a.x.extent(2) == 0) return status;
      const detail::VectorScan<T> scan(a, magnitude, std::max(parallel.threads, 1));
      parallel.for_each(scan.tasks(), scan);
      return status;
    }
  }
  status = check_values(a);
  if (status.is_ok()) status = detail::ScalarScan<T, S>::supports(a);
  if (!status.is_ok()) return status;
  const detail::ScalarScan<T, S> scan(a);
  parallel.for_each(scan.tasks(), scan);
  return status;
}

SSM_CPU_NAMESPACE_END
