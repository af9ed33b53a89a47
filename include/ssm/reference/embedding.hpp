#pragma once

#include "ssm/ops/embedding.hpp"
#include "ssm/reference/backend.hpp"

SSM_NAMESPACE_BEGIN

// The definition of the embedding look-up; see EmbeddingArgs for the equation. Allocates nothing.
// On a bad argument, an id outside the vocabulary included, it returns a Status and writes nothing.
template <class T>
Status embedding(Reference, const EmbeddingArgs<T>& a) {
  Status status = check_shapes(a);
  if (status.is_ok()) status = check_values(a);
  if (!status.is_ok()) return status;

  for (index_t b = 0; b < a.ids.extent(0); ++b) {
    for (index_t t = 0; t < a.ids.extent(1); ++t) {
      for (index_t i = 0; i < a.weight.extent(1); ++i) {
        a.y(b, t, i) = widen(a.weight(a.ids(b, t), i));
      }
    }
  }
  return Status::ok();
}

SSM_NAMESPACE_END
