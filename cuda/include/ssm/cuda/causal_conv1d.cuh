#pragma once

#include "ssm/cuda/causal_conv1d.hpp"
#include "ssm/cuda/detail/device_complex.cuh"
#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/detail/elements.cuh"
#include "ssm/cuda/detail/launch.cuh"

SSM_NAMESPACE_BEGIN
namespace detail {

template <class T>
struct CausalConvParams {
  using Accum = accum_t<T>;
  const T* x;
  const T* weight;
  const T* bias;
  const Accum* state0;
  Accum* state_last;
  T* y;
  const index_t* lengths;
  const index_t* starts;
  Extents<3> x_stride, y_stride, state0_stride, state_last_stride;
  Extents<2> weight_stride;
  index_t bias_stride, lengths_stride, starts_stride;
  index_t batch, length, channels, sequences;
  int width;
  bool silu;
  bool token_lanes;  // neighbouring lanes take neighbouring tokens, else channels
};

constexpr int kConvTokens = 8;   // tokens that a thread computes
constexpr int kConvMaxTaps = 4;  // widths up to this hold weights and window in registers

// Sequence i covers the tokens [begin, end) of batch row `row`.
struct DeviceRange {
  index_t row, begin, end;
};
template <class Params>
__device__ __forceinline__ DeviceRange sequence_range(const Params& p, index_t i) {
  if (p.starts != nullptr) {
    return {0, p.starts[i * p.starts_stride], p.starts[(i + 1) * p.starts_stride]};
  }
  return {i, 0, p.lengths == nullptr ? p.length : p.lengths[i * p.lengths_stride]};
}

// The sequence that token t of a packed row belongs to: the last that starts at or before it.
template <class Params>
__device__ __forceinline__ index_t sequence_of(const Params& p, index_t t) {
  index_t low = 0;
  index_t high = p.sequences;
  while (high - low > 1) {
    const index_t middle = low + (high - low) / 2;
    if (p.starts[middle * p.starts_stride] <= t) {
      low = middle;
    } else {
      high = middle;
    }
  }
  return low;
}

// Input t of a sequence, before its first token from state0 or zero.
template <class T>
__device__ __forceinline__ accum_t<T> conv_input(const CausalConvParams<T>& p,
                                                 const DeviceRange& range, index_t sequence,
                                                 index_t d, index_t t) {
  if (t >= range.begin) {
    return load_float(p.x[range.row * p.x_stride[0] + t * p.x_stride[1] + d * p.x_stride[2]]);
  }
  if (p.state0 == nullptr) return accum_t<T>(0);
  return p.state0[sequence * p.state0_stride[0] +
                  (t - range.begin + p.width - 1) * p.state0_stride[1] + d * p.state0_stride[2]];
}

// state_last of one channel: the last width - 1 inputs. In ascending order, so that state0 may be
// the same memory: entry k takes over entry k + tokens.
template <class T>
__device__ __forceinline__ void conv_state(const CausalConvParams<T>& p, const DeviceRange& range,
                                           index_t sequence, index_t d) {
  for (int k = 0; k < p.width - 1; ++k) {
    p.state_last[sequence * p.state_last_stride[0] + k * p.state_last_stride[1] +
                 d * p.state_last_stride[2]] =
        conv_input(p, range, sequence, d, range.end - (p.width - 1) + k);
  }
}

template <class T>
__global__ void __launch_bounds__(128) conv_state_kernel(const CausalConvParams<T> p) {
  const index_t index = static_cast<index_t>(blockIdx.x) * 128 + threadIdx.x;
  if (index >= p.sequences * p.channels) return;
  const index_t sequence = index / p.channels;
  conv_state(p, sequence_range(p, sequence), sequence, index % p.channels);
}

// One thread per kConvTokens tokens of a channel. kTaps: the width, or 0 for any. kWithState: a
// thread has the whole of its sequence and writes state_last after its last use of state0.
template <class T, int kTaps, bool kWithState>
__global__ void __launch_bounds__(128) causal_conv_kernel(const CausalConvParams<T> p) {
  using Accum = accum_t<T>;
  const index_t groups = (p.length + kConvTokens - 1) / kConvTokens;
  index_t index = static_cast<index_t>(blockIdx.x) * 128 + threadIdx.x;
  if (index >= p.batch * groups * p.channels) return;
  index_t d, group;
  if (p.token_lanes) {
    group = index % groups;
    index /= groups;
    d = index % p.channels;
    index /= p.channels;
  } else {
    d = index % p.channels;
    index /= p.channels;
    group = index % groups;
    index /= groups;
  }
  const index_t row = index;
  const index_t first = group * kConvTokens;
  const Accum bias = p.bias == nullptr ? Accum(0) : load_float(p.bias[d * p.bias_stride]);
  const T* const weight = p.weight + d * p.weight_stride[0];
  Accum taps[kTaps > 0 ? kTaps : 1];
  if constexpr (kTaps > 0) {
#pragma unroll
    for (int j = 0; j < kTaps; ++j) taps[j] = load_float(weight[j * p.weight_stride[1]]);
  }

  const index_t row_end =
      p.starts != nullptr || p.lengths == nullptr ? p.length : p.lengths[row * p.lengths_stride];
  index_t sequence = p.starts != nullptr ? sequence_of(p, first) : row;
  DeviceRange range = sequence_range(p, sequence);
  Accum window[kTaps > 0 ? kTaps : 1];
  index_t held = -1;  // the sequence that `window` belongs to
#pragma unroll
  for (int i = 0; i < kConvTokens; ++i) {
    const index_t t = first + i;
    if (t >= row_end) break;
    while (t >= range.end) range = sequence_range(p, ++sequence);
    Accum sum = bias;
    if constexpr (kTaps > 0) {
      if (held == sequence) {
#pragma unroll
        for (int j = 0; j + 1 < kTaps; ++j) window[j] = window[j + 1];
      } else {
#pragma unroll
        for (int j = 0; j + 1 < kTaps; ++j) {
          window[j] = conv_input(p, range, sequence, d, t - (kTaps - 1) + j);
        }
        held = sequence;
      }
      window[kTaps - 1] = conv_input(p, range, sequence, d, t);
#pragma unroll
      for (int j = 0; j < kTaps; ++j) sum += taps[j] * window[j];
    } else {
      for (int j = 0; j < p.width; ++j) {
        sum += load_float(weight[j * p.weight_stride[1]]) *
               conv_input(p, range, sequence, d, t - (p.width - 1) + j);
      }
    }
    if (p.silu) sum = sum / (Accum(1) + exp_of(-sum));
    p.y[row * p.y_stride[0] + t * p.y_stride[1] + d * p.y_stride[2]] = store_as<T>(sum);
  }
  if constexpr (kWithState) conv_state(p, sequence_range(p, row), row, d);
}

// Tokens that a thread of the kernel for octets computes: so many times those whose loads are in
// flight together, which are a multiple of the width, so that the window's places are constants.
constexpr int kConvSteps = 4;
template <int kTaps>
constexpr int kConvStep = kTaps == 3 ? 3 : 4;

// One thread per octet of channels and some tokens of it, where channels have octets and sequences
// are not packed.
template <class T, int kTaps>
__global__ void __launch_bounds__(128) causal_conv_octet_kernel(const CausalConvParams<T> p) {
  constexpr int kStep = kConvStep<kTaps>;
  constexpr int kTokens = kConvSteps * kStep;
  const index_t octets = p.channels / kOctet;
  const index_t groups = (p.length + kTokens - 1) / kTokens;
  const index_t index = static_cast<index_t>(blockIdx.x) * 128 + threadIdx.x;
  if (index >= p.batch * groups * octets) return;
  const index_t d = index % octets * kOctet;
  const index_t first = index / octets % groups * kTokens;
  const index_t row = index / octets / groups;
  const DeviceRange range = sequence_range(p, row);
  const int tokens = static_cast<int>(range.end - first < kTokens ? range.end - first : kTokens);
  if (tokens <= 0) return;

  float taps[kTaps][kOctet], bias[kOctet];
#pragma unroll
  for (int i = 0; i < kOctet; ++i) {
#pragma unroll
    for (int j = 0; j < kTaps; ++j) {
      taps[j][i] = load_float(p.weight[(d + i) * p.weight_stride[0] + j * p.weight_stride[1]]);
    }
    bias[i] = p.bias == nullptr ? 0.0f : load_float(p.bias[(d + i) * p.bias_stride]);
  }
  const T* const x = p.x + row * p.x_stride[0] + first * p.x_stride[1] + d;
  T* const y = p.y + row * p.y_stride[0] + first * p.y_stride[1] + d;
  float window[kTaps][kOctet];  // input first + i at place i modulo kTaps
#pragma unroll
  for (int j = 1; j < kTaps; ++j) {
#pragma unroll
    for (int i = 0; i < kOctet; ++i) {
      window[j][i] = conv_input(p, range, row, d + i, first - kTaps + j);
    }
  }
#pragma unroll 1
  for (int step = 0; step < tokens; step += kStep) {
    Octet<T> next[kStep];
#pragma unroll
    for (int k = 0; k < kStep; ++k) {
      if (step + k < tokens) next[k] = Octet<T>::load(x + (step + k) * p.x_stride[1]);
    }
#pragma unroll
    for (int k = 0; k < kStep; ++k) {
      if (step + k >= tokens) break;
      Octet<T> out;
#pragma unroll
      for (int i = 0; i < kOctet; ++i) {
        window[k % kTaps][i] = next[k][i];
        float sum = bias[i];
#pragma unroll
        for (int j = 0; j < kTaps; ++j) sum += taps[j][i] * window[(k + 1 + j) % kTaps][i];
        if (p.silu) sum = sizeof(T) == 2 ? silu_fast(sum) : sum / (1.0f + exp_of(-sum));
        out.set(i, sum);
      }
      out.store(y + (step + k) * p.y_stride[1]);
    }
  }
}

}  // namespace detail

