#pragma once

#include "ssm/cuda/detail/column_sum.cuh"
#include "ssm/cuda/embedding_backward.hpp"

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kEmbeddingThreads = 128;

// Segments of at least 256 tokens, and no more than keep their sums at 2^22 numbers.
template <class T>
index_t embedding_segments(const EmbeddingGradArgs<T>& a) noexcept {
  const index_t tokens = a.ids.size();
  const index_t row = a.dweight.size() > 0 ? a.dweight.size() : 1;
  const index_t most = (index_t{1} << 22) / row;
  const index_t segments = (tokens + 255) / 256;
  const index_t least = segments < most ? segments : most;
  return least < 1 ? 1 : (least > 256 ? 256 : least);
}

// One block per id, segment and kEmbeddingThreads features.
template <class T>
__global__ void __launch_bounds__(kEmbeddingThreads)
    embedding_share_kernel(const EmbeddingGradArgs<T> a, index_t segments, accum_t<T>* shares) {
  using Accum = accum_t<T>;
  __shared__ unsigned found[kEmbeddingThreads / 32];
  const index_t vocabulary = a.dweight.extent(0);
  const index_t features = a.dweight.extent(1);
  const index_t length = a.ids.extent(1);
  const index_t tokens = a.ids.extent(0) * length;
  const index_t id = blockIdx.x % vocabulary;
  const index_t segment = blockIdx.x / vocabulary;
  const index_t i = static_cast<index_t>(blockIdx.y) * kEmbeddingThreads + threadIdx.x;
  const index_t size = (tokens + segments - 1) / segments;
  const index_t begin = segment * size;
  const index_t end = begin + size < tokens ? begin + size : tokens;
  Accum sum = 0;
  for (index_t tile = begin; tile < end; tile += kEmbeddingThreads) {
    const index_t mine = tile + threadIdx.x;
    const bool matches = mine < end && a.ids(mine / length, mine % length) == id;
    const unsigned ballot = __ballot_sync(0xffffffffu, matches);
    __syncthreads();
    if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = ballot;
    __syncthreads();
    for (int w = 0; w < kEmbeddingThreads / 32; ++w) {
      for (unsigned left = found[w]; left != 0; left &= left - 1) {
        const index_t token = tile + w * 32 + __ffs(static_cast<int>(left)) - 1;
        if (i < features) sum += a.dy(token / length, token % length, i);
      }
    }
  }
  if (i < features) shares[(segment * vocabulary + id) * features + i] = sum;
}

template <class R>
struct StoreEmbedding {
  View<R, 2> to;
  bool accumulate;
  __device__ void operator()(index_t column, R sum) const {
    R& v = to(column / to.extent(1), column % to.extent(1));
    v = accumulate ? v + sum : sum;
  }
};

}  // namespace detail

template <class T>
std::size_t scratch_bytes(const Cuda&, const EmbeddingGradArgs<T>& a) noexcept {
  Arena counter;
  counter.allocate<accum_t<T>>(saturating_mul(detail::embedding_segments(a), a.dweight.size()));
  return counter.bytes_needed();
}

template <class T>
Status embedding_backward(const Cuda& cuda, const EmbeddingGradArgs<T>& a, Arena scratch) {
  using Accum = accum_t<T>;
  const char* const op = "embedding_backward";
  Status status = check_shapes(a);
  if (!status || !wanted(a.dweight, a.parameters)) return status;
  const index_t columns = a.dweight.size();
  const index_t segments = detail::embedding_segments(a);
  Accum* const shares = scratch.allocate<Accum>(saturating_mul(segments, columns));
  status = scratch.status(op);
  if (status) status = detail::check_grid(op, saturating_mul(a.dweight.extent(0), segments));
  const index_t slices =
      (a.dweight.extent(1) + detail::kEmbeddingThreads - 1) / detail::kEmbeddingThreads;
  if (status) status = Check(op).at_most("grid", slices, index_t{65535}).status();
  if (!status || columns == 0) return status;
  const dim3 grid(static_cast<unsigned>(a.dweight.extent(0) * segments),
                  static_cast<unsigned>(slices));
  detail::embedding_share_kernel<<<grid, detail::kEmbeddingThreads, 0, cuda.stream>>>(a, segments,
                                                                                      shares);
  const detail::StoreEmbedding<Accum> store{a.dweight, a.parameters == GradMode::accumulate};
  detail::
      column_total_kernel<<<static_cast<unsigned>((columns + 127) / 128), 128, 0, cuda.stream>>>(
          store, columns, segments, shares);
  return detail::cuda_status(op, cudaGetLastError());
}

SSM_NAMESPACE_END
