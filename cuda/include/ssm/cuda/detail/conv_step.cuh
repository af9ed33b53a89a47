#pragma once

#include <cstdint>
#include <type_traits>

#include "ssm/cuda/detail/dependent_launch.cuh"
#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/detail/elements.cuh"
#include "ssm/cuda/detail/gemv.cuh"

// The causal convolution of one token, of the decoding step: for a product that ends in it, and as
// kernels of its own for more rows.

SSM_NAMESPACE_BEGIN
namespace detail {

// One token through the causal convolution and its SiLU, one channel of one row: the state moves
// on.
template <class T, class H>
struct ConvStep {
  View<const T, 2> weight;  // (channels, width)
  View<const T, 1> bias;
  View<H, 3> state;  // (states, width - 1, channels)
  View<const index_t, 1> slots;
  View<T, 2> y;  // (batch, channels)

  // What does not depend on the token; of wide convolutions only the slot.
  static constexpr int kFetched = 3;
  struct Prepared {
    index_t slot;
    float before[kFetched], taps[kFetched], last;
  };
  __device__ Prepared prepare(index_t b, index_t d) const {
    Prepared p = {};
    p.slot = slots.data() == nullptr ? b : slots(b);
    const index_t older = state.extent(1);
    p.last = load_float(weight(d, older));
    if (p.slot < 0 || older > kFetched) return p;
#pragma unroll
    for (int j = 0; j < kFetched; ++j) {
      if (j >= older) break;
      p.before[j] = load_float(state(p.slot, j, d));
      p.taps[j] = load_float(weight(d, j));
    }
    return p;
  }
  __device__ void put(index_t b, index_t d, float x, const Prepared& p) const {
    if (p.slot < 0) return;
    const index_t older = state.extent(1);
    float sum = bias.data() == nullptr ? 0.0f : load_float(bias(d));
    if (older <= kFetched) {
#pragma unroll
      for (int j = 0; j < kFetched; ++j) {
        if (j >= older) break;
        sum = fmaf(p.taps[j], p.before[j], sum);
        const float next = j + 1 < older ? p.before[j + 1 < kFetched ? j + 1 : j] : x;
        state(p.slot, j, d) = store_as<H>(next);
      }
    } else {
      for (index_t j = 0; j < older; ++j) {
        sum = fmaf(load_float(weight(d, j)), load_float(state(p.slot, j, d)), sum);
        state(p.slot, j, d) = j + 1 < older ? state(p.slot, j + 1, d) : store_as<H>(x);
      }
    }
    y(b, d) = store_as<T>(silu_fast(fmaf(p.last, x, sum)));
  }
};

constexpr int kConvStepThreads = 256;

// The convolution alone, of x (batch, channels).
template <class T, class H>
__global__ void __launch_bounds__(kConvStepThreads)
    conv_step_kernel(const ConvStep<T, H> conv, const View<const T, 2> x, unsigned row_blocks) {
  allow_kernel_after();
  wait_for_kernel_before();
  const index_t b = blockIdx.x / row_blocks;
  const index_t d = blockIdx.x % row_blocks * kConvStepThreads + threadIdx.x;
  if (d >= x.extent(1)) return;
  const auto prepared = conv.prepare(b, d);
  conv.put(b, d, load_float(x(b, d)), prepared);
}

// Four neighbouring channels of a convolution of width 4.
template <class T, class H>
class ConvFours {
 public:
  // Of the channels [d, d + 4): reads the weight.
  __device__ ConvFours(const ConvStep<T, H>& conv, index_t d)
      : taps_(Elements<T, 16>::load(conv.weight.data() + d * 4)),
        state_(conv.state.data() + d),
        y_(conv.y.data() + d) {
    if (conv.bias.data() != nullptr) bias_ = Elements<T, 4>::load(conv.bias.data() + d);
  }

