#pragma once

#include <algorithm>

#include "ssm/cpu/backend.hpp"
#include "ssm/cpu/simd.hpp"
#include "ssm/ops/grad_mode.hpp"

SSM_CPU_DETAIL_BEGIN

// gradient <- value, or gradient + value: the first n lanes, at p[i * stride].
template <class V, class Stored>
SSM_ALWAYS_INLINE void put_gradient(V value, Stored* p, index_t stride, int n,
                                    GradMode mode) noexcept {
  if (mode == GradMode::accumulate) value = load_strided<V>(p, stride, n) + value;
  store_strided(value, p, stride, n);
}

// How many of a register's lanes lie within [i, end).
template <class V>
SSM_ALWAYS_INLINE int lanes_within(index_t i, index_t end) noexcept {
  return end - i < V::kWidth ? static_cast<int>(end - i) : V::kWidth;
}

// Where token i of (batch, length, features) begins, the rows counted through the batch.
template <class T>
SSM_ALWAYS_INLINE T* row_of_tokens(const View<T, 3>& v, index_t i) noexcept {
  return v.data() + i / v.extent(1) * v.stride(0) + i % v.extent(1) * v.stride(1);
}

// gradient (+)= the sum of `parts` arrays of its extent, one behind another, in their order.
template <class Accum>
void sum_parts(const Parallel& parallel, const Accum* data, index_t parts,
               const View<Accum, 1>& gradient, GradMode mode) noexcept {
  using V = Vec<Accum>;
  constexpr index_t kTask = 64;
  const index_t size = gradient.extent(0);
  parallel.for_each((size + kTask - 1) / kTask, [&](index_t task) noexcept {
    const index_t end = std::min((task + 1) * kTask, size);
    for (index_t i = task * kTask; i < end; i += V::kWidth) {
      const int n = lanes_within<V>(i, end);
      V sum(Accum(0));
      for (index_t p = 0; p < parts; ++p) sum = sum + load_first<V>(data + p * size + i, n);
      put_gradient(sum, gradient.data() + i * gradient.stride(0), gradient.stride(0), n, mode);
    }
  });
}

SSM_CPU_DETAIL_END
