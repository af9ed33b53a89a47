#pragma once

#include "ssm/core/math.hpp"
#include "ssm/ops/causal_conv1d.hpp"
#include "ssm/reference/backend.hpp"
#include "ssm/reference/row.hpp"

SSM_NAMESPACE_BEGIN

// The definition of the causal depthwise convolution; see CausalConv1dArgs for the equation.
// Allocates nothing. On a bad argument it returns a Status and writes nothing.
template <class T>
Status causal_conv1d(Reference, const CausalConv1dArgs<T>& a) {
  using Accum = accum_t<T>;
  Status status = check_shapes(a);
  if (status.is_ok()) {
    status = check_values(a.sequences, "causal_conv1d", a.x.extent(0), a.x.extent(1));
  }
  if (!status.is_ok()) return status;

  const index_t history = a.weight.extent(1) - 1;
  for (index_t i = 0; i < a.sequences.count(a.x.extent(0)); ++i) {
    const Sequences::Range range = a.sequences.range(i, a.x.extent(1));
    const index_t length = range.end - range.begin;
    for (index_t d = 0; d < a.x.extent(2); ++d) {
      // The carried state followed by the tokens of this sequence.
      const auto input = [&a, range, history, i, d](index_t k) -> Accum {
        if (k >= history) return widen(a.x(range.row, range.begin + k - history, d));
        return a.state0.present() ? a.state0(i, k, d) : Accum(0);
      };
      const Accum bias = a.bias.present() ? widen(a.bias(d)) : Accum(0);
      const auto weight = detail::row(a.weight.select(0, d));
      for (index_t t = 0; t < length; ++t) {
        const auto window = detail::lazy_array<Accum>(
            history + 1, [&input, t](Eigen::Index j) { return input(t + j); });
        const Accum y = bias + (weight * window).sum();
        a.y(range.row, range.begin + t, d) = narrow<T>(a.silu ? silu(y) : y);
      }
      if (!a.state_last.present()) continue;
      // Ascending, so that state_last may be state0: entry j is read from entry length + j.
      for (index_t j = 0; j < history; ++j) a.state_last(i, j, d) = input(length + j);
    }
  }
  return Status::ok();
}

SSM_NAMESPACE_END
