#pragma once

#include "ssm/ops/embedding_backward.hpp"
#include "ssm/reference/backend.hpp"
#include "ssm/reference/gradient.hpp"

SSM_NAMESPACE_BEGIN

// The definition of the embedding's gradient; see EmbeddingGradArgs for the equation. Allocates
// nothing. On a bad argument, an id outside the vocabulary included, it returns a Status and writes
// nothing.
template <class T>
Status embedding_backward(Reference, const EmbeddingGradArgs<T>& a, Arena) {
  Status status = check_shapes(a);
  if (status.is_ok()) status = check_values(a);
  if (!status.is_ok()) return status;

  const View<accum_t<T>, 2> dweight = detail::open_sum(a.dweight, a.parameters);
  if (!dweight.present()) return status;
  for (index_t b = 0; b < a.ids.extent(0); ++b) {
    for (index_t t = 0; t < a.ids.extent(1); ++t) {
      for (index_t i = 0; i < dweight.extent(1); ++i) dweight(a.ids(b, t), i) += a.dy(b, t, i);
    }
  }
  return status;
}

SSM_NAMESPACE_END
