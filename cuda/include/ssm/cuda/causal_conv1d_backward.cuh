#pragma once

#include "ssm/cuda/causal_conv1d.cuh"
#include "ssm/cuda/causal_conv1d_backward.hpp"
#include "ssm/cuda/detail/column_sum.cuh"

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kConvGradLanes = 32;  // neighbouring channels, a lane each
constexpr int kConvGradWarps = 8;
// Tokens that a thread differentiates at a time. It also computes e of the width - 1 that follow.
constexpr int kConvGradRun = 61;
constexpr int kConvGradStep = 8;  // tokens whose loads are in flight together

// The tokens of a batch row are cut into runs, and a block takes a stretch of all rows' runs, its
// warps in turn.
struct ConvGradRuns {
  index_t per_row, total, segments, per_segment;
  ConvGradRuns(index_t batch, index_t length) noexcept {
    per_row = (length + kConvGradRun - 1) / kConvGradRun;
    total = saturating_mul(batch, per_row);
    const index_t blocks = (total + kConvGradWarps - 1) / kConvGradWarps;
    segments = blocks < 1 ? 1 : (blocks > 128 ? 128 : blocks);
    per_segment = (total + segments - 1) / segments;
  }
};

// The tokens [begin, end) of one sequence, which lies at `range`.
struct ConvGradPart {
  index_t sequence;
  DeviceRange range;
  index_t begin, end;
};

// What the kernels need of the arguments; `lengths` and the rest are named as sequence_range wants.
template <class T>
struct ConvGradParams {
  using Accum = accum_t<T>;
  CausalConv1dGradArgs<T> a;
  const index_t* lengths;
  const index_t* starts;
  index_t lengths_stride, starts_stride;
  index_t length, sequences;
  ConvGradRuns runs;
  Accum* shares;  // (segments, width + 1, channels): dweight and, last, dbias; null: not wanted

  // Input t of a sequence, before its first token from state0 or zero.
  __device__ __forceinline__ Accum input(const ConvGradPart& at, index_t d, index_t t) const {
    const CausalConv1dArgs<T>& f = a.forward;
    if (t >= at.range.begin) return load_float(f.x(at.range.row, t, d));
    if (f.state0.data() == nullptr) return Accum(0);
    return f.state0(at.sequence, t - at.range.begin + f.weight.extent(1) - 1, d);
  }
  __device__ __forceinline__ Accum bias(index_t d) const {
    return a.forward.bias.data() != nullptr ? load_float(a.forward.bias(d)) : Accum(0);
  }
  // dy act'(s).
  __device__ __forceinline__ Accum through_activation(Accum dy, Accum s) const {
    if (!a.forward.silu) return dy;
    const Accum sigma = sigmoid_of(s);
    return dy * sigma * (Accum(1) + s * (Accum(1) - sigma));
  }
  // e_t from the arguments alone.
  __device__ __forceinline__ Accum e(const ConvGradPart& at, index_t d, index_t t) const {
    const index_t width = a.forward.weight.extent(1);
    Accum s = bias(d);
    for (index_t j = 0; j < width; ++j) {
      s += load_float(a.forward.weight(d, j)) * input(at, d, t - (width - 1) + j);
    }
    return through_activation(load_float(a.dy(at.range.row, t, d)), s);
  }
  // What dstate_last adds to dx of the token `left` tokens before the sequence's end.
  __device__ __forceinline__ Accum from_state(const ConvGradPart& at, index_t d,
                                              index_t left) const {
    const index_t width = a.forward.weight.extent(1);
    return left < width && a.dstate_last.data() != nullptr
               ? a.dstate_last(at.sequence, width - 1 - left, d)
               : Accum(0);
  }
  __device__ __forceinline__ void store_dx(const ConvGradPart& at, index_t d, index_t t,
                                           Accum du) const {
    T& to = a.dx(at.range.row, t, d);
    to = store_as<T>(a.inputs == GradMode::accumulate ? load_float(to) + du : du);
  }
  // Calls f(part) for the parts of sequences that this warp's runs of a segment consist of.
  template <class F>
  __device__ __forceinline__ void for_each_part(index_t segment, F f) const {
    const index_t first = segment * runs.per_segment;
    const index_t last =
        first + runs.per_segment < runs.total ? first + runs.per_segment : runs.total;
    for (index_t run = first + threadIdx.x / kConvGradLanes; run < last; run += kConvGradWarps) {
      const index_t row = run / runs.per_row;
      ConvGradPart at;
      index_t t = run % runs.per_row * kConvGradRun;
      const index_t end = t + kConvGradRun < length ? t + kConvGradRun : length;
      at.sequence = starts != nullptr ? sequence_of(*this, t) : row;
      for (; t < end; ++at.sequence) {
        at.range = sequence_range(*this, at.sequence);
        at.begin = t;
        at.end = at.range.end < end ? at.range.end : end;
        if (at.begin < at.end) f(at);
        if (starts == nullptr) break;  // what is left is padding
        t = t < at.range.end ? at.range.end : t;
      }
    }
  }
};

