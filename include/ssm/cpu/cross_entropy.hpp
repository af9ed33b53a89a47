#pragma once

#include <cmath>

#include "ssm/cpu/gradient.hpp"
#include "ssm/cpu/math.hpp"
#include "ssm/ops/cross_entropy.hpp"

SSM_CPU_DETAIL_BEGIN

// One position of the cross-entropy: its gradient, and what it adds to the loss before scaling.
template <class R>
R cross_entropy_row(const CrossEntropyArgs<R>& a, index_t b, index_t t, R scale) noexcept {
  using V = Vec<R>;
  const index_t vocabulary = a.logits.extent(2);
  const index_t target = a.targets(b, t);
  const bool counts = target != a.ignore;
  const R* const row = a.logits.data() + b * a.logits.stride(0) + t * a.logits.stride(1);
  const auto load = [&](index_t v, int n) noexcept {
    return load_strided<V>(row + v * a.logits.stride(2), a.logits.stride(2), n);
  };
  R largest(0);
  R total(0);
  R loss(0);
  if (counts) {
    largest = row[0];
    V most(largest);
    for (index_t v = 0; v < vocabulary; v += V::kWidth) {
      const int n = lanes_within<V>(v, vocabulary);
      if (n == V::kWidth) {
        most = max(load(v, n), most);
      } else {
        for (index_t i = v; i < vocabulary; ++i) {
          const R logit = row[i * a.logits.stride(2)];
          if (logit > largest) largest = logit;
        }
      }
    }
    const R lane = max_lane(most);
    if (lane > largest) largest = lane;
    V sums(R(0));
    for (index_t v = 0; v < vocabulary; v += V::kWidth) {
      const int n = lanes_within<V>(v, vocabulary);
      const V e = exp(load(v, n) - V(largest));
      if (n == V::kWidth) {
        sums = sums + e;
      } else {  // not the lanes behind the last logit
        R lanes[V::kWidth];
        e.store(lanes);
        for (int i = 0; i < n; ++i) total += lanes[i];
      }
    }
    total += sum(sums);
    loss = std::log(total) + (largest - row[target * a.logits.stride(2)]);
  }
  if (!wanted(a.dlogits, a.inputs)) return loss;
  R* const gradient = a.dlogits.data() + b * a.dlogits.stride(0) + t * a.dlogits.stride(1);
  const R inverse = counts ? R(1) / total : R(0);
  for (index_t v = 0; v < vocabulary; v += V::kWidth) {
    const int n = lanes_within<V>(v, vocabulary);
    V value(R(0));
    if (counts) {
      value = exp(load(v, n) - V(largest)) * V(inverse);
      if (target >= v && target < v + n) {
        R lanes[V::kWidth];
        value.store(lanes);
        lanes[target - v] -= R(1);
        value = V::load(lanes);
      }
      value = V(scale) * value;
    }
    put_gradient(value, gradient + v * a.dlogits.stride(2), a.dlogits.stride(2), n, a.inputs);
  }
  return loss;
}

SSM_CPU_DETAIL_END

SSM_CPU_NAMESPACE_BEGIN

// The cross-entropy and its gradient on the CPU; see CrossEntropyArgs for the equations. A task is
// a run of positions, at most 256 of them, each with a partial sum of the loss. No allocation, no
// workspace. On a bad argument, a target outside the vocabulary among them, it returns a Status and
// writes nothing.
template <class R>
Status cross_entropy(const Cpu& cpu, const CrossEntropyArgs<R>& a, Arena) noexcept {
  Status status = check_shapes(a);
  if (status.is_ok()) status = check_values(a);
  if (!status.is_ok()) return status;

  const index_t length = a.targets.extent(1);
  const index_t positions = a.targets.extent(0) * length;
  index_t counted = 0;
  for (index_t i = 0; i < positions; ++i) counted += a.targets(i / length, i % length) != a.ignore;
  const R scale = a.reduction == Reduction::sum || counted == 0
                      ? a.weight
                      : a.weight / R(static_cast<double>(counted));
  constexpr index_t kMaxTasks = 256;
  R partial[kMaxTasks];
  const index_t positions_per_task = (positions + kMaxTasks - 1) / kMaxTasks;
  const index_t tasks =
      positions == 0 ? 0 : (positions + positions_per_task - 1) / positions_per_task;
  cpu.parallel.for_each(tasks, [&](index_t task) noexcept {
    const index_t end = std::min((task + 1) * positions_per_task, positions);
    R sum(0);
    for (index_t i = task * positions_per_task; i < end; ++i) {
      sum += detail::cross_entropy_row(a, i / length, i % length, scale);
    }
    partial[task] = sum;
  });
  R loss(0);
  for (index_t task = 0; task < tasks; ++task) loss += partial[task];
  if (a.loss.present()) a.loss(0) = scale * loss;
  return status;
}

SSM_CPU_NAMESPACE_END
