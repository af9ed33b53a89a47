#pragma once

#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/detail/launch.cuh"
#include "ssm/cuda/embedding.hpp"

SSM_NAMESPACE_BEGIN
namespace detail {

// One block per token.
template <class T>
__global__ void __launch_bounds__(256) embedding_kernel(const EmbeddingArgs<T> a) {
  const index_t t = blockIdx.x % a.ids.extent(1);
  const index_t b = blockIdx.x / a.ids.extent(1);
  const index_t id = a.ids(b, t);
  for (index_t i = threadIdx.x; i < a.weight.extent(1); i += 256) {
    a.y(b, t, i) = load_float(a.weight(id, i));
  }
}

}  // namespace detail

template <class T>
Status embedding(const Cuda& cuda, const EmbeddingArgs<T>& a) {
  const Status status = check_shapes(a);
  if (!status.is_ok()) return status;
  const index_t tokens = a.ids.size();
  if (tokens == 0 || a.weight.extent(1) == 0) return Status::ok();
  if (tokens > 0x7fffffff) {
    return Status::error(ErrorCode::size_overflow, "embedding", "grid", static_cast<double>(tokens),
                         Relation::at_most, 0x7fffffff);
  }
  detail::embedding_kernel<<<static_cast<unsigned>(tokens), 256, 0, cuda.stream>>>(a);
  return detail::cuda_status("embedding", cudaGetLastError());
}

SSM_NAMESPACE_END
