#pragma once

#include <algorithm>

#include "ssm/cpu/backend.hpp"
#include "ssm/cpu/math.hpp"
#include "ssm/ops/causal_conv1d.hpp"

SSM_CPU_DETAIL_BEGIN

// The outputs of the convolution. Lanes are channels; a task is a strip of channels over a stretch
// of time. Which tokens share a task changes no bit, because a token's taps are always summed in
// the same order.
template <class T>
class VectorConv1d {
 public:
  using Accum = accum_t<T>;
  using V = Vec<Accum>;
  using Args = CausalConv1dArgs<T>;

  static constexpr int kWidth = V::kWidth;
  static constexpr index_t kChannels = 16 * kWidth;  // of a task: a kilobyte of a row in AVX-512
  static constexpr index_t kTokens = 128;            // of a task
  static constexpr index_t kAhead = 16;              // tokens from prefetch to use
  // Tokens before moving on to the next channels, and taps at once for any width. 16 with wide
  // strips streams long inputs twice as fast as 64 with narrow ones: rows are met nearly whole.
  static constexpr int kChunk = 16;

  explicit VectorConv1d(const Args& args) noexcept
      : a_(args),
        strips_((a_.x.extent(2) + kChannels - 1) / kChannels),
        stretches_((a_.x.extent(1) + kTokens - 1) / kTokens) {}

  index_t tasks() const noexcept {
    return a_.sequences.count(a_.x.extent(0)) * strips_ * stretches_;
  }

  void operator()(index_t task) const noexcept {
    const index_t stretch = task % stretches_;
    const index_t strip = task / stretches_ % strips_;
    const index_t sequence = task / stretches_ / strips_;
    const Sequences::Range range = a_.sequences.range(sequence, a_.x.extent(1));
    const index_t begin = stretch * kTokens;
    const index_t end = std::min(begin + kTokens, range.end - range.begin);
    const index_t first = strip * kChannels;
    const index_t last = std::min(first + kChannels, a_.x.extent(2));
    // All channels of a chunk before the next one: whole cache lines of a row while they are near.
    for (index_t t = begin; t < end; t += kChunk) {
      const int tokens = static_cast<int>(std::min<index_t>(kChunk, end - t));
      for (index_t d = first; d < last; d += kWidth) {
        const Block block = make_block(sequence, range, d, last);
        if (block.lanes == kWidth && a_.x.stride(2) == 1 && a_.y.stride(2) == 1) {
          run<true>(block, t, tokens);
        } else {
          run<false>(block, t, tokens);
        }
      }
    }
  }

 private:
  struct Block {
    const T* x;  // the sequence's first token, at the block's first channel
    T* y;
    const T* weight;
    const Accum* state;  // or null: zero
    V bias;
    int lanes;
  };

  Block make_block(index_t sequence, const Sequences::Range& range, index_t d,
                   index_t last) const noexcept {
    Block block;
    block.lanes = static_cast<int>(std::min<index_t>(kWidth, last - d));
    block.x = a_.x.data() + range.row * a_.x.stride(0) + range.begin * a_.x.stride(1) +
              d * a_.x.stride(2);
    block.y = a_.y.data() + range.row * a_.y.stride(0) + range.begin * a_.y.stride(1) +
              d * a_.y.stride(2);
    block.weight = a_.weight.data() + d * a_.weight.stride(0);
    block.state = a_.state0.present() && a_.weight.extent(1) > 1
                      ? a_.state0.data() + sequence * a_.state0.stride(0) + d * a_.state0.stride(2)
                      : nullptr;
    block.bias = V(Accum(0));
    if (a_.bias.present()) {
      block.bias =
          load_strided<V>(a_.bias.data() + d * a_.bias.stride(0), a_.bias.stride(0), block.lanes);
    }
    return block;
  }

  template <bool Direct>
  void run(const Block& block, index_t t0, int tokens) const noexcept {
    switch (a_.weight.extent(1)) {
      case 2:
        return run_width<Direct, 2>(block, t0, tokens);
      case 3:
        return run_width<Direct, 3>(block, t0, tokens);
      case 4:
        return run_width<Direct, 4>(block, t0, tokens);
      default:
        return run_any(block, t0, tokens);
    }
  }

  // Token t of the sequence; before its first, the state (oldest first).
  V input(const Block& block, index_t t) const noexcept {
    if (t >= 0) {
      return load_strided<V>(block.x + t * a_.x.stride(1), a_.x.stride(2), block.lanes);
    }
    if (block.state == nullptr) return V(Accum(0));
    return load_strided<V>(block.state + (a_.weight.extent(1) - 1 + t) * a_.state0.stride(1),
                           a_.state0.stride(2), block.lanes);
  }

  V tap(const Block& block, index_t j) const noexcept {
    return load_strided<V>(block.weight + j * a_.weight.stride(1), a_.weight.stride(0),
                           block.lanes);
  }

  template <int Width>
  void load_taps(const Block& block, V (&weight)[Width]) const noexcept {
    if constexpr (Width == 4) {
      if (a_.weight.contiguous() && block.lanes == kWidth) {
        for (int j = 0; j < 4; ++j) weight[j] = V::load(block.weight + j * kWidth);
        return deinterleave4(weight);
      }
    }
    for (int j = 0; j < Width; ++j) weight[j] = tap(block, j);
  }

