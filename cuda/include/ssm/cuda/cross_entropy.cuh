#pragma once

#include <cmath>

#include "ssm/cuda/cross_entropy.hpp"
#include "ssm/cuda/detail/device_complex.cuh"
#include "ssm/cuda/detail/launch.cuh"

SSM_NAMESPACE_BEGIN
namespace detail {

// Few rows in flight, so that part of them stays in the L2 for the second pass.
constexpr int kEntropyThreads = 1024;

__device__ __forceinline__ float log_of(float x) { return logf(x); }
__device__ __forceinline__ double log_of(double x) { return log(x); }

// The value that `combine` makes of all threads' values, in every thread and in a fixed order.
template <class V, class Combine>
__device__ __forceinline__ V entropy_block(V v, V (&warps)[kEntropyThreads / 32], Combine combine) {
  for (int m = 16; m >= 1; m /= 2) v = combine(v, __shfl_xor_sync(0xffffffffu, v, m));
  __syncthreads();  // the last use of `warps` is over
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = v;
  __syncthreads();
  v = warps[0];
  for (int w = 1; w < kEntropyThreads / 32; ++w) v = combine(v, warps[w]);
  return v;
}

// scale = weight, over the number of targets that count for a mean; one block.
template <class R>
__global__ void __launch_bounds__(1024)
    entropy_scale_kernel(const CrossEntropyArgs<R> a, R* scale) {
  index_t counted = 0;
  const index_t length = a.targets.extent(1);
  const index_t tokens = a.targets.extent(0) * length;
  for (index_t i = threadIdx.x; i < tokens; i += 1024) {
    counted += a.targets(i / length, i % length) != a.ignore ? 1 : 0;
  }
  __shared__ index_t warps[32];
  for (int m = 16; m >= 1; m /= 2) counted += __shfl_xor_sync(0xffffffffu, counted, m);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = counted;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < 32; ++w) counted += warps[w];
  const bool mean = a.reduction == Reduction::mean && counted > 0;
  *scale = mean ? a.weight / static_cast<R>(counted) : a.weight;
}

// One block per token: its loss without the scale, and dlogits; both NaN for a target outside the
// vocabulary. The logits are read twice, and dlogits, which may be the same memory, written once.
template <class R>
__global__ void __launch_bounds__(kEntropyThreads)
    entropy_token_kernel(const CrossEntropyArgs<R> a, bool gradient, const R* scale, R* losses) {
  __shared__ R warps[kEntropyThreads / 32];
  const index_t length = a.targets.extent(1);
  const index_t b = blockIdx.x / length;
  const index_t t = blockIdx.x % length;
  const index_t vocabulary = a.logits.extent(2);
  const index_t target = a.targets(b, t);
  const bool counts = target != a.ignore;
  const bool exists = target >= 0 && target < vocabulary;
  const R* const logits = &a.logits(b, t, 0);
  const index_t step = a.logits.stride(2);
  constexpr int kAhead = 8;  // loads in flight
  R largest = 0;
  R sum = 1;
  if (counts) {
    // The sum of e^(logit - largest) with the largest so far. As the reference: a NaN is no
    // maximum, and shows in the sum.
    const R lowest = -static_cast<R>(INFINITY);
    const auto power = [lowest](R x, R from) { return x == lowest ? R(0) : exp_of(x - from); };
    largest = logits[0];
    sum = 0;
    for (index_t v0 = threadIdx.x; v0 < vocabulary; v0 += kAhead * kEntropyThreads) {
      R x[kAhead];
#pragma unroll
      for (int i = 0; i < kAhead; ++i) {
        const index_t v = v0 + i * kEntropyThreads;
        x[i] = v < vocabulary ? logits[v * step] : lowest;
      }
      R larger = largest;
#pragma unroll
      for (int i = 0; i < kAhead; ++i) larger = x[i] > larger ? x[i] : larger;
      if (larger > largest) {
        sum *= power(largest, larger);
        largest = larger;
      }
#pragma unroll
      for (int i = 0; i < kAhead; ++i) sum += power(x[i], largest);
    }
    const R own = largest;
    largest = entropy_block(own, warps, [](R x, R y) { return y > x ? y : x; });
    sum = entropy_block(sum * power(own, largest), warps, [](R x, R y) { return x + y; });
    if (!exists) sum = static_cast<R>(NAN);
  }
  if (threadIdx.x == 0) {
    losses[blockIdx.x] =
        counts ? log_of(sum) + (exists ? largest - logits[target * step] : R(0)) : R(0);
  }
  if (!gradient) return;
  __syncthreads();  // dlogits may be logits
  const bool accumulate = a.inputs == GradMode::accumulate;
  const R factor = counts ? *scale : R(0);
  const R inverse = R(1) / sum;
  R* const dlogits = &a.dlogits(b, t, 0);
  for (index_t v0 = threadIdx.x; v0 < vocabulary; v0 += kAhead * kEntropyThreads) {
    R x[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const index_t v = v0 + i * kEntropyThreads;
      x[i] = counts && v < vocabulary ? logits[v * step] : largest;
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const index_t v = v0 + i * kEntropyThreads;
      if (v >= vocabulary) break;
      const R value =
          counts ? factor * (exp_of(x[i] - largest) * inverse - R(v == target ? 1 : 0)) : R(0);
      R& to = dlogits[v * a.dlogits.stride(2)];
      to = accumulate ? to + value : value;
    }
  }
}

template <class R>
__global__ void __launch_bounds__(1024)
    entropy_loss_kernel(const CrossEntropyArgs<R> a, const R* scale, const R* losses) {
  __shared__ R warps[32];
  const index_t tokens = a.targets.extent(0) * a.targets.extent(1);
  R sum = 0;
  for (index_t i = threadIdx.x; i < tokens; i += 1024) sum += losses[i];
  for (int m = 16; m >= 1; m /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, m);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 1; w < 32; ++w) sum += warps[w];
  a.loss(0) = *scale * sum;
}

}  // namespace detail

template <class R>
std::size_t scratch_bytes(const Cuda&, const CrossEntropyArgs<R>& a) noexcept {
  Arena counter;
  counter.allocate<R>(1);
  counter.allocate<R>(a.targets.size());
  return counter.bytes_needed();
}

template <class R>
Status cross_entropy(const Cuda& cuda, const CrossEntropyArgs<R>& a, Arena scratch) {
  const char* const op = "cross_entropy";
  const index_t tokens = a.targets.size();
  R* const scale = scratch.allocate<R>(1);
  R* const losses = scratch.allocate<R>(tokens);
  Status status = check_shapes(a);
  if (status) status = scratch.status(op);
  if (status) status = detail::check_grid(op, tokens);
  if (!status) return status;
  detail::entropy_scale_kernel<<<1, 1024, 0, cuda.stream>>>(a, scale);
  if (tokens > 0) {
    detail::entropy_token_kernel<<<static_cast<unsigned>(tokens), detail::kEntropyThreads, 0,
                                   cuda.stream>>>(a, wanted(a.dlogits, a.inputs), scale, losses);
  }
  if (a.loss.present()) {
    detail::entropy_loss_kernel<<<1, 1024, 0, cuda.stream>>>(a, scale, losses);
  }
  return detail::cuda_status(op, cudaGetLastError());
}

SSM_NAMESPACE_END