// The sum of the warps' values, in the first warp.
template <class Accum>
__device__ __forceinline__ Accum conv_block_sum(Accum sum,
                                                Accum (&warps)[kConvGradWarps][kConvGradLanes]) {
  const int lane = static_cast<int>(threadIdx.x) % kConvGradLanes;
  __syncthreads();  // the last use of `warps` is over
  warps[threadIdx.x / kConvGradLanes][lane] = sum;
  __syncthreads();
  if (threadIdx.x >= kConvGradLanes) return sum;
  for (int w = 1; w < kConvGradWarps; ++w) sum += warps[w][lane];
  return sum;
}

// Everything but dstate0 in one pass over x and dy, widths up to kConvMaxTaps: the last inputs and
// the last e are in registers.
template <class T, int kTaps>
__global__ void __launch_bounds__(kConvGradLanes* kConvGradWarps)
    conv_backward_kernel(const ConvGradParams<T> p) {
  using Accum = accum_t<T>;
  __shared__ Accum warps[kConvGradWarps][kConvGradLanes];
  const CausalConv1dArgs<T>& f = p.a.forward;
  const index_t channels = f.x.extent(2);
  const unsigned tiles = static_cast<unsigned>((channels + kConvGradLanes - 1) / kConvGradLanes);
  const index_t segment = blockIdx.x / tiles;
  const index_t d =
      static_cast<index_t>(blockIdx.x % tiles) * kConvGradLanes + threadIdx.x % kConvGradLanes;
  const bool inputs = p.a.inputs != GradMode::ignore && p.a.dx.data() != nullptr;
  Accum sums[kTaps + 1] = {};  // of dweight and dbias
  if (d < channels) {
    const Accum bias = p.bias(d);
    Accum taps[kTaps];
#pragma unroll
    for (int j = 0; j < kTaps; ++j) taps[j] = load_float(f.weight(d, j));
    p.for_each_part(segment, [&](const ConvGradPart& at) {
      const int own = static_cast<int>(at.end - at.begin);
      // The sequence's tokens from `begin` on, as far as they matter here.
      const int known = static_cast<int>(
          at.range.end - at.begin < own + kTaps ? at.range.end - at.begin : own + kTaps);
      const T* const x = &f.x(at.range.row, at.begin, d);
      const T* const dy = &p.a.dy(at.range.row, at.begin, d);
      Accum u[kTaps], e[kTaps] = {};
#pragma unroll
      for (int j = 0; j + 1 < kTaps; ++j) u[j] = p.input(at, d, at.begin - (kTaps - 1) + j);
      for (int i0 = 0; i0 < own + kTaps - 1; i0 += kConvGradStep) {
        Accum x_next[kConvGradStep], dy_next[kConvGradStep];
#pragma unroll
        for (int i = 0; i < kConvGradStep; ++i) {
          const bool exists = i0 + i < known;
          x_next[i] = exists ? load_float(x[(i0 + i) * f.x.stride(1)]) : Accum(0);
          dy_next[i] = exists ? load_float(dy[(i0 + i) * p.a.dy.stride(1)]) : Accum(0);
        }
#pragma unroll
        for (int i = 0; i < kConvGradStep; ++i) {
          u[kTaps - 1] = x_next[i];
          Accum s = bias;
#pragma unroll
          for (int j = 0; j < kTaps; ++j) s += taps[j] * u[j];
          e[kTaps - 1] = i0 + i < known ? p.through_activation(dy_next[i], s) : Accum(0);
          if (i0 + i < own) {
#pragma unroll
            for (int j = 0; j < kTaps; ++j) sums[j] += e[kTaps - 1] * u[j];
            sums[kTaps] += e[kTaps - 1];
          }
          const int done = i0 + i - (kTaps - 1);
          if (inputs && done >= 0 && done < own) {
            // x_t meets weight[width - 1 - m] in the sum of token t + m.
            Accum du = p.from_state(at, d, known - done);
#pragma unroll
            for (int m = 0; m < kTaps; ++m) du += taps[kTaps - 1 - m] * e[m];
            p.store_dx(at, d, at.begin + done, du);
          }
#pragma unroll
          for (int j = 0; j + 1 < kTaps; ++j) {
            u[j] = u[j + 1];
            e[j] = e[j + 1];
          }
        }
      }
    });
  }
  if (p.shares == nullptr) return;
#pragma unroll
  for (int j = 0; j <= kTaps; ++j) {
    const Accum sum = conv_block_sum(sums[j], warps);
    if (threadIdx.x < kConvGradLanes && d < channels) {
      p.shares[(segment * (kTaps + 1) + j) * channels + d] = sum;
    }
  }
}

