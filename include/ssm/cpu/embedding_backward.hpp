#pragma once

#include "ssm/cpu/gradient.hpp"
#include "ssm/ops/embedding_backward.hpp"

SSM_CPU_NAMESPACE_BEGIN

// The gradient of the embedding on the CPU; see EmbeddingGradArgs. A task is a cache line of
// features, over every token in order: no two threads add to one element. No allocation. On a bad
// argument, an id outside the vocabulary among them, it returns a Status and writes nothing.
template <class T>
Status embedding_backward(const Cpu& cpu, const EmbeddingGradArgs<T>& a, Arena) noexcept {
  using Accum = accum_t<T>;
  using V = detail::Vec<Accum>;
  Status status = check_shapes(a);
  if (status.is_ok()) status = check_values(a);
  if (!status.is_ok() || !wanted(a.dweight, a.parameters)) return status;
  constexpr index_t kTask = 64 / static_cast<index_t>(sizeof(Accum));
  const index_t features = a.dweight.extent(1);
  const View<Accum, 2>& g = a.dweight;
  cpu.parallel.for_each((features + kTask - 1) / kTask, [&](index_t task) noexcept {
    const index_t end = std::min((task + 1) * kTask, features);
    for (index_t i = task * kTask; i < end; i += V::kWidth) {
      const int n = detail::lanes_within<V>(i, end);
      Accum* const column = g.data() + i * g.stride(1);
      if (a.parameters == GradMode::overwrite) {
        for (index_t v = 0; v < g.extent(0); ++v) {
          detail::store_strided(V(Accum(0)), column + v * g.stride(0), g.stride(1), n);
        }
      }
      for (index_t b = 0; b < a.ids.extent(0); ++b) {
        for (index_t t = 0; t < a.ids.extent(1); ++t) {
          const V dy = detail::load_strided<V>(
              a.dy.data() + b * a.dy.stride(0) + t * a.dy.stride(1) + i * a.dy.stride(2),
              a.dy.stride(2), n);
          detail::put_gradient(dy, column + a.ids(b, t) * g.stride(0), g.stride(1), n,
                               GradMode::accumulate);
        }
      }
    }
  });
  return status;
}

SSM_CPU_NAMESPACE_END
