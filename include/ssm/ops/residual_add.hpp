#pragma once

#include "ssm/core/check.hpp"
#include "ssm/core/dtype.hpp"

SSM_NAMESPACE_BEGIN

// y = residual + x in accum_t<T>: one step of the residual stream that leaves the stream before it
// in place, as training needs. The sum is rms_norm's, bit for bit. y may be residual exactly.
template <class T>
struct ResidualAddArgs {
  using Accum = accum_t<T>;
  View<const Accum, 3> residual;  // (batch, length, features)
  View<const T, 3> x;             // (batch, length, features)
  View<Accum, 3> y;               // (batch, length, features), output
};

// Every shape condition; touches no element.
template <class T>
Status check_shapes(const ResidualAddArgs<T>& a) noexcept {
  const Extents<3> shape{a.y.extent(0), a.y.extent(1), a.y.extent(2)};
  return Check("residual_add")
      .array("y", a.y)
      .shape("residual", a.residual, shape)
      .shape("x", a.x, shape)
      .status();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class T>
Status residual_add(const Backend&, const ResidualAddArgs<T>&) {
  static_assert(sizeof(Backend) == 0,
                "no residual_add for this backend: include <ssm/reference/residual_add.hpp> or the "
                "header of that name of your backend, or pass a backend object first");
  return Status::ok();
}

SSM_NAMESPACE_END
