#pragma once

#include <limits>

#include "ssm/core/arena.hpp"
#include "ssm/core/check.hpp"
#include "ssm/core/dtype.hpp"
#include "ssm/ops/execution.hpp"
#include "ssm/ops/grad_mode.hpp"

SSM_NAMESPACE_BEGIN

enum class Reduction {
  mean,  // over the positions that count
  sum,
};

// The cross-entropy of a softmax, torch.nn.functional.cross_entropy, and its gradient in one pass:
//
//   loss    = scale sum_{b,t} (log sum_v exp(logits[b, t, v]) - logits[b, t, targets[b, t]])
//   dlogits = scale (softmax(logits[b, t, :]) - onehot(targets[b, t]))
//
// over the positions whose target is not `ignore`; everywhere else dlogits is zero and the logits
// are not read. scale is `weight`, divided by the number of those positions for a mean. Without any
// position that counts the loss is zero (torch: NaN), so that an empty share of a batch adds
// nothing. R is float or double; the largest logit is taken off first, so nothing overflows. Sums
// run in an order fixed by the shape.
//
// dlogits may be logits exactly (same data and strides) when `inputs` is overwrite.
template <class R>
struct CrossEntropyArgs {
  View<const R, 3> logits;                // (batch, length, vocabulary)
  View<const index_t, 2> targets;         // (batch, length), each `ignore` or in [0, vocabulary)
  View<R, 1> loss;                        // (1), optional output
  View<R, 3> dlogits;                     // (batch, length, vocabulary), optional output
  GradMode inputs = GradMode::overwrite;  // dlogits
  Reduction reduction = Reduction::mean;
  R weight = R(1);
  index_t ignore = -100;  // not in [0, vocabulary)
};

// Every shape condition; touches no element.
template <class R>
Status check_shapes(const CrossEntropyArgs<R>& a) noexcept {
  Check check("cross_entropy");
  const Extents<3> shape{a.logits.extent(0), a.logits.extent(1), a.logits.extent(2)};
  check.array("logits", a.logits)
      .at_least("logits.extent(2) (vocabulary)", shape[2], index_t{1})
      .shape("targets", a.targets, {shape[0], shape[1]})
      .optional_shape("loss", a.loss, {1})
      .require(a.ignore < 0 || a.ignore >= shape[2], ErrorCode::invalid_argument, "ignore",
               "must lie outside the vocabulary");
  if (wanted(a.dlogits, a.inputs)) check.shape("dlogits", a.dlogits, shape);
  return check.status();
}

// The condition on values, for host backends.
template <class R>
Status check_values(const CrossEntropyArgs<R>& a) noexcept {
  Check check("cross_entropy");
  for (index_t b = 0; b < a.targets.extent(0); ++b) {
    for (index_t t = 0; t < a.targets.extent(1); ++t) {
      if (a.targets(b, t) == a.ignore) continue;
      check.at_least("targets value", a.targets(b, t), index_t{0})
          .at_most("targets value", a.targets(b, t), a.logits.extent(2) - 1);
    }
  }
  return check.status();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class R>
Status cross_entropy(const Backend&, const CrossEntropyArgs<R>&, Arena) {
  static_assert(sizeof(Backend) == 0,
                "no cross_entropy for this backend: include <ssm/reference/cross_entropy.hpp> or "
                "the header of that name of your backend, or pass a backend object first");
  return Status::ok();
}

SSM_NAMESPACE_END
