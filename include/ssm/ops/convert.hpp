#pragma once

#include "ssm/core/check.hpp"
#include "ssm/core/dtype.hpp"

SSM_NAMESPACE_BEGIN

// y = x, elementwise, from one floating-point type to another: exact to a wider type, rounded to
// nearest even to a narrower one. Between states kept in accum_t and in 16 bits.
template <class From, class To>
struct ConvertArgs {
  View<const From, 4> x;
  View<To, 4> y;  // output
};

// Every shape condition; touches no element.
template <class From, class To>
Status check_shapes(const ConvertArgs<From, To>& a) noexcept {
  const Extents<4> shape{a.y.extent(0), a.y.extent(1), a.y.extent(2), a.y.extent(3)};
  return Check("convert").array("y", a.y).shape("x", a.x, shape).status();
}

namespace detail {

// In host memory.
template <class From, class To>
void convert_elements(const ConvertArgs<From, To>& a) noexcept {
  for (index_t i = 0; i < a.y.extent(0); ++i) {
    for (index_t j = 0; j < a.y.extent(1); ++j) {
      for (index_t k = 0; k < a.y.extent(2); ++k) {
        for (index_t l = 0; l < a.y.extent(3); ++l) {
          a.y(i, j, k, l) = static_cast<To>(static_cast<accum_t<From>>(a.x(i, j, k, l)));
        }
      }
    }
  }
}

}  // namespace detail

// Chosen only when the backend's own header is missing.
template <class Backend, class From, class To>
Status convert(const Backend&, const ConvertArgs<From, To>&) {
  static_assert(sizeof(Backend) == 0,
                "no convert for this backend: include <ssm/reference/convert.hpp> or the header of "
                "that name of your backend, or pass a backend object first");
  return Status::ok();
}

SSM_NAMESPACE_END
