#pragma once

#include "ssm/cuda/detail/dependent_launch.cuh"
#include "ssm/cuda/detail/device_complex.cuh"
#include "ssm/cuda/detail/device_math.cuh"
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
  return detail::cuda_status("rms_norm",
                             detail::launch_dependent(cuda, detail::rms_norm_kernel<T>, tokens,
                                                      detail::kRmsNormThreads, 0, p));
}

SSM_NAMESPACE_END
