#pragma once

#include <cmath>

#include "ssm/ops/cross_entropy.hpp"
#include "ssm/reference/backend.hpp"
#include "ssm/reference/gradient.hpp"

SSM_NAMESPACE_BEGIN

// The definition of the cross-entropy; see CrossEntropyArgs for the equations. Allocates nothing.
// On a bad argument, a target outside the vocabulary included, it returns a Status and writes
// nothing.
template <class R>
Status cross_entropy(Reference, const CrossEntropyArgs<R>& a, Arena) {
  using std::exp;
  using std::log;
  Status status = check_shapes(a);
  if (status.is_ok()) status = check_values(a);
  if (!status.is_ok()) return status;

  const index_t vocabulary = a.logits.extent(2);
  index_t counted = 0;
  for (index_t b = 0; b < a.targets.extent(0); ++b) {
    for (index_t t = 0; t < a.targets.extent(1); ++t) counted += a.targets(b, t) != a.ignore;
  }
  const R scale = a.reduction == Reduction::sum || counted == 0
                      ? a.weight
                      : a.weight / R(static_cast<double>(counted));
  R loss(0);
  for (index_t b = 0; b < a.targets.extent(0); ++b) {
    for (index_t t = 0; t < a.targets.extent(1); ++t) {
      const index_t target = a.targets(b, t);
      const bool counts = target != a.ignore;
      R largest(0), sum(0);
      if (counts) {
        largest = a.logits(b, t, 0);
        for (index_t v = 1; v < vocabulary; ++v) {
          if (a.logits(b, t, v) > largest) largest = a.logits(b, t, v);
        }
        for (index_t v = 0; v < vocabulary; ++v) sum += exp(a.logits(b, t, v) - largest);
        loss += log(sum) + (largest - a.logits(b, t, target));
      }
      if (!wanted(a.dlogits, a.inputs)) continue;
      for (index_t v = 0; v < vocabulary; ++v) {
        R gradient(0);
        if (counts) {
          gradient = scale * (exp(a.logits(b, t, v) - largest) / sum - R(v == target ? 1 : 0));
        }
        detail::store_gradient(a.dlogits(b, t, v), gradient, a.inputs);
      }
    }
  }
  if (a.loss.present()) a.loss(0) = scale * loss;
  return status;
}

SSM_NAMESPACE_END
