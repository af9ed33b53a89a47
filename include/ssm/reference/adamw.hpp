#pragma once

#include <cmath>

#include "ssm/ops/adamw.hpp"
#include "ssm/reference/backend.hpp"

SSM_NAMESPACE_BEGIN

// The definition of AdamW's step; see AdamWArgs for the equations. The corrections of the moments
// are powers in double; the rest is computed in accum_t<T>. Allocates nothing. On a bad argument it
// returns a Status and writes nothing.
template <class T>
Status adamw(Reference, const AdamWArgs<T>& a) {
  using Accum = accum_t<T>;
  Status status = check_shapes(a);
  if (status) {
    status = Check("adamw").at_least("step number", a.step(0).number, index_t{1}).status();
  }
  if (!status) return status;

  const double count = static_cast<double>(a.step(0).number);
  const double rate = a.step(0).learning_rate;
  double clip = 1;
  if (a.square_norm.present()) {
    const double limit = a.max_norm / (std::sqrt(a.square_norm(0)) + 1e-6);
    if (!(limit >= 1)) clip = limit;
  }
  const Accum c = static_cast<Accum>(clip);
  const Accum decay = static_cast<Accum>(rate * a.weight_decay);
  const Accum mix1 = static_cast<Accum>(1 - a.beta1);
  const Accum mix2 = static_cast<Accum>(1 - a.beta2);
  const Accum scale = static_cast<Accum>(rate / (1 - std::pow(a.beta1, count)));
  const Accum correction = static_cast<Accum>(1 / std::sqrt(1 - std::pow(a.beta2, count)));
  const Accum eps = static_cast<Accum>(a.eps);
  for (index_t i = 0; i < a.parameter.extent(0); ++i) {
    Accum w = a.master.present() ? a.master(i) : widen(a.parameter(i));
    const Accum g = c * a.gradient(i);
    a.m(i) += mix1 * (g - a.m(i));
    a.v(i) += mix2 * (g * g - a.v(i));
    w -= decay * w;
    w -= scale * a.m(i) / (std::sqrt(a.v(i)) * correction + eps);
    if (a.master.present()) a.master(i) = w;
    a.parameter(i) = narrow<T>(w);
  }
  return status;
}

SSM_NAMESPACE_END