  // The taps and the latest Width - 1 inputs stay in registers.
  template <bool Direct, int Width>
  void run_width(const Block& block, index_t t0, int tokens) const noexcept {
    V weight[Width];
    V window[Width];
    load_taps(block, weight);
    for (int j = 0; j + 1 < Width; ++j) window[j] = input(block, t0 + j - (Width - 1));
    const T* x = block.x + t0 * a_.x.stride(1);
    T* y = block.y + t0 * a_.y.stride(1);
    for (int t = 0; t < tokens; ++t) {
      if constexpr (Direct) {
        // The rows are far apart: the hardware does not see the next ones coming.
        prefetch(x + kAhead * a_.x.stride(1));
        prefetch(y + kAhead * a_.y.stride(1));
        window[Width - 1] = V::load(x);
      } else {
        window[Width - 1] = load_strided<V>(x, a_.x.stride(2), block.lanes);
      }
      V sum = block.bias;
      for (int j = 0; j < Width; ++j) sum = fma(window[j], weight[j], sum);
      if (a_.silu) sum = silu(sum);
      if constexpr (Direct) {
        sum.store(y);
      } else {
        store_strided(sum, y, a_.y.stride(2), block.lanes);
      }
      for (int j = 0; j + 1 < Width; ++j) window[j] = window[j + 1];
      x += a_.x.stride(1);
      y += a_.y.stride(1);
    }
  }

  void run_any(const Block& block, index_t t0, int tokens) const noexcept {
    alignas(64) Accum sums[kChunk * kWidth];
    alignas(64) Accum taps[kChunk * kWidth];
    for (int t = 0; t < tokens; ++t) block.bias.store(sums + t * kWidth);
    const index_t width = a_.weight.extent(1);
    for (index_t j0 = 0; j0 < width; j0 += kChunk) {
      const int count = static_cast<int>(std::min<index_t>(kChunk, width - j0));
      for (int j = 0; j < count; ++j) tap(block, j0 + j).store(taps + j * kWidth);
      for (int t = 0; t < tokens; ++t) {
        V sum = V::load(sums + t * kWidth);
        for (int j = 0; j < count; ++j) {
          const V x = input(block, t0 + t - (width - 1) + j0 + j);
          sum = fma(x, V::load(taps + j * kWidth), sum);
        }
        sum.store(sums + t * kWidth);
      }
    }
    for (int t = 0; t < tokens; ++t) {
      V sum = V::load(sums + t * kWidth);
      if (a_.silu) sum = silu(sum);
      store_strided(sum, block.y + (t0 + t) * a_.y.stride(1), a_.y.stride(2), block.lanes);
    }
  }

  const Args& a_;
  const index_t strips_;
  const index_t stretches_;
};

// state_last = the last width - 1 of (state0, x), oldest first. Ascending, so that state_last may
// be state0; after the outputs, which read state0.
template <class T>
void carry_conv_state(const CausalConv1dArgs<T>& a) noexcept {
  using V = Vec<accum_t<T>>;
  const index_t kept = a.weight.extent(1) - 1;
  for (index_t i = 0; i < a.sequences.count(a.x.extent(0)); ++i) {
    const Sequences::Range range = a.sequences.range(i, a.x.extent(1));
    const index_t length = range.end - range.begin;
    for (index_t k = 0; k < kept; ++k) {
      const index_t t = length - kept + k;
      for (index_t d = 0; d < a.x.extent(2); d += V::kWidth) {
        const int lanes = static_cast<int>(std::min<index_t>(V::kWidth, a.x.extent(2) - d));
        V v(accum_t<T>(0));
        if (t >= 0) {
          v = load_strided<V>(a.x.data() + range.row * a.x.stride(0) +
                                  (range.begin + t) * a.x.stride(1) + d * a.x.stride(2),
                              a.x.stride(2), lanes);
        } else if (a.state0.present()) {
          v = load_strided<V>(a.state0.data() + i * a.state0.stride(0) +
                                  (kept + t) * a.state0.stride(1) + d * a.state0.stride(2),
                              a.state0.stride(2), lanes);
        }
        store_strided(v,
                      a.state_last.data() + i * a.state_last.stride(0) +
                          k * a.state_last.stride(1) + d * a.state_last.stride(2),
                      a.state_last.stride(2), lanes);
      }
    }
  }
}

// Below this many outputs (some 10 µs) a call is not worth waking another thread.
inline constexpr index_t kConvSerialOutputs = index_t{1} << 14;

SSM_CPU_DETAIL_END

SSM_CPU_NAMESPACE_BEGIN

// The causal convolution on the CPU; see CausalConv1dArgs for the equation. Every option and any
// width; widths 2 to 4 keep taps and window in registers, and channels contiguous in x and y (and
// in weight, for single tokens) are fastest. No allocation. On a bad argument it returns a Status
// and writes nothing.
template <class T>
Status causal_conv1d(const Cpu& cpu, const CausalConv1dArgs<T>& a) noexcept {
  Status status = check_shapes(a);
  if (status.is_ok()) {
    status = check_values(a.sequences, "causal_conv1d", a.x.extent(0), a.x.extent(1));
  }
  if (!status.is_ok()) return status;
  const Parallel parallel = a.x.size() < detail::kConvSerialOutputs ? Parallel{} : cpu.parallel;
  const detail::VectorConv1d<T> conv(a);
  parallel.for_each(conv.tasks(), conv);
  if (a.state_last.present()) detail::carry_conv_state(a);
  return status;
}

SSM_CPU_NAMESPACE_END
