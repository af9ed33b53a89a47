#pragma once

#include "ssm/core/arena.hpp"
#include "ssm/ops/execution.hpp"
#include "ssm/ops/grad_mode.hpp"
#include "ssm/ops/linear.hpp"

SSM_NAMESPACE_BEGIN

// The gradient of y = x W^T + bias:
//
//   dx = dy W        dweight[o, i] = sum_{b,t} dy[b, t, o] x[b, t, i]        dbias = sum_{b,t} dy
//
// Sums in accum_t<T>, in an order fixed by the shape. dy is stored as TOut and dx as TIn, each T or
// accum_t<T>. x is read only for dweight, and weight's data only for dx; weight gives the shape in
// any case. Outputs must not overlap inputs.
template <class T, class TOut = T, class TIn = T>
struct LinearGradArgs {
  using Accum = accum_t<T>;
  View<const T, 3> x;  // (batch, length, in_features); may be absent when dweight is not wanted
  View<const T, 2> weight;                    // (out_features, in_features), as stored
  View<const TOut, 3> dy;                     // (batch, length, out_features)
  View<TIn, 3> dx;                            // (batch, length, in_features)
  View<Accum, 2> dweight;                     // (out_features, in_features)
  View<Accum, 1> dbias;                       // (out_features)
  GradMode inputs = GradMode::overwrite;      // dx
  GradMode parameters = GradMode::overwrite;  // dweight and dbias
};

// Every shape condition; touches no element.
template <class T, class TOut, class TIn>
Status check_shapes(const LinearGradArgs<T, TOut, TIn>& a) noexcept {
  const index_t batch = a.dy.extent(0);
  const index_t length = a.dy.extent(1);
  const index_t out_features = a.weight.extent(0);
  const index_t in_features = a.weight.extent(1);
  Check check("linear_backward");
  check.at_least("weight.extent(0)", out_features, index_t{0})
      .at_least("weight.extent(1)", in_features, index_t{0})
      .shape("dy", a.dy, {batch, length, out_features});
  if (wanted(a.dx, a.inputs)) {
    check.array("weight", a.weight).shape("dx", a.dx, {batch, length, in_features});
  }
  if (wanted(a.dweight, a.parameters)) {
    check.shape("x", a.x, {batch, length, in_features})
        .shape("dweight", a.dweight, {out_features, in_features});
  }
  if (wanted(a.dbias, a.parameters)) check.shape("dbias", a.dbias, {out_features});
  return check.status();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class T, class TOut, class TIn>
Status linear_backward(const Backend&, const LinearGradArgs<T, TOut, TIn>&, Arena) {
  static_assert(sizeof(Backend) == 0,
                "no linear_backward for this backend: include <ssm/reference/linear_backward.hpp> "
                "or the header of that name of your backend, or pass a backend object first");
  return Status::ok();
}

SSM_NAMESPACE_END
