#pragma once

#include <cstdint>
#include <utility>

#include "ssm/cuda/detail/column_sum.cuh"
#include "ssm/cuda/embedding_backward.hpp"

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kEmbeddingSort = 2048;  // tokens that a block sorts in shared memory
constexpr int kEmbeddingThreads = 256;
constexpr int kEmbeddingFeatures = 4;  // of a thread

// The tokens of one id are summed in this many parts: one for each 256 tokens, and no more than
// keep the sums at 2^22 numbers, so that a small vocabulary fills the device too.
template <class T>
index_t embedding_parts(const EmbeddingGradArgs<T>& a) noexcept {
  const index_t row = a.dweight.size() > 0 ? a.dweight.size() : 1;
  const index_t most = (index_t{1} << 22) / row;
  const index_t parts = (a.ids.size() + 255) / 256;
  const index_t least = parts < most ? parts : most;
  return least < 1 ? 1 : (least > 256 ? 256 : least);
}

// An id and, in the lower half, a token of it. No two are the same, so that every way of sorting
// them gives the same order.
using EmbeddingKey = std::uint64_t;

__device__ __forceinline__ index_t embedding_lower_bound(const EmbeddingKey* keys, index_t count,
                                                         EmbeddingKey key) {
  index_t low = 0;
  while (count > 0) {
    const index_t half = count / 2;
    if (keys[low + half] < key) {
      low += half + 1;
      count -= half + 1;
    } else {
      count = half;
    }
  }
  return low;
}

// The keys of kEmbeddingSort tokens in ascending order, by a bitonic sort. Ids outside the
// vocabulary come last.
template <class T>
__global__ void __launch_bounds__(kEmbeddingSort / 2)
    embedding_sort_kernel(const EmbeddingGradArgs<T> a, EmbeddingKey* sorted) {
  __shared__ EmbeddingKey keys[kEmbeddingSort];
  const unsigned length = static_cast<unsigned>(a.ids.extent(1));
  const unsigned tokens = static_cast<unsigned>(a.ids.extent(0)) * length;
  const unsigned first = blockIdx.x * kEmbeddingSort;
  for (unsigned i = threadIdx.x; i < kEmbeddingSort; i += kEmbeddingSort / 2) {
    const unsigned token = first + i;
    keys[i] = ~EmbeddingKey{0};
    if (token < tokens) {
      const index_t id = a.ids(token / length, token % length);
      const bool exists = id >= 0 && id < a.dweight.extent(0);
      keys[i] = static_cast<EmbeddingKey>(exists ? id : a.dweight.extent(0)) << 32 | token;
    }
  }
  for (unsigned size = 2; size <= kEmbeddingSort; size *= 2) {
    for (unsigned stride = size / 2; stride > 0; stride /= 2) {
      __syncthreads();
      const unsigned low = 2 * threadIdx.x - threadIdx.x % stride;
      const EmbeddingKey x = keys[low];
      const EmbeddingKey y = keys[low + stride];
      if ((x > y) == ((low & size) == 0)) {
        keys[low] = y;
        keys[low + stride] = x;
      }
    }
  }
  __syncthreads();
  for (unsigned i = threadIdx.x; i < kEmbeddingSort && first + i < tokens;
       i += kEmbeddingSort / 2) {
    sorted[first + i] = keys[i];
  }
}

// Pairs of neighbouring sorted runs become one run each: a key's place is the number of smaller
// keys in both.
template <class Key>
__global__ void __launch_bounds__(256)
    embedding_merge_kernel(const Key* from, Key* to, index_t tokens, index_t run) {
  const index_t i = static_cast<index_t>(blockIdx.x) * 256 + threadIdx.x;
  if (i >= tokens) return;
  const index_t pair = i / (2 * run) * (2 * run);
  const index_t other = i - pair < run ? pair + run : pair;
  const index_t end = other + run < tokens ? other + run : tokens;
  const index_t smaller =
      end > other ? embedding_lower_bound(from + other, end - other, from[i]) : 0;
  const index_t own = i - (i - pair < run ? pair : pair + run);
  to[pair + own + smaller] = from[i];
}

// Where each id's tokens begin in the sorted keys; one more than there are ids.
template <class Key>
__global__ void __launch_bounds__(256)
    embedding_begin_kernel(const Key* keys, index_t tokens, index_t vocabulary, index_t* begins) {
  const index_t id = static_cast<index_t>(blockIdx.x) * 256 + threadIdx.x;
  if (id > vocabulary) return;
  begins[id] = embedding_lower_bound(keys, tokens, static_cast<Key>(id) << 32);
}

template <class T>
struct EmbeddingGradScratch {
  EmbeddingKey* keys = nullptr;
  EmbeddingKey* merged = nullptr;
  index_t* begins = nullptr;
  accum_t<T>* shares = nullptr;  // (parts, vocabulary, features); null: one part
  static EmbeddingGradScratch carve(const EmbeddingGradArgs<T>& a, Arena& arena) noexcept {
    EmbeddingGradScratch s;
    const index_t parts = embedding_parts(a);
    s.keys = arena.allocate<EmbeddingKey>(a.ids.size());
    if (a.ids.size() > kEmbeddingSort) s.merged = arena.allocate<EmbeddingKey>(a.ids.size());
    s.begins = arena.allocate<index_t>(a.dweight.extent(0) + 1);
    if (parts > 1) s.shares = arena.allocate<accum_t<T>>(saturating_mul(parts, a.dweight.size()));
    return s;
  }
};

