#pragma once

#include <algorithm>

#include "ssm/cpu/backend.hpp"
#include "ssm/cpu/simd.hpp"
#include "ssm/ops/embedding.hpp"

SSM_CPU_NAMESPACE_BEGIN

// The embedding on the CPU; see EmbeddingArgs. On a bad argument, an id outside the vocabulary
// among them, it returns a Status and writes nothing.
template <class T>
Status embedding(const Cpu& cpu, const EmbeddingArgs<T>& a) noexcept {
  using V = detail::Vec<accum_t<T>>;
  Status status = check_shapes(a);
  if (status.is_ok()) status = check_values(a);
  if (!status.is_ok()) return status;
  const index_t length = a.ids.extent(1);
  const index_t features = a.weight.extent(1);
  const auto copy_row = [&a, length, features](index_t i) noexcept {
    const index_t b = i / length;
    const index_t t = i % length;
    const T* const from = a.weight.data() + a.ids(b, t) * a.weight.stride(0);
    accum_t<T>* const to = a.y.data() + b * a.y.stride(0) + t * a.y.stride(1);
    for (index_t k = 0; k < features; k += V::kWidth) {
      const int lanes = static_cast<int>(std::min<index_t>(V::kWidth, features - k));
      const V v = detail::load_strided<V>(from + k * a.weight.stride(1), a.weight.stride(1), lanes);
      detail::store_strided(v, to + k * a.y.stride(2), a.y.stride(2), lanes);
    }
  };
  cpu.parallel.for_each(a.ids.extent(0) * length, copy_row);
  return status;
}

SSM_CPU_NAMESPACE_END
