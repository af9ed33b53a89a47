#pragma once

#include "ssm/cuda/detail/dependent_launch.cuh"
#include "ssm/cuda/detail/device_complex.cuh"
#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/detail/elements.cuh"
#include "ssm/cuda/rms_norm.hpp"

SSM_NAMESPACE_BEGIN
namespace detail {

template <class T>
struct RmsNormParams {
  using Accum = accum_t<T>;
  const T* x;
  Accum* residual;
  const T* weight;
  const T* z;
  T* y;
  Extents<3> x_stride, residual_stride, z_stride, y_stride;
  index_t weight_stride;
  index_t batch, length, features;
  Accum eps;
  bool norm_before_gate;
};

constexpr int kRmsNormThreads = 256;

// One block per token. A thread meets the same features in both passes, so y may be x and the new
// residual is read back by the thread that wrote it.
template <class T>
__global__ void __launch_bounds__(kRmsNormThreads) rms_norm_kernel(const RmsNormParams<T> p) {
  using Accum = accum_t<T>;
  __shared__ Accum warp_sums[kRmsNormThreads / 32];
  allow_kernel_after();
  wait_for_kernel_before();
  const index_t t = blockIdx.x % p.length;
  const index_t b = blockIdx.x / p.length;
  const auto at = [&](const Extents<3>& stride) { return b * stride[0] + t * stride[1]; };
  const T* const x = p.x == nullptr ? nullptr : p.x + at(p.x_stride);
  Accum* const residual = p.residual == nullptr ? nullptr : p.residual + at(p.residual_stride);
  const T* const z = p.z == nullptr ? nullptr : p.z + at(p.z_stride);
  T* const y = p.y + at(p.y_stride);
  const auto gate = [&](index_t i) {
    const Accum v = load_float(z[i * p.z_stride[2]]);
    return v / (Accum(1) + exp_of(-v));
  };
  const bool gate_first = z != nullptr && !p.norm_before_gate;

  Accum sum = 0;
  constexpr int kTogether = 4;  // loads ahead of the stores that might alias them
  for (index_t first = threadIdx.x; first < p.features; first += kTogether * kRmsNormThreads) {
    Accum values[kTogether];
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      const index_t i = first + u * kRmsNormThreads;
      values[u] = 0;
      if (i >= p.features) continue;
      if (x != nullptr) values[u] = load_float(x[i * p.x_stride[2]]);
      if (residual != nullptr) values[u] += residual[i * p.residual_stride[2]];
    }
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      const index_t i = first + u * kRmsNormThreads;
      if (i >= p.features) continue;
      if (residual != nullptr) residual[i * p.residual_stride[2]] = values[u];
      if (gate_first) values[u] *= gate(i);
      sum += values[u] * values[u];
    }
  }
  for (int m = 16; m >= 1; m /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, m);
  if (threadIdx.x % 32 == 0) warp_sums[threadIdx.x / 32] = sum;
  __syncthreads();
  sum = 0;
  for (int w = 0; w < kRmsNormThreads / 32; ++w) sum += warp_sums[w];
  const Accum scale = Accum(1) / sqrt(sum / static_cast<Accum>(p.features) + p.eps);

  for (index_t i = threadIdx.x; i < p.features; i += kRmsNormThreads) {
    Accum v =
        residual != nullptr ? residual[i * p.residual_stride[2]] : load_float(x[i * p.x_stride[2]]);
    if (gate_first) v *= gate(i);
    v *= scale;
    if (p.weight != nullptr) v *= load_float(p.weight[i * p.weight_stride]);
    if (z != nullptr && p.norm_before_gate) v *= gate(i);
    y[i * p.y_stride[2]] = store_as<T>(v);
  }
}

// Octets of features that a thread of the kernels for octets holds at most.
constexpr int kRmsNormOctets = 4;

// The sums over the kWidth neighbouring threads of a token, whole warps of the block, in each of
// them. To be called by all threads of the block.
template <int kWidth, int kThreads, int kCount>
__device__ __forceinline__ void token_sums(float (&sums)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    for (int m = 16; m >= 1; m /= 2) sums[i] += __shfl_xor_sync(0xffffffffu, sums[i], m);
  }
  if constexpr (kWidth > 32) {
    __shared__ float warps[kThreads / 32][kCount];
    const int warp = static_cast<int>(threadIdx.x) / 32;
    __syncthreads();  // the last use of `warps` is over
    if (threadIdx.x % 32 == 0) {
#pragma unroll
      for (int i = 0; i < kCount; ++i) warps[warp][i] = sums[i];
    }
    __syncthreads();
    const int first = warp / (kWidth / 32) * (kWidth / 32);
#pragma unroll
    for (int i = 0; i < kCount; ++i) {
      sums[i] = 0;
      for (int w = 0; w < kWidth / 32; ++w) sums[i] += warps[first + w][i];
    }
  }
}

