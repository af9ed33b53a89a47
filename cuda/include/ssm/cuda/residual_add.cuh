#pragma once

#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/detail/launch.cuh"
#include "ssm/cuda/residual_add.hpp"

SSM_NAMESPACE_BEGIN
namespace detail {

// One block per token.
template <class T>
__global__ void __launch_bounds__(256) residual_add_kernel(const ResidualAddArgs<T> a) {
  const index_t b = blockIdx.x / a.y.extent(1);
  const index_t t = blockIdx.x % a.y.extent(1);
  for (index_t i = threadIdx.x; i < a.y.extent(2); i += 256) {
    a.y(b, t, i) = a.residual(b, t, i) + load_float(a.x(b, t, i));
  }
}

}  // namespace detail

template <class T>
Status residual_add(const Cuda& cuda, const ResidualAddArgs<T>& a) {
  Status status = check_shapes(a);
  if (!status || a.y.size() == 0) return status;
  const index_t blocks = saturating_mul(a.y.extent(0), a.y.extent(1));
  status = detail::check_grid("residual_add", blocks);
  if (!status) return status;
  detail::residual_add_kernel<<<static_cast<unsigned>(blocks), 256, 0, cuda.stream>>>(a);
  return detail::cuda_status("residual_add", cudaGetLastError());
}

SSM_NAMESPACE_END
