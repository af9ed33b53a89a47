#pragma once

#include "ssm/core/arena.hpp"
#include "ssm/ops/embedding.hpp"
#include "ssm/ops/execution.hpp"
#include "ssm/ops/grad_mode.hpp"

SSM_NAMESPACE_BEGIN

// The gradient of the embedding look-up: dweight[v, :] = sum over {(b, t) : ids[b, t] = v} of
// dy[b, t, :], in an order fixed by the shape and the ids. Rows of no token are zero (overwrite) or
// unchanged (accumulate). Outputs must not overlap inputs.
template <class T>
struct EmbeddingGradArgs {
  using Accum = accum_t<T>;
  View<const index_t, 2> ids;  // (batch, length), each in [0, vocabulary)
  View<const Accum, 3> dy;     // (batch, length, features)
  View<Accum, 2> dweight;      // (vocabulary, features)
  GradMode parameters = GradMode::overwrite;
};

// Every shape condition; touches no element.
template <class T>
Status check_shapes(const EmbeddingGradArgs<T>& a) noexcept {
  Check check("embedding_backward");
  check.array("ids", a.ids);
  if (wanted(a.dweight, a.parameters)) {
    check.array("dweight", a.dweight)
        .shape("dy", a.dy, {a.ids.extent(0), a.ids.extent(1), a.dweight.extent(1)});
  }
  return check.status();
}

// The condition on values, for host backends.
template <class T>
Status check_values(const EmbeddingGradArgs<T>& a) noexcept {
  Check check("embedding_backward");
  if (!wanted(a.dweight, a.parameters)) return check.status();
  for (index_t b = 0; b < a.ids.extent(0); ++b) {
    for (index_t t = 0; t < a.ids.extent(1); ++t) {
      check.at_least("ids value", a.ids(b, t), index_t{0})
          .at_most("ids value", a.ids(b, t), a.dweight.extent(0) - 1);
    }
  }
  return check.status();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class T>
Status embedding_backward(const Backend&, const EmbeddingGradArgs<T>&, Arena) {
  static_assert(sizeof(Backend) == 0,
                "no embedding_backward for this backend: include "
                "<ssm/reference/embedding_backward.hpp> or the header of that name of your "
                "backend, or pass a backend object first");
  return Status::ok();
}

SSM_NAMESPACE_END