// Without a gate, where rows have octets: kWidth threads per token, which hold it in registers.
template <class T, int kWidth>
__global__ void __launch_bounds__(kRmsNormThreads) rms_norm_octet_kernel(const RmsNormParams<T> p) {
  allow_kernel_after();
  const index_t token = static_cast<index_t>(blockIdx.x) * (kRmsNormThreads / kWidth) +
                        static_cast<int>(threadIdx.x) / kWidth;
  const bool exists = token < p.batch * p.length;
  const index_t t = token % p.length;
  const index_t b = token / p.length;
  const int octets = exists ? static_cast<int>(p.features / kOctet) : 0;
  const int first = static_cast<int>(threadIdx.x) % kWidth;
  const T* const x = p.x == nullptr ? nullptr : p.x + b * p.x_stride[0] + t * p.x_stride[1];
  float* const residual = p.residual == nullptr
                              ? nullptr
                              : p.residual + b * p.residual_stride[0] + t * p.residual_stride[1];
  T* const y = p.y + b * p.y_stride[0] + t * p.y_stride[1];
  wait_for_kernel_before();

  // Asked for here, the weight comes while the sums are formed.
  Octet<T> weight[kRmsNormOctets];
  float values[kRmsNormOctets][kOctet] = {};
#pragma unroll
  for (int o = 0; o < kRmsNormOctets; ++o) {
    const int at = first + o * kWidth;
    if (at >= octets) continue;
    if (p.weight != nullptr) weight[o] = Octet<T>::load(p.weight + at * kOctet);
    if (x != nullptr) {
      const auto v = Octet<T>::load(x + at * kOctet);
#pragma unroll
      for (int i = 0; i < kOctet; ++i) values[o][i] = v[i];
    }
    if (residual != nullptr) {
      const auto v = Octet<float>::load(residual + at * kOctet);
#pragma unroll
      for (int i = 0; i < kOctet; ++i) values[o][i] += v[i];
    }
  }
  float sum[1] = {};
#pragma unroll
  for (int o = 0; o < kRmsNormOctets; ++o) {
    const int at = first + o * kWidth;
    if (residual != nullptr && at < octets) {
      Octet<float> v;
#pragma unroll
      for (int i = 0; i < kOctet; ++i) v.v[i] = values[o][i];
      v.store(residual + at * kOctet);
    }
#pragma unroll
    for (int i = 0; i < kOctet; ++i) sum[0] += values[o][i] * values[o][i];
  }
  token_sums<kWidth, kRmsNormThreads>(sum);
  const float scale = 1.0f / sqrtf(sum[0] / static_cast<float>(p.features) + p.eps);
#pragma unroll
  for (int o = 0; o < kRmsNormOctets; ++o) {
    const int at = first + o * kWidth;
    if (at >= octets) continue;
    if (p.weight != nullptr) {
#pragma unroll
      for (int i = 0; i < kOctet; ++i) values[o][i] *= weight[o][i];
    }
    Octet<T> v;
#pragma unroll
    for (int i = 0; i < kOctet; ++i) v.set(i, values[o][i] * scale);
    v.store(y + at * kOctet);
  }
}

// Threads per token in the kernels for octets, 0 if rows are too long for them.
inline int rms_norm_width(index_t features) noexcept {
  for (const int width : {32, 128, 256}) {
    if (features <= index_t{width} * kRmsNormOctets * kOctet) return width;
  }
  return 0;
}

// Calls f(width) for the width of rms_norm_width as a constant.
template <class F>
void visit_rms_norm_width(int width, F f) {
  switch (width) {
    case 32:
      return f(std::integral_constant<int, 32>{});
    case 128:
      return f(std::integral_constant<int, 128>{});
    default:
      return f(std::integral_constant<int, 256>{});
  }
}

template <class T>
cudaError_t launch_rms_norm(const Cuda& cuda, const RmsNormArgs<T>& a, const RmsNormParams<T>& p) {
  const index_t tokens = p.batch * p.length;
  const int width = rms_norm_width(p.features);
  if constexpr (!std::is_same<T, double>::value) {
    if (width > 0 && !a.z.present() && has_octets(a.x) && has_octets(a.residual) &&
        has_octets(a.weight) && has_octets(a.y)) {
      cudaError_t error = cudaSuccess;
      visit_rms_norm_width(width, [&](auto w) {
        constexpr int kWidth = decltype(w)::value;
        constexpr index_t kTokens = kRmsNormThreads / kWidth;
        error = launch_dependent(cuda, rms_norm_octet_kernel<T, kWidth>,
                                 (tokens + kTokens - 1) / kTokens, kRmsNormThreads, 0, p);
      });
      return error;
    }
  }
  return launch_dependent(cuda, rms_norm_kernel<T>, tokens, kRmsNormThreads, 0, p);
}

}  // namespace detail

template <class T>
Status rms_norm(const Cuda& cuda, const RmsNormArgs<T>& a) {
  const Status status = check_shapes(a);
  if (!status.is_ok()) return status;
  detail::RmsNormParams<T> p = {};
  p.x = a.x.data();
  p.residual = a.residual.data();
  p.weight = a.weight.data();
  p.z = a.z.data();
  p.y = a.y.data();
  for (int i = 0; i < 3; ++i) {
    p.x_stride[i] = a.x.stride(i);
    p.residual_stride[i] = a.residual.stride(i);
    p.z_stride[i] = a.z.stride(i);
    p.y_stride[i] = a.y.stride(i);
  }
  p.weight_stride = a.weight.stride(0);
  p.batch = a.y.extent(0);
  p.length = a.y.extent(1);
  p.features = a.y.extent(2);
  p.eps = a.eps;
  p.norm_before_gate = a.norm_before_gate;
  const index_t tokens = saturating_mul(p.batch, p.length);
  if (tokens == 0) return Status::ok();
  if (tokens > 0x7fffffff) {
    return Status::error(ErrorCode::size_overflow, "rms_norm", "grid", static_cast<double>(tokens),
                         Relation::at_most, 0x7fffffff);
  }
  return detail::cuda_status("rms_norm", detail::launch_rms_norm(cuda, a, p));
}

SSM_NAMESPACE_END