  // What a row brings along: its state and its token x (channels).
  struct Row {
    Elements<H, 4> before[3];
    Elements<T, 4> now;
  };
  __device__ Row fetch(const ConvStep<T, H>& conv, index_t slot, const T* x) const {
    const H* const state = state_ + slot * conv.state.stride(0);
    Row row;
#pragma unroll
    for (int j = 0; j < 3; ++j) {
      row.before[j] = Elements<H, 4>::load(state + j * conv.state.stride(1));
    }
    row.now = Elements<T, 4>::load(x);
    return row;
  }
  // The row's output, which is written as row b of y; the state moves on.
  __device__ Elements<T, 4> put(const ConvStep<T, H>& conv, index_t b, index_t slot,
                                const Row& row) const {
    H* const state = state_ + slot * conv.state.stride(0);
    Elements<H, 4> kept;
    Elements<T, 4> y;
#pragma unroll
    for (int c = 0; c < 4; c += 2) {
      y.set_pair(c, output(row, c), output(row, c + 1));
      kept.set_pair(c, row.now[c], row.now[c + 1]);
    }
    row.before[1].store_at_once(state);
    row.before[2].store_at_once(state + conv.state.stride(1));
    kept.store_at_once(state + 2 * conv.state.stride(1));
    y.store_at_once(y_ + b * conv.y.stride(0));
    return y;
  }

 private:
  __device__ float output(const Row& row, int c) const {
    float sum = bias_[c];
#pragma unroll
    for (int j = 0; j < 3; ++j) sum = fmaf(taps_[4 * c + j], row.before[j][c], sum);
    return silu_fast(fmaf(taps_[4 * c + 3], row.now[c], sum));
  }

  Elements<T, 16> taps_;
  Elements<T, 4> bias_ = {};
  H* state_;
  T* y_;
};

constexpr int kConvFoursThreads = 64;  // along the channels
constexpr int kConvFoursLanes = kConvStepThreads / kConvFoursThreads;
constexpr int kConvFoursRows = 2;  // of a thread

// The same for four neighbouring channels at a time.
template <class T, class H>
__global__ void __launch_bounds__(kConvStepThreads)
    conv_step_fours_kernel(const ConvStep<T, H> conv, const View<const T, 2> x,
                           unsigned channel_blocks) {
  allow_kernel_after();
  const int thread = static_cast<int>(threadIdx.x);
  const index_t d = 4 * (static_cast<index_t>(blockIdx.x % channel_blocks) * kConvFoursThreads +
                         thread % kConvFoursThreads);
  const index_t first = (static_cast<index_t>(blockIdx.x / channel_blocks) * kConvFoursLanes +
                         thread / kConvFoursThreads) *
                        kConvFoursRows;
  if (d >= x.extent(1)) return;
  const ConvFours<T, H> fours(conv, d);
  wait_for_kernel_before();
#pragma unroll
  for (int r = 0; r < kConvFoursRows; ++r) {
    const index_t b = first + r;
    if (b >= x.extent(0)) return;
    const index_t slot = conv.slots.data() == nullptr ? b : conv.slots(b);
    if (slot < 0) continue;
    fours.put(conv, b, slot, fours.fetch(conv, slot, x.data() + b * x.stride(0) + d));
  }
}

// Whether that takes them.
template <class T, class H>
bool conv_fours_take(const ConvStep<T, H>& conv, const View<const T, 2>& x) noexcept {
  const auto aligned = [](const auto* data) {
    return reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
  };
  const auto rows = [](const auto& v) {
    using Element = typename std::decay_t<decltype(v)>::value_type;
    return has_groups<4>(
        View<const Element, 2>(v.data(), {v.extent(0), v.extent(1)}, {v.stride(0), v.stride(1)}));
  };
  const auto& state = conv.state;
  return conv.weight.extent(1) == 4 && conv.weight.stride(1) == 1 && conv.weight.stride(0) == 4 &&
         aligned(conv.weight.data()) && rows(x) && rows(conv.y) && aligned(conv.bias.data()) &&
         (conv.bias.data() == nullptr || conv.bias.stride(0) == 1) && aligned(state.data()) &&
         state.stride(2) == 1 && state.stride(1) % 4 == 0 && state.stride(0) % 4 == 0;
}

}  // namespace detail
SSM_NAMESPACE_END