// The same for any width: e is computed again wherever it is needed.
template <class T>
__global__ void __launch_bounds__(kConvGradLanes* kConvGradWarps)
    conv_backward_any_width_kernel(const ConvGradParams<T> p) {
  using Accum = accum_t<T>;
  __shared__ Accum warps[kConvGradWarps][kConvGradLanes];
  const CausalConv1dArgs<T>& f = p.a.forward;
  const index_t channels = f.x.extent(2);
  const index_t width = f.weight.extent(1);
  const unsigned tiles = static_cast<unsigned>((channels + kConvGradLanes - 1) / kConvGradLanes);
  const index_t segment = blockIdx.x / tiles;
  const index_t d =
      static_cast<index_t>(blockIdx.x % tiles) * kConvGradLanes + threadIdx.x % kConvGradLanes;
  const bool exists = d < channels;
  if (exists && p.a.inputs != GradMode::ignore && p.a.dx.data() != nullptr) {
    p.for_each_part(segment, [&](const ConvGradPart& at) {
      for (index_t t = at.begin; t < at.end; ++t) {
        const index_t left = at.range.end - t;
        Accum du = p.from_state(at, d, left);
        for (index_t m = 0; m < width && m < left; ++m) {
          du += load_float(f.weight(d, width - 1 - m)) * p.e(at, d, t + m);
        }
        p.store_dx(at, d, t, du);
      }
    });
  }
  for (index_t j = 0; j <= width && p.shares != nullptr; ++j) {
    Accum sum = 0;
    if (exists) {
      p.for_each_part(segment, [&](const ConvGradPart& at) {
        for (index_t t = at.begin; t < at.end; ++t) {
          const Accum factor = j == width ? Accum(1) : p.input(at, d, t - (width - 1) + j);
          sum += p.e(at, d, t) * factor;
        }
      });
    }
    sum = conv_block_sum(sum, warps);
    if (threadIdx.x < kConvGradLanes && exists) {
      p.shares[(segment * (width + 1) + j) * channels + d] = sum;
    }
  }
}

// dstate0, one thread per sequence and channel. Entry k - length of dstate_last is read before or
// as entry k of dstate0 is written, so that they may be the same.
template <class T>
__global__ void __launch_bounds__(128) conv_state_gradient_kernel(const ConvGradParams<T> p) {
  using Accum = accum_t<T>;
  const CausalConv1dArgs<T>& f = p.a.forward;
  const index_t index = static_cast<index_t>(blockIdx.x) * 128 + threadIdx.x;
  const index_t channels = f.x.extent(2);
  if (index >= p.sequences * channels) return;
  const index_t d = index % channels;
  ConvGradPart at;
  at.sequence = index / channels;
  at.range = sequence_range(p, at.sequence);
  const index_t length = at.range.end - at.range.begin;
  const index_t width = f.weight.extent(1);
  for (index_t k = width - 2; k >= 0; --k) {
    Accum du = k >= length && p.a.dstate_last.data() != nullptr
                   ? p.a.dstate_last(at.sequence, k - length, d)
                   : Accum(0);
    for (index_t j = 0; j <= k; ++j) {
      if (k - j < length) {
        du += load_float(f.weight(d, j)) * p.e(at, d, at.range.begin + k - j);
      }
    }
    Accum& to = p.a.dstate0(at.sequence, k, d);
    to = p.a.inputs == GradMode::accumulate ? to + du : du;
  }
}

