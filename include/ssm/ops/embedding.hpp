#pragma once

#include "ssm/core/check.hpp"
#include "ssm/core/dtype.hpp"

SSM_NAMESPACE_BEGIN

// y[b, t, :] = weight[ids[b, t], :], widened to accum_t<T>: the start of the residual stream.
template <class T>
struct EmbeddingArgs {
  View<const index_t, 2> ids;  // (batch, length), each in [0, vocabulary)
  View<const T, 2> weight;     // (vocabulary, features)
  View<accum_t<T>, 3> y;       // (batch, length, features), output
};

// Every shape condition; touches no element.
template <class T>
Status check_shapes(const EmbeddingArgs<T>& a) noexcept {
  Check check("embedding");
  check.array("ids", a.ids).array("weight", a.weight);
  check.shape("y", a.y, {a.ids.extent(0), a.ids.extent(1), a.weight.extent(1)});
  return check.status();
}

// The condition on values, for host backends.
template <class T>
Status check_values(const EmbeddingArgs<T>& a) noexcept {
  Check check("embedding");
  for (index_t b = 0; b < a.ids.extent(0); ++b) {
    for (index_t t = 0; t < a.ids.extent(1); ++t) {
      check.at_least("ids value", a.ids(b, t), index_t{0})
          .at_most("ids value", a.ids(b, t), a.weight.extent(0) - 1);
    }
  }
  return check.status();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class T>
Status embedding(const Backend&, const EmbeddingArgs<T>&) {
  static_assert(
      sizeof(Backend) == 0,
      "no embedding for this backend: include <ssm/reference/embedding.hpp>, "
      "<ssm/cpu/embedding.hpp> or <ssm/cuda/embedding.cuh>, or pass a backend object first");
  return Status::ok();
}

SSM_NAMESPACE_END
