#pragma once

#include "ssm/cuda/adamw.hpp"
#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/detail/launch.cuh"

SSM_NAMESPACE_BEGIN
namespace detail {

// What every element of one step shares, computed in double by one thread of each block.
template <class Accum>
struct AdamWFactors {
  Accum clip, decay, scale, correction;
};

template <class T>
__global__ void __launch_bounds__(256) adamw_kernel(const AdamWArgs<T> a) {
  using Accum = accum_t<T>;
  __shared__ AdamWFactors<Accum> factors;
  if (threadIdx.x == 0) {
    const AdamWStep step = a.step(0);
    const double count = static_cast<double>(step.number);
    double clip = 1;
    if (a.square_norm.data() != nullptr) {
      const double limit = a.max_norm / (sqrt(a.square_norm(0)) + 1e-6);
      if (!(limit >= 1)) clip = limit;
    }
    factors.clip = static_cast<Accum>(clip);
    factors.decay = static_cast<Accum>(step.learning_rate * a.weight_decay);
    factors.scale = static_cast<Accum>(step.learning_rate / (1 - pow(a.beta1, count)));
    factors.correction = static_cast<Accum>(1 / sqrt(1 - pow(a.beta2, count)));
  }
  __syncthreads();
  const AdamWFactors<Accum> f = factors;
  const Accum mix1 = static_cast<Accum>(1 - a.beta1);
  const Accum mix2 = static_cast<Accum>(1 - a.beta2);
  const Accum eps = static_cast<Accum>(a.eps);
  const index_t size = a.parameter.extent(0);
  const index_t step = static_cast<index_t>(gridDim.x) * 256;
  for (index_t i = static_cast<index_t>(blockIdx.x) * 256 + threadIdx.x; i < size; i += step) {
    Accum w = a.master.data() != nullptr ? a.master(i) : load_float(a.parameter(i));
    const Accum g = f.clip * a.gradient(i);
    const Accum m = a.m(i) + mix1 * (g - a.m(i));
    const Accum v = a.v(i) + mix2 * (g * g - a.v(i));
    w -= f.decay * w;
    w -= f.scale * m / (sqrt(v) * f.correction + eps);
    a.m(i) = m;
    a.v(i) = v;
    if (a.master.data() != nullptr) a.master(i) = w;
    a.parameter(i) = store_as<T>(w);
  }
}

}  // namespace detail

template <class T>
Status adamw(const Cuda& cuda, const AdamWArgs<T>& a) {
  const Status status = check_shapes(a);
  const index_t size = a.parameter.extent(0);
  if (!status || size == 0) return status;
  // Eight elements a thread once there are many, so that the shared factors cost little.
  const index_t blocks = (size + 255) / 256;
  const index_t grid = blocks <= 1024 ? blocks : 1024 + (blocks - 1024) / 8;
  const Status fits = detail::check_grid("adamw", grid);
  if (!fits) return fits;
  detail::adamw_kernel<<<static_cast<unsigned>(grid), 256, 0, cuda.stream>>>(a);
  return detail::cuda_status("adamw", cudaGetLastError());
}

SSM_NAMESPACE_END
