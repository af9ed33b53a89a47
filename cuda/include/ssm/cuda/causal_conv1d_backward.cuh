#pragma once

#include "ssm/cuda/causal_conv1d.cuh"
#include "ssm/cuda/causal_conv1d_backward.hpp"
#include "ssm/cuda/detail/column_sum.cuh"

SSM_NAMESPACE_BEGIN
namespace detail {

// The sequence that token t of batch row b belongs to, and where that lies; false for padding.
struct ConvToken {
  index_t sequence;
  DeviceRange range;
  bool exists;
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
  View<Accum, 3> e;  // (batch, length, channels), in scratch

  __device__ __forceinline__ ConvToken token(index_t b, index_t t) const {
    ConvToken at;
    at.sequence = starts != nullptr ? sequence_of(*this, t) : b;
    at.range = sequence_range(*this, at.sequence);
    at.exists = t >= at.range.begin && t < at.range.end;
    return at;
  }
  // Batch row, token and channel of the thread's element, channels fastest.
  struct Element {
    index_t b, t, d;
  };
  __device__ __forceinline__ Element element(index_t index) const {
    const index_t channels = a.forward.x.extent(2);
    return {index / channels / length, index / channels % length, index % channels};
  }
  // u_k of a sequence's channel: the carried state, then the tokens.
  __device__ __forceinline__ Accum u(const ConvToken& at, index_t k, index_t d) const {
    const index_t history = a.forward.weight.extent(1) - 1;
    if (k >= history) {
      return load_float(a.forward.x(at.range.row, at.range.begin + k - history, d));
    }
    return a.forward.state0.data() != nullptr ? a.forward.state0(at.sequence, k, d) : Accum(0);
  }
};

// e_t of every token; zero where there is padding.
template <class T>
__global__ void __launch_bounds__(256) conv_output_gradient_kernel(const ConvGradParams<T> p) {
  using Accum = accum_t<T>;
  const CausalConv1dArgs<T>& f = p.a.forward;
  const index_t index = static_cast<index_t>(blockIdx.x) * 256 + threadIdx.x;
  if (index >= p.e.size()) return;
  const auto [b, t, d] = p.element(index);
  const ConvToken at = p.token(b, t);
  Accum e = 0;
  if (at.exists) {
    e = load_float(p.a.dy(b, t, d));
    if (f.silu) {
      const index_t width = f.weight.extent(1);
      Accum s = f.bias.data() != nullptr ? Accum(load_float(f.bias(d))) : Accum(0);
      for (index_t j = 0; j < width; ++j) {
        s += load_float(f.weight(d, j)) * p.u(at, t - at.range.begin + j, d);
      }
      const Accum sigma = Accum(1) / (Accum(1) + exp_of(-s));
      e *= sigma * (Accum(1) + s * (Accum(1) - sigma));
    }
  }
  p.e(b, t, d) = e;
}

// dx of every token.
template <class T>
__global__ void __launch_bounds__(256) conv_input_gradient_kernel(const ConvGradParams<T> p) {
  using Accum = accum_t<T>;
  const CausalConv1dArgs<T>& f = p.a.forward;
  const index_t index = static_cast<index_t>(blockIdx.x) * 256 + threadIdx.x;
  if (index >= p.e.size()) return;
  const auto [b, t, d] = p.element(index);
  const ConvToken at = p.token(b, t);
  if (!at.exists) return;
  const index_t width = f.weight.extent(1);
  // x_t meets weight[width - 1 - m] in the sum of token t + m.
  Accum du = 0;
  const index_t left = at.range.end - t;
  if (p.a.dstate_last.data() != nullptr && left < width) {
    du = p.a.dstate_last(at.sequence, width - 1 - left, d);
  }
  for (index_t m = 0; m < width && m < left; ++m) {
    du += load_float(f.weight(d, width - 1 - m)) * p.e(b, t + m, d);
  }
  T& to = p.a.dx(b, t, d);
  to = store_as<T>(p.a.inputs == GradMode::accumulate ? load_float(to) + du : du);
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
  const index_t sequence = index / channels;
  const DeviceRange range = sequence_range(p, sequence);
  const index_t length = range.end - range.begin;
  const index_t width = f.weight.extent(1);
  for (index_t k = width - 2; k >= 0; --k) {
    Accum du = k >= length && p.a.dstate_last.data() != nullptr
                   ? p.a.dstate_last(sequence, k - length, d)
                   : Accum(0);
    for (index_t j = 0; j <= k; ++j) {
      if (k - j < length) {
        du += load_float(f.weight(d, j)) * p.e(range.row, range.begin + k - j, d);
      }
    }
    Accum& to = p.a.dstate0(sequence, k, d);
    to = p.a.inputs == GradMode::accumulate ? to + du : du;
  }
}

// Column (j, d), j < width: a token's term of dweight(d, j); j = width: of dbias(d).
template <class T>
struct ConvWeightTerm {
  ConvGradParams<T> p;
  __device__ accum_t<T> operator()(index_t token, index_t column) const {
    const index_t channels = p.a.forward.x.extent(2);
    const index_t d = column % channels;
    const index_t j = column / channels;
    const index_t b = token / p.length;
    const index_t t = token % p.length;
    const accum_t<T> e = p.e(b, t, d);
    if (j == p.a.forward.weight.extent(1)) return e;
    const ConvToken at = p.token(b, t);
    return at.exists ? e * p.u(at, t - at.range.begin + j, d) : accum_t<T>(0);
  }
};

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
struct ConvGradScratch {
  accum_t<T>* e = nullptr;
  accum_t<T>* shares = nullptr;
  static ConvGradScratch carve(const CausalConv1dGradArgs<T>& a, Arena& arena) noexcept {
    ConvGradScratch s;
    s.e = arena.allocate<accum_t<T>>(a.forward.x.size());
    if (a.parameters != GradMode::ignore) {
      s.shares = carve_column_shares<accum_t<T>>(
          saturating_mul(a.forward.x.extent(0), a.forward.x.extent(1)),
          saturating_mul(a.forward.x.extent(2), a.forward.weight.extent(1) + 1), arena);
    }
    return s;
  }
};

}  // namespace detail

