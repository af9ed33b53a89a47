#pragma once

#include "ssm/cuda/detail/device_complex.cuh"
#include "ssm/cuda/detail/launch.cuh"
#include "ssm/cuda/state_matrix.hpp"

SSM_NAMESPACE_BEGIN
namespace detail {

template <class R>
__global__ void __launch_bounds__(128) state_matrix_kernel(const StateMatrixArgs<R> a) {
  const index_t index = static_cast<index_t>(blockIdx.x) * 128 + threadIdx.x;
  if (index >= a.A.size()) return;
  const index_t d = index / a.A.extent(1);
  const index_t n = index % a.A.extent(1);
  a.A(d, n) = -exp_of(a.A_log(d, n));
}

}  // namespace detail

template <class R>
Status state_matrix(const Cuda& cuda, const StateMatrixArgs<R>& a) {
  const Status status = check_shapes(a);
  if (!status.is_ok() || a.A.size() == 0) return status;
  const index_t blocks = (a.A.size() + 127) / 128;
  if (blocks > 0x7fffffff) {
    return Status::error(ErrorCode::size_overflow, "state_matrix", "grid",
                         static_cast<double>(blocks), Relation::at_most, 0x7fffffff);
  }
  detail::state_matrix_kernel<<<static_cast<unsigned>(blocks), 128, 0, cuda.stream>>>(a);
  return detail::cuda_status("state_matrix", cudaGetLastError());
}

SSM_NAMESPACE_END
