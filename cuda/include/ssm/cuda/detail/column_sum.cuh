#pragma once

#include "ssm/core/arena.hpp"
#include "ssm/cuda/detail/launch.cuh"
#include "ssm/ops/grad_mode.hpp"

// Sums over tokens, one per column, in an order fixed by the shape: the gradients of parameters.

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kSumColumns = 32;
constexpr int kSumRows = 8;

// Tokens are cut into segments of at least 64, and no more segments than keep the shares small.
inline index_t column_segments(index_t tokens) noexcept {
  const index_t segments = (tokens + 63) / 64;
  return segments < 1 ? 1 : (segments > 128 ? 128 : segments);
}

// Adds the block's rows of kColumns threads to its first.
template <class R, int kRows, int kColumns>
__device__ __forceinline__ void sum_rows(R& sum, R (&rows)[kRows][kColumns]) {
  const int c = static_cast<int>(threadIdx.x) % kColumns;
  const int r = static_cast<int>(threadIdx.x) / kColumns;
  rows[r][c] = sum;
  __syncthreads();
  if (r != 0) return;
  for (int i = 1; i < kRows; ++i) sum += rows[i][c];
}

// The sum over a segment's tokens of value(b, t, column), left in shares[segment, column].
template <class Value, class R>
__global__ void __launch_bounds__(kSumColumns* kSumRows)
    column_share_kernel(const Value value, index_t tokens, index_t length, index_t columns,
                        index_t segments, R* shares) {
  __shared__ R rows[kSumRows][kSumColumns];
  const int c = static_cast<int>(threadIdx.x) % kSumColumns;
  const int r = static_cast<int>(threadIdx.x) / kSumColumns;
  const index_t tiles = (columns + kSumColumns - 1) / kSumColumns;
  const index_t column = blockIdx.x % tiles * kSumColumns + c;
  const index_t segment = blockIdx.x / tiles;
  const index_t size = (tokens + segments - 1) / segments;
  const index_t begin = segment * size;
  const index_t end = begin + size < tokens ? begin + size : tokens;
  R sum = 0;
  if (column < columns && begin + r < end) {
    index_t b = (begin + r) / length;
    index_t t = (begin + r) % length;
    for (index_t token = begin + r; token < end; token += kSumRows) {
      sum += value(b, t, column);
      for (t += kSumRows; t >= length; t -= length) ++b;
    }
  }
  sum_rows(sum, rows);
  if (r == 0 && column < columns) shares[segment * columns + column] = sum;
}

// store(column, sum over the segments), which kRows threads share.
template <int kRows, class Store, class R>
__global__ void __launch_bounds__(kSumColumns* kSumRows)
    column_total_kernel(const Store store, index_t columns, index_t segments, const R* shares) {
  constexpr int kColumns = kSumColumns * kSumRows / kRows;
  __shared__ R rows[kRows][kColumns];
  const int r = static_cast<int>(threadIdx.x) / kColumns;
  const index_t column =
      static_cast<index_t>(blockIdx.x) * kColumns + static_cast<int>(threadIdx.x) % kColumns;
  R sum = 0;
  if (column < columns) {
    for (index_t s = r; s < segments; s += kRows) sum += shares[s * columns + column];
  }
  sum_rows(sum, rows);
  if (r == 0 && column < columns) store(column, sum);
}

template <class R, class Store>
void queue_column_total(const Cuda& cuda, const Store& store, index_t columns, index_t segments,
                        const R* shares) {
  const auto run = [&](auto rows) {
    constexpr int kRows = decltype(rows)::value;
    constexpr int kColumns = kSumColumns * kSumRows / kRows;
    const auto blocks = static_cast<unsigned>((columns + kColumns - 1) / kColumns);
    column_total_kernel<kRows>
        <<<blocks, kSumColumns * kSumRows, 0, cuda.stream>>>(store, columns, segments, shares);
  };
  if (segments > 2 * kSumRows) {
    run(std::integral_constant<int, kSumRows>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
}

template <class R>
R* carve_column_shares(index_t tokens, index_t columns, Arena& arena) noexcept {
  return arena.allocate<R>(saturating_mul(column_segments(tokens), columns));
}

// gradient(column) of a parameter, by its mode.
template <class R>
struct StoreColumn {
  R* data;
  index_t stride;
  bool accumulate;
  __device__ void operator()(index_t column, R sum) const {
    R* const to = data + column * stride;
    *to = accumulate ? *to + sum : sum;
  }
};

template <class R, class Value, class Store>
Status queue_column_sum(const Cuda& cuda, const char* operation, const Value& value,
                        const Store& store, index_t batch, index_t length, index_t columns,
                        R* shares) {
  if (columns == 0) return Status::ok();
  const index_t tokens = batch * length;
  const index_t segments = column_segments(tokens);
  const index_t blocks = saturating_mul((columns + kSumColumns - 1) / kSumColumns, segments);
  const Status status = check_grid(operation, blocks);
  if (!status) return status;
  column_share_kernel<<<static_cast<unsigned>(blocks), kSumColumns * kSumRows, 0, cuda.stream>>>(
      value, tokens, length, columns, segments, shares);
  queue_column_total(cuda, store, columns, segments, shares);
  return cuda_status(operation, cudaGetLastError());
}

}  // namespace detail
SSM_NAMESPACE_END
