#pragma once

#include "ssm/cuda/detail/launch.cuh"
#include "ssm/cuda/sum_of_squares.hpp"

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kSquareThreads = 256;

// One block up to 2^13 elements, then more, at most 512.
inline index_t square_blocks(index_t size) noexcept {
  const index_t blocks = size >> 13;
  return blocks < 1 ? 1 : (blocks > 512 ? 512 : blocks);
}

// The sum over the block's threads, in an order fixed by the block; valid in thread 0.
__device__ __forceinline__ double square_block_sum(double sum) {
  __shared__ double warps[kSquareThreads / 32];
  for (int m = 16; m >= 1; m /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, m);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return 0;
  for (int w = 1; w < kSquareThreads / 32; ++w) sum += warps[w];
  return sum;
}

// Shares of the sum, or, with one block, the sum itself.
template <class R>
__global__ void __launch_bounds__(kSquareThreads)
    square_share_kernel(const SumOfSquaresArgs<R> a, double* shares) {
  double sum = 0;
  const index_t step = static_cast<index_t>(gridDim.x) * kSquareThreads;
  for (index_t i = static_cast<index_t>(blockIdx.x) * kSquareThreads + threadIdx.x;
       i < a.x.extent(0); i += step) {
    const double v = static_cast<double>(a.x(i));
    sum += v * v;
  }
  sum = square_block_sum(sum);
  if (threadIdx.x != 0) return;
  if (shares != nullptr) {
    shares[blockIdx.x] = sum;
  } else {
    a.sum(0) = a.mode == GradMode::accumulate ? a.sum(0) + sum : sum;
  }
}

template <class R>
__global__ void __launch_bounds__(kSquareThreads)
    square_total_kernel(const SumOfSquaresArgs<R> a, const double* shares, int count) {
  double sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kSquareThreads) sum += shares[i];
  sum = square_block_sum(sum);
  if (threadIdx.x == 0) a.sum(0) = a.mode == GradMode::accumulate ? a.sum(0) + sum : sum;
}

}  // namespace detail

template <class R>
std::size_t scratch_bytes(const Cuda&, const SumOfSquaresArgs<R>& a) noexcept {
  Arena counter;
  const index_t blocks = detail::square_blocks(a.x.extent(0));
  if (blocks > 1) counter.allocate<double>(blocks);
  return counter.bytes_needed();
}

template <class R>
Status sum_of_squares(const Cuda& cuda, const SumOfSquaresArgs<R>& a, Arena scratch) {
  const char* const op = "sum_of_squares";
  Status status = check_shapes(a);
  const index_t blocks = detail::square_blocks(a.x.extent(0));
  double* const shares = blocks > 1 ? scratch.allocate<double>(blocks) : nullptr;
  if (status) status = scratch.status(op);
  if (!status || a.mode == GradMode::ignore) return status;
  detail::square_share_kernel<<<static_cast<unsigned>(blocks), detail::kSquareThreads, 0,
                                cuda.stream>>>(a, shares);
  if (shares != nullptr) {
    detail::square_total_kernel<<<1, detail::kSquareThreads, 0, cuda.stream>>>(
        a, shares, static_cast<int>(blocks));
  }
  return detail::cuda_status(op, cudaGetLastError());
}

SSM_NAMESPACE_END
