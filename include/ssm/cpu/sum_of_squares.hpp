#pragma once

#include <algorithm>

#include "ssm/cpu/backend.hpp"
#include "ssm/ops/sum_of_squares.hpp"

SSM_CPU_DETAIL_BEGIN

// Elements of a task, whose squares are one partial sum.
inline constexpr index_t kSquaresTask = 8192;

inline index_t squares_tasks(index_t size) noexcept {
  return (size + kSquaresTask - 1) / kSquaresTask;
}

// Eight chains of additions, which a compiler may put into registers side by side.
template <class R>
double squares_of(const R* x, index_t stride, index_t count) noexcept {
  constexpr int kChains = 8;
  double sums[kChains] = {};
  index_t i = 0;
  for (; i + kChains <= count; i += kChains) {
    for (int k = 0; k < kChains; ++k) {
      const double v = static_cast<double>(x[(i + k) * stride]);
      sums[k] += v * v;
    }
  }
  for (; i < count; ++i) {
    const double v = static_cast<double>(x[i * stride]);
    sums[0] += v * v;
  }
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

SSM_CPU_DETAIL_END

SSM_CPU_NAMESPACE_BEGIN

// Bytes of the Arena for sum_of_squares: a partial sum of every 8192 elements.
template <class R>
std::size_t scratch_bytes(const Cpu&, const SumOfSquaresArgs<R>& a) noexcept {
  Arena counter;
  counter.allocate<double>(detail::squares_tasks(a.x.extent(0)));
  return counter.bytes_needed();
}

// The sum of squares on the CPU; see SumOfSquaresArgs. No allocation. On a bad argument it returns
// a Status and writes nothing.
template <class R>
Status sum_of_squares(const Cpu& cpu, const SumOfSquaresArgs<R>& a, Arena workspace) noexcept {
  Status status = check_shapes(a);
  const index_t tasks = detail::squares_tasks(a.x.extent(0));
  double* const partial = workspace.allocate<double>(tasks);
  if (status) status = workspace.status("sum_of_squares");
  if (!status || a.mode == GradMode::ignore) return status;
  cpu.parallel.for_each(tasks, [&](index_t task) noexcept {
    const index_t begin = task * detail::kSquaresTask;
    const index_t count = std::min(detail::kSquaresTask, a.x.extent(0) - begin);
    partial[task] = detail::squares_of(a.x.data() + begin * a.x.stride(0), a.x.stride(0), count);
  });
  double sum = a.mode == GradMode::accumulate ? a.sum(0) : 0;
  for (index_t task = 0; task < tasks; ++task) sum += partial[task];
  a.sum(0) = sum;
  return status;
}

SSM_CPU_NAMESPACE_END
