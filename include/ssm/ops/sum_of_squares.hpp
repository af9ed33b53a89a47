#pragma once

#include "ssm/core/arena.hpp"
#include "ssm/core/check.hpp"
#include "ssm/ops/execution.hpp"
#include "ssm/ops/grad_mode.hpp"

SSM_NAMESPACE_BEGIN

// sum <- sum_i x_i^2, or sum + that (accumulate): over the gradients of a model, array after array,
// the square of their global norm. In double and in an order fixed by the shape.
template <class R>
struct SumOfSquaresArgs {
  View<const R, 1> x;   // (size), any stride
  View<double, 1> sum;  // (1)
  GradMode mode = GradMode::overwrite;
};

// Every shape condition; touches no element.
template <class R>
Status check_shapes(const SumOfSquaresArgs<R>& a) noexcept {
  return Check("sum_of_squares").array("x", a.x).shape("sum", a.sum, {1}).status();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class R>
Status sum_of_squares(const Backend&, const SumOfSquaresArgs<R>&, Arena) {
  static_assert(sizeof(Backend) == 0,
                "no sum_of_squares for this backend: include <ssm/reference/sum_of_squares.hpp> or "
                "the header of that name of your backend, or pass a backend object first");
  return Status::ok();
}

SSM_NAMESPACE_END
