#pragma once

#include <cmath>

#include "ssm/core/check.hpp"
#include "ssm/core/dtype.hpp"

SSM_NAMESPACE_BEGIN

// What changes from one step of the optimiser to the next. It lives in the backend's memory, so
// that a captured training step can be replayed with new values.
struct AdamWStep {
  double learning_rate = 0;
  index_t number = 1;  // of this step, from 1
};

// One step of AdamW (Loshchilov and Hutter 2019, algorithm 2; torch.optim.AdamW), elementwise:
//
//   g  = c gradient,  c = min(1, max_norm / (sqrt(square_norm) + 1e-6))     (c = 1 without a norm)
//   w <- w - lr weight_decay w
//   m <- m + (1 - beta1) (g - m)            v <- v + (1 - beta2) (g^2 - v)
//   w <- w - lr (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + eps)        k = step.number
//
// w is `master` where there is one, and `parameter` its rounding to T; otherwise `parameter`, which
// in two bytes would lose steps smaller than its spacing. A NaN among the gradients makes the norm
// NaN, and with it every parameter: it cannot pass unseen. Nothing is summed, so the result does
// not depend on how the arrays are cut.
template <class T>
struct AdamWArgs {
  using Accum = accum_t<T>;
  View<T, 1> parameter;               // (size)
  View<Accum, 1> master;              // (size), optional: w in accum_t<T>
  View<const Accum, 1> gradient;      // (size)
  View<Accum, 1> m;                   // (size), zero before the first step
  View<Accum, 1> v;                   // (size), zero before the first step
  View<const AdamWStep, 1> step;      // (1)
  View<const double, 1> square_norm;  // (1), optional: of all gradients together
  double max_norm = 1;                // > 0
  double beta1 = 0.9;                 // [0, 1)
  double beta2 = 0.95;                // [0, 1)
  double eps = 1e-8;                  // > 0
  double weight_decay = 0;            // >= 0
};

// Every condition on shapes and constants; touches no element.
template <class T>
Status check_shapes(const AdamWArgs<T>& a) noexcept {
  const Extents<1> size{a.parameter.extent(0)};
  Check check("adamw");
  check.array("parameter", a.parameter)
      .optional_shape("master", a.master, size)
      .shape("gradient", a.gradient, size)
      .shape("m", a.m, size)
      .shape("v", a.v, size)
      .shape("step", a.step, {1})
      .optional_shape("square_norm", a.square_norm, {1})
      .greater("max_norm", a.max_norm, 0.0)
      .at_least("beta1", a.beta1, 0.0)
      .at_least("beta2", a.beta2, 0.0)
      .require(a.beta1 < 1 && a.beta2 < 1, ErrorCode::invalid_argument, "beta1, beta2",
               "must be less than 1")
      .greater("eps", a.eps, 0.0)
      .at_least("weight_decay", a.weight_decay, 0.0);
  return check.status();
}

// What all elements of one step share: c, lr weight_decay, lr / (1 - beta1^k), 1 / sqrt(1 -
// beta2^k), the weights of the new gradient in the moments, and eps. Powers and norm in double. A
// NaN norm makes c NaN.
template <class Accum>
struct AdamWFactors {
  Accum clip, decay, scale, correction, mix1, mix2, eps;
};
template <class T>
SSM_HOST_DEVICE AdamWFactors<accum_t<T>> adamw_factors(const AdamWArgs<T>& a) {
  using Accum = accum_t<T>;
  const AdamWStep step = a.step(0);
  const double count = static_cast<double>(step.number);
  double clip = 1;
  if (a.square_norm.data() != nullptr) {
    const double limit = a.max_norm / (std::sqrt(a.square_norm(0)) + 1e-6);
    if (!(limit >= 1)) clip = limit;
  }
  return {static_cast<Accum>(clip),
          static_cast<Accum>(step.learning_rate * a.weight_decay),
          static_cast<Accum>(step.learning_rate / (1 - std::pow(a.beta1, count))),
          static_cast<Accum>(1 / std::sqrt(1 - std::pow(a.beta2, count))),
          static_cast<Accum>(1 - a.beta1),
          static_cast<Accum>(1 - a.beta2),
          static_cast<Accum>(a.eps)};
}

// Chosen only when the backend's own header is missing.
template <class Backend, class T>
Status adamw(const Backend&, const AdamWArgs<T>&) {
  static_assert(
      sizeof(Backend) == 0,
      "no adamw for this backend: include <ssm/reference/adamw.hpp> or the header of that "
      "name of your backend, or pass a backend object first");
  return Status::ok();
}

SSM_NAMESPACE_END