template <class T>
Status causal_conv1d(const Cuda& cuda, const CausalConv1dArgs<T>& a) {
  const Status status = check_shapes(a);
  if (!status.is_ok()) return status;
  detail::CausalConvParams<T> p = {};
  p.x = a.x.data();
  p.weight = a.weight.data();
  p.bias = a.bias.data();
  p.state0 = a.state0.data();
  p.state_last = a.state_last.data();
  p.y = a.y.data();
  p.lengths = a.sequences.lengths.data();
  p.starts = a.sequences.starts.data();
  for (int i = 0; i < 3; ++i) {
    p.x_stride[i] = a.x.stride(i);
    p.y_stride[i] = a.y.stride(i);
    p.state0_stride[i] = a.state0.stride(i);
    p.state_last_stride[i] = a.state_last.stride(i);
  }
  p.weight_stride = {a.weight.stride(0), a.weight.stride(1)};
  p.bias_stride = a.bias.stride(0);
  p.lengths_stride = a.sequences.lengths.stride(0);
  p.starts_stride = a.sequences.starts.stride(0);
  p.batch = a.x.extent(0);
  p.length = a.x.extent(1);
  p.channels = a.x.extent(2);
  p.sequences = a.sequences.count(p.batch);
  if (a.weight.extent(1) > 0x7fffffff) {
    return Status::error(ErrorCode::size_overflow, "causal_conv1d", "weight.extent(1) (width)",
                         static_cast<double>(a.weight.extent(1)), Relation::at_most, 0x7fffffff);
  }
  p.width = static_cast<int>(a.weight.extent(1));
  p.silu = a.silu;
  p.token_lanes = a.x.stride(1) == 1 && a.x.stride(2) != 1;

  const index_t groups = (p.length + detail::kConvTokens - 1) / detail::kConvTokens;
  const index_t threads = saturating_mul(saturating_mul(p.batch, groups), p.channels);
  const index_t states = p.state_last == nullptr ? 0 : saturating_mul(p.sequences, p.channels);
  constexpr index_t kMost = index_t{0x7fffffff} * 128;
  if (threads > kMost || states > kMost) {
    return Status::error(ErrorCode::size_overflow, "causal_conv1d", "grid",
                         static_cast<double>(threads), Relation::at_most,
                         static_cast<double>(kMost));
  }
  const bool fused = states > 0 && groups == 1 && p.starts == nullptr;
  const auto run = [&](auto kernel, index_t count) {
    kernel<<<static_cast<unsigned>((count + 127) / 128), 128, 0, cuda.stream>>>(p);
    return cudaGetLastError();
  };
  const bool in_octets =
      groups > 1 && p.starts == nullptr && detail::has_octets(a.x) && detail::has_octets(a.y);
  const auto convolve = [&](auto taps) {
    constexpr int kTaps = decltype(taps)::value;
    if constexpr (kTaps > 0 && !std::is_same<T, double>::value) {
      constexpr index_t kTokens = detail::kConvSteps * detail::kConvStep<kTaps>;
      if (in_octets) {
        return run(detail::causal_conv_octet_kernel<T, kTaps>,
                   p.batch * ((p.length + kTokens - 1) / kTokens) * (p.channels / detail::kOctet));
      }
    }
    return fused ? run(detail::causal_conv_kernel<T, kTaps, true>, threads)
                 : run(detail::causal_conv_kernel<T, kTaps, false>, threads);
  };
  cudaError_t error = cudaSuccess;
  if (threads > 0) {
    switch (p.width) {
      case 2:
        error = convolve(std::integral_constant<int, 2>{});
        break;
      case 3:
        error = convolve(std::integral_constant<int, 3>{});
        break;
      case detail::kConvMaxTaps:
        error = convolve(std::integral_constant<int, detail::kConvMaxTaps>{});
        break;
      default:
        error = convolve(std::integral_constant<int, 0>{});
    }
  }
  if (error == cudaSuccess && states > 0 && !fused) {
    error = run(detail::conv_state_kernel<T>, states);
  }
  return detail::cuda_status("causal_conv1d", error);
}

SSM_NAMESPACE_END
