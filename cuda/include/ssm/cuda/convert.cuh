#pragma once

#include "ssm/cuda/convert.hpp"
#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/detail/launch.cuh"

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kConvertThreads = 256;

// Neighbouring threads on neighbours of the dimension `inner`, along which x and y are contiguous
// in the library's own states.
template <class From, class To>
__global__ void __launch_bounds__(kConvertThreads)
    convert_kernel(const ConvertArgs<From, To> a, int inner) {
  const index_t index = static_cast<index_t>(blockIdx.x) * kConvertThreads + threadIdx.x;
  if (index >= a.y.size()) return;
  const int outer = inner == 3 ? 2 : 3;
  index_t at[4];
  index_t rest = index / a.y.extent(inner);
  at[inner] = index % a.y.extent(inner);
  at[outer] = rest % a.y.extent(outer);
  rest /= a.y.extent(outer);
  at[1] = rest % a.y.extent(1);
  at[0] = rest / a.y.extent(1);
  a.y(at[0], at[1], at[2], at[3]) = store_as<To>(load_float(a.x(at[0], at[1], at[2], at[3])));
}

}  // namespace detail

template <class From, class To>
Status convert(const Cuda& cuda, const ConvertArgs<From, To>& a) {
  Status status = check_shapes(a);
  if (!status || a.y.size() == 0) return status;
  const index_t blocks = (a.y.size() + detail::kConvertThreads - 1) / detail::kConvertThreads;
  status = detail::check_grid("convert", blocks);
  if (!status) return status;
  const int inner = a.y.stride(2) < a.y.stride(3) ? 2 : 3;
  detail::
      convert_kernel<<<static_cast<unsigned>(blocks), detail::kConvertThreads, 0, cuda.stream>>>(
          a, inner);
  return detail::cuda_status("convert", cudaGetLastError());
}

SSM_NAMESPACE_END
