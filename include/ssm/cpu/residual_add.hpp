#pragma once

#include "ssm/cpu/gradient.hpp"
#include "ssm/ops/residual_add.hpp"

SSM_CPU_NAMESPACE_BEGIN

// y = residual + x on the CPU; see ResidualAddArgs. Any strides; features contiguous is fastest. No
// allocation. On a bad argument it returns a Status and writes nothing.
template <class T>
Status residual_add(const Cpu& cpu, const ResidualAddArgs<T>& a) noexcept {
  using V = detail::Vec<accum_t<T>>;
  const Status status = check_shapes(a);
  if (!status.is_ok() || a.y.size() == 0) return status;
  const index_t rows = a.y.extent(0) * a.y.extent(1);
  const index_t features = a.y.extent(2);
  const index_t rows_per_task = std::max<index_t>(8192 / features, 1);
  cpu.parallel.for_each((rows + rows_per_task - 1) / rows_per_task, [&](index_t task) noexcept {
    const index_t end = std::min((task + 1) * rows_per_task, rows);
    for (index_t row = task * rows_per_task; row < end; ++row) {
      const accum_t<T>* const residual = detail::row_of_tokens(a.residual, row);
      const T* const x = detail::row_of_tokens(a.x, row);
      accum_t<T>* const y = detail::row_of_tokens(a.y, row);
      for (index_t i = 0; i < features; i += V::kWidth) {
        const int n = detail::lanes_within<V>(i, features);
        const V sum =
            detail::load_strided<V>(residual + i * a.residual.stride(2), a.residual.stride(2), n) +
            detail::load_strided<V>(x + i * a.x.stride(2), a.x.stride(2), n);
        detail::store_strided(sum, y + i * a.y.stride(2), a.y.stride(2), n);
      }
    }
  });
  return status;
}

SSM_CPU_NAMESPACE_END
