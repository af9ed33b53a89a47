#pragma once

#include <algorithm>

#include "ssm/cpu/backend.hpp"
#include "ssm/ops/sum_of_squares.hpp"

SSM_CPU_DETAIL_BEGIN

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

// The sum of squares on the CPU; see SumOfSquaresArgs. A task is a run of elements, at most 256 of
// them, each with a partial sum. No allocation, no workspace. On a bad argument it returns a Status
// and writes nothing.
template <class R>
Status sum_of_squares(const Cpu& cpu, const SumOfSquaresArgs<R>& a, Arena) noexcept {
  const Status status = check_shapes(a);
  if (!status || a.mode == GradMode::ignore) return status;
  constexpr index_t kMaxTasks = 256;
  constexpr index_t kSmallestTask = 4096;
  double partial[kMaxTasks];
  const index_t size = a.x.extent(0);
  const index_t step = std::max((size + kMaxTasks - 1) / kMaxTasks, kSmallestTask);
  const index_t tasks = (size + step - 1) / step;
  cpu.parallel.for_each(tasks, [&](index_t task) noexcept {
    const index_t begin = task * step;
    partial[task] = detail::squares_of(a.x.data() + begin * a.x.stride(0), a.x.stride(0),
                                       std::min(step, size - begin));
  });
  double sum = a.mode == GradMode::accumulate ? a.sum(0) : 0;
  for (index_t task = 0; task < tasks; ++task) sum += partial[task];
  a.sum(0) = sum;
  return status;
}

SSM_CPU_NAMESPACE_END