// Column (j, d), j < width: dweight(d, j); j = width: dbias(d).
template <class T>
struct StoreConvWeight {
  using Accum = accum_t<T>;
  View<Accum, 2> dweight;
  View<Accum, 1> dbias;
  index_t channels, width;
  bool accumulate;
  __device__ void operator()(index_t column, Accum sum) const {
    const index_t d = column % channels;
    const index_t j = column / channels;
    Accum* const to = j == width ? (dbias.data() != nullptr ? &dbias(d) : nullptr)
                                 : (dweight.data() != nullptr ? &dweight(d, j) : nullptr);
    if (to != nullptr) *to = accumulate ? *to + sum : sum;
  }
};

template <class T>
accum_t<T>* carve_conv_shares(const CausalConv1dGradArgs<T>& a, Arena& arena) noexcept {
  if (!wanted(a.dweight, a.parameters) && !wanted(a.dbias, a.parameters)) return nullptr;
  const ConvGradRuns runs(a.forward.x.extent(0), a.forward.x.extent(1));
  return arena.allocate<accum_t<T>>(saturating_mul(
      runs.segments, saturating_mul(a.forward.x.extent(2), a.forward.weight.extent(1) + 1)));
}

}  // namespace detail

template <class T>
std::size_t scratch_bytes(const Cuda&, const CausalConv1dGradArgs<T>& a) noexcept {
  Arena counter;
  detail::carve_conv_shares(a, counter);
  return counter.bytes_needed();
}

template <class T>
Status causal_conv1d_backward(const Cuda& cuda, const CausalConv1dGradArgs<T>& a, Arena scratch) {
  const char* const op = "causal_conv1d_backward";
  const CausalConv1dArgs<T>& f = a.forward;
  Status status = check_shapes(a);
  if (!status) return status;
  const index_t batch = f.x.extent(0);
  const index_t channels = f.x.extent(2);
  const index_t width = f.weight.extent(1);
  const detail::ConvGradParams<T> p{a,
                                    f.sequences.lengths.data(),
                                    f.sequences.starts.data(),
                                    f.sequences.lengths.stride(0),
                                    f.sequences.starts.stride(0),
                                    f.x.extent(1),
                                    f.sequences.count(batch),
                                    detail::ConvGradRuns(batch, f.x.extent(1)),
                                    detail::carve_conv_shares(a, scratch)};
  const index_t tiles = (channels + detail::kConvGradLanes - 1) / detail::kConvGradLanes;
  const index_t blocks = saturating_mul(tiles, p.runs.segments);
  const index_t state_blocks = (saturating_mul(p.sequences, channels) + 127) / 128;
  status = scratch.status(op);
  if (status) status = detail::check_grid(op, blocks);
  if (status) status = detail::check_grid(op, state_blocks);
  if (!status || channels == 0) return status;
  const auto run = [&](auto kernel) {
    kernel<<<static_cast<unsigned>(blocks), detail::kConvGradLanes * detail::kConvGradWarps, 0,
             cuda.stream>>>(p);
  };
  switch (width) {
    case 2:
      run(detail::conv_backward_kernel<T, 2>);
      break;
    case 3:
      run(detail::conv_backward_kernel<T, 3>);
      break;
    case detail::kConvMaxTaps:
      run(detail::conv_backward_kernel<T, detail::kConvMaxTaps>);
      break;
    default:
      run(detail::conv_backward_any_width_kernel<T>);
  }
  if (p.shares != nullptr) {
    const detail::StoreConvWeight<T> store{
        wanted(a.dweight, a.parameters) ? a.dweight : View<accum_t<T>, 2>(),
        wanted(a.dbias, a.parameters) ? a.dbias : View<accum_t<T>, 1>(), channels, width,
        a.parameters == GradMode::accumulate};
    detail::queue_column_total(cuda, store, saturating_mul(channels, width + 1), p.runs.segments,
                               p.shares);
  }
  // After dx: dstate0 may replace the dstate_last that both read.
  if (wanted(a.dstate0, a.inputs) && state_blocks > 0) {
    detail::
        conv_state_gradient_kernel<<<static_cast<unsigned>(state_blocks), 128, 0, cuda.stream>>>(p);
  }
  return detail::cuda_status(op, cudaGetLastError());
}

SSM_NAMESPACE_END
