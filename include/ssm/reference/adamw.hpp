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

  const AdamWFactors<Accum> f = adamw_factors(a);
  for (index_t i = 0; i < a.parameter.extent(0); ++i) {
    Accum w = a.master.present() ? a.master(i) : widen(a.parameter(i));
    const Accum g = f.clip * a.gradient(i);
    a.m(i) += f.mix1 * (g - a.m(i));
    a.v(i) += f.mix2 * (g * g - a.v(i));
    w -= f.decay * w;
    w -= f.scale * a.m(i) / (std::sqrt(a.v(i)) * f.correction + f.eps);
    if (a.master.present()) a.master(i) = w;
    a.parameter(i) = narrow<T>(w);
  }
  return status;
}

SSM_NAMESPACE_END
