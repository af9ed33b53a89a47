#pragma once

#include <algorithm>

#include "ssm/core/math.hpp"
#include "ssm/ops/causal_conv1d_backward.hpp"
#include "ssm/reference/backend.hpp"
#include "ssm/reference/gradient.hpp"

SSM_NAMESPACE_BEGIN

// Bytes of the Arena for causal_conv1d_backward: e_t of one channel.
template <class T>
std::size_t scratch_bytes(Reference, const CausalConv1dGradArgs<T>& a) noexcept {
  Arena counter;
  counter.allocate<accum_t<T>>(a.forward.x.extent(1));
  return counter.bytes_needed();
}

// The definition of the convolution's gradient; see CausalConv1dGradArgs for the equations. Beyond
// the workspace it allocates nothing. On a bad argument it returns a Status and writes nothing.
template <class T>
Status causal_conv1d_backward(Reference, const CausalConv1dGradArgs<T>& a, Arena workspace) {
  using Accum = accum_t<T>;
  const char* const op = "causal_conv1d_backward";
  const CausalConv1dArgs<T>& f = a.forward;
  Status status = check_shapes(a);
  if (status.is_ok()) status = check_values(f.sequences, op, f.x.extent(0), f.x.extent(1));
  const View<Accum, 1> e = workspace.view<Accum, 1>({f.x.extent(1)});
  if (status.is_ok()) status = workspace.status(op);
  if (!status.is_ok()) return status;

  const View<Accum, 2> dweight = detail::open_sum(a.dweight, a.parameters);
  const View<Accum, 1> dbias = detail::open_sum(a.dbias, a.parameters);
  const index_t width = f.weight.extent(1);
  const index_t history = width - 1;
  for (index_t i = 0; i < f.sequences.count(f.x.extent(0)); ++i) {
    const Sequences::Range range = f.sequences.range(i, f.x.extent(1));
    const index_t length = range.end - range.begin;
    for (index_t d = 0; d < f.x.extent(2); ++d) {
      const auto u = [&](index_t k) -> Accum {
        if (k >= history) return widen(f.x(range.row, range.begin + k - history, d));
        return f.state0.present() ? f.state0(i, k, d) : Accum(0);
      };
      for (index_t t = 0; t < length; ++t) {
        Accum s = f.bias.present() ? widen(f.bias(d)) : Accum(0);
        for (index_t j = 0; j < width; ++j) s += widen(f.weight(d, j)) * u(t + j);
        const Accum dy = widen(a.dy(range.row, range.begin + t, d));
        e(t) = f.silu ? dy * silu_derivative(s) : dy;
        if (dbias.present()) dbias(d) += e(t);
        for (index_t j = 0; j < width && dweight.present(); ++j) dweight(d, j) += e(t) * u(t + j);
      }
      if (a.inputs == GradMode::ignore) continue;
      // Descending, so that dstate0 may be dstate_last: entry k - length is read while entry k is
      // written.
      for (index_t k = history + length - 1; k >= 0; --k) {
        Accum du =
            k >= length && a.dstate_last.present() ? a.dstate_last(i, k - length, d) : Accum(0);
        for (index_t j = 0; j < width; ++j) {
          if (k - j >= 0 && k - j < length) du += widen(f.weight(d, j)) * e(k - j);
        }
        if (k < history) {
          if (a.dstate0.present()) detail::store_gradient(a.dstate0(i, k, d), du, a.inputs);
        } else if (a.dx.present()) {
          detail::store_gradient(a.dx(range.row, range.begin + k - history, d), du, a.inputs);
        }
      }
    }
  }
  return Status::ok();
}

SSM_NAMESPACE_END
