#pragma once

#include "ssm/cuda/adamw.hpp"
#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/detail/launch.cuh"

SSM_NAMESPACE_BEGIN
namespace detail {

template <class T>
__global__ void __launch_bounds__(256) adamw_kernel(const AdamWArgs<T> a) {
  using Accum = accum_t<T>;
  __shared__ AdamWFactors<Accum> factors;
  if (threadIdx.x == 0) factors = adamw_factors(a);  // the powers in double cost more than the rest
  __syncthreads();
  const AdamWFactors<Accum> f = factors;
  const index_t size = a.parameter.extent(0);
  const index_t step = static_cast<index_t>(gridDim.x) * 256;
  for (index_t i = static_cast<index_t>(blockIdx.x) * 256 + threadIdx.x; i < size; i += step) {
    Accum w = a.master.data() != nullptr ? a.master(i) : load_float(a.parameter(i));
    const Accum g = f.clip * a.gradient(i);
    const Accum m = a.m(i) + f.mix1 * (g - a.m(i));
    const Accum v = a.v(i) + f.mix2 * (g * g - a.v(i));
    w -= f.decay * w;
    w -= f.scale * m / (sqrt(v) * f.correction + f.eps);
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