template <class T>
std::size_t scratch_bytes(const Cuda&, const CausalConv1dGradArgs<T>& a) noexcept {
  Arena counter;
  detail::ConvGradScratch<T>::carve(a, counter);
  return counter.bytes_needed();
}

template <class T>
Status causal_conv1d_backward(const Cuda& cuda, const CausalConv1dGradArgs<T>& a, Arena scratch) {
  const char* const op = "causal_conv1d_backward";
  const CausalConv1dArgs<T>& f = a.forward;
  Status status = check_shapes(a);
  if (!status) return status;
  const auto carved = detail::ConvGradScratch<T>::carve(a, scratch);
  const index_t batch = f.x.extent(0);
  const index_t channels = f.x.extent(2);
  detail::ConvGradParams<T> p{a,
                              f.sequences.lengths.data(),
                              f.sequences.starts.data(),
                              f.sequences.lengths.stride(0),
                              f.sequences.starts.stride(0),
                              f.x.extent(1),
                              f.sequences.count(batch),
                              View<accum_t<T>, 3>(carved.e, {batch, f.x.extent(1), channels})};
  const index_t blocks = (f.x.size() + 255) / 256;
  const index_t state_blocks = (saturating_mul(p.sequences, channels) + 127) / 128;
  status = scratch.status(op);
  if (status) status = detail::check_grid(op, blocks);
  if (status) status = detail::check_grid(op, state_blocks);
  if (!status) return status;
  const auto grid = static_cast<unsigned>(blocks);
  if (grid > 0) detail::conv_output_gradient_kernel<<<grid, 256, 0, cuda.stream>>>(p);
  if (a.parameters != GradMode::ignore && (a.dweight.present() || a.dbias.present())) {
    const detail::StoreConvWeight<T> store{a.dweight, a.dbias, channels, f.weight.extent(1),
                                           a.parameters == GradMode::accumulate};
    status = detail::queue_column_sum(
        cuda, op, detail::ConvWeightTerm<T>{p}, store, saturating_mul(batch, f.x.extent(1)),
        saturating_mul(channels, f.weight.extent(1) + 1), carved.shares);
    if (!status) return status;
  }
  // dx before dstate0, which may replace the dstate_last that both read.
  if (wanted(a.dx, a.inputs) && grid > 0) {
    detail::conv_input_gradient_kernel<<<grid, 256, 0, cuda.stream>>>(p);
  }
  if (wanted(a.dstate0, a.inputs) && state_blocks > 0) {
    detail::
        conv_state_gradient_kernel<<<static_cast<unsigned>(state_blocks), 128, 0, cuda.stream>>>(p);
  }
  return detail::cuda_status(op, cudaGetLastError());
}

SSM_NAMESPACE_END