// One block per id, part and slice of features: the rows of the id's tokens, in their order.
template <class T>
__global__ void __launch_bounds__(kEmbeddingThreads)
    embedding_sum_kernel(const EmbeddingGradArgs<T> a, EmbeddingGradScratch<T> s, unsigned parts) {
  using Accum = accum_t<T>;
  const index_t features = a.dweight.extent(1);
  const unsigned length = static_cast<unsigned>(a.ids.extent(1));
  const index_t id = blockIdx.x / parts;
  const unsigned part = blockIdx.x % parts;
  const index_t first =
      static_cast<index_t>(blockIdx.y) * kEmbeddingThreads * kEmbeddingFeatures + threadIdx.x;
  const index_t count = s.begins[id + 1] - s.begins[id];
  const index_t size = (count + parts - 1) / parts;
  const index_t begin = s.begins[id] + part * size;
  const index_t end = begin + size < s.begins[id + 1] ? begin + size : s.begins[id + 1];
  const bool accumulate = a.parameters == GradMode::accumulate;
  if (begin >= end && accumulate && parts == 1) return;  // unchanged
  Accum sums[kEmbeddingFeatures] = {};
#pragma unroll 4
  for (index_t k = begin; k < end; ++k) {
    const unsigned token = static_cast<unsigned>(s.keys[k]);
    const Accum* const row = &a.dy(token / length, token % length, 0);
#pragma unroll
    for (int q = 0; q < kEmbeddingFeatures; ++q) {
      const index_t i = first + q * kEmbeddingThreads;
      if (i < features) sums[q] += row[i * a.dy.stride(2)];
    }
  }
#pragma unroll
  for (int q = 0; q < kEmbeddingFeatures; ++q) {
    const index_t i = first + q * kEmbeddingThreads;
    if (i >= features) return;
    if (parts > 1) {
      s.shares[(part * a.dweight.extent(0) + id) * features + i] = sums[q];
    } else {
      Accum& to = a.dweight(id, i);
      to = accumulate ? to + sums[q] : sums[q];
    }
  }
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
  detail::EmbeddingGradScratch<T>::carve(a, counter);
  return counter.bytes_needed();
}

template <class T>
Status embedding_backward(const Cuda& cuda, const EmbeddingGradArgs<T>& a, Arena scratch) {
  const char* const op = "embedding_backward";
  Status status = check_shapes(a);
  if (!status || !wanted(a.dweight, a.parameters)) return status;
  auto carved = detail::EmbeddingGradScratch<T>::carve(a, scratch);
  const index_t tokens = a.ids.size();
  const index_t vocabulary = a.dweight.extent(0);
  const index_t features = a.dweight.extent(1);
  const index_t parts = detail::embedding_parts(a);
  constexpr index_t kSlice = detail::kEmbeddingThreads * detail::kEmbeddingFeatures;
  const index_t slices = (features + kSlice - 1) / kSlice;
  constexpr index_t kMost = 0x7fffffff;  // so that a key holds an id and a token
  status = Check(op)
               .also(scratch.status(op))
               .at_most("ids.size() (tokens)", tokens, kMost)
               .at_most("dweight.extent(0) (vocabulary)", vocabulary, kMost - 1)
               .at_most("grid", saturating_mul(vocabulary, parts), kMost)
               .at_most("grid", slices, index_t{65535})
               .status();
  if (!status || a.dweight.size() == 0) return status;
  const auto blocks = [](index_t threads, index_t of) {
    return static_cast<unsigned>((threads + of - 1) / of);
  };
  if (tokens > 0) {
    detail::embedding_sort_kernel<<<blocks(tokens, detail::kEmbeddingSort),
                                    detail::kEmbeddingSort / 2, 0, cuda.stream>>>(a, carved.keys);
  }
  for (index_t run = detail::kEmbeddingSort; run < tokens; run *= 2) {
    detail::embedding_merge_kernel<<<blocks(tokens, 256), 256, 0, cuda.stream>>>(
        carved.keys, carved.merged, tokens, run);
    std::swap(carved.keys, carved.merged);
  }
  detail::embedding_begin_kernel<<<blocks(vocabulary + 1, 256), 256, 0, cuda.stream>>>(
      carved.keys, tokens, vocabulary, carved.begins);
  const dim3 grid(static_cast<unsigned>(vocabulary * parts), static_cast<unsigned>(slices));
  detail::embedding_sum_kernel<<<grid, detail::kEmbeddingThreads, 0, cuda.stream>>>(
      a, carved, static_cast<unsigned>(parts));
  if (parts > 1) {
    const detail::StoreEmbedding<accum_t<T>> store{a.dweight, a.parameters == GradMode::accumulate};
    detail::queue_column_total(cuda, store, a.dweight.size(), parts, carved.shares);
  }
  return detail::cuda_status(op, cudaGetLastError());
}

SSM_NAMESPACE_END
