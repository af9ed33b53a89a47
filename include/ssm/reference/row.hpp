#pragma once

#include <Eigen/Core>

#include "ssm/core/dtype.hpp"
#include "ssm/core/view.hpp"

SSM_NAMESPACE_BEGIN

namespace detail {

// f(0), …, f(size - 1) as a lazy Eigen array expression of scalar S.
template <class S, class F>
auto lazy_array(index_t size, const F& f) {
  return Eigen::Array<S, Eigen::Dynamic, 1>::NullaryExpr(static_cast<Eigen::Index>(size), f);
}

// A one-dimensional View as an Eigen array expression of the type it is computed in. It reads the
// View when it is evaluated, whatever the stride (Eigen::Map would take no negative one).
template <class U>
auto row(const View<U, 1>& v) {
  using S = accum_t<U>;
  return lazy_array<S>(v.extent(0), [v](Eigen::Index i) { return S(widen(v(i))); });
}

}  // namespace detail

SSM_NAMESPACE_END
