#pragma once

#include <complex>

#include "ssm/core/dtype.hpp"
#include "ssm/core/view.hpp"
#include "ssm/ops/grad_mode.hpp"

SSM_NAMESPACE_BEGIN

namespace detail {

// The conjugate of a complex number, a real number itself.
template <class S>
S conjugate(const S& v) {
  if constexpr (is_complex_v<S>) {
    return std::conj(v);
  } else {
    return v;
  }
}

// Its real part, which is the gradient of a real quantity behind a complex one.
template <class S>
real_t<S> real_part(const S& v) {
  if constexpr (is_complex_v<S>) {
    return v.real();
  } else {
    return v;
  }
}

// Stores a gradient that is computed in one piece. `mode` is not ignore.
template <class T>
void store_gradient(T& gradient, const accum_t<T>& value, GradMode mode) {
  gradient = narrow<T>(mode == GradMode::accumulate ? widen(gradient) + value : value);
}

// Prepares a gradient that is summed up in place: zero to overwrite, as it is to accumulate. An
// unwanted gradient becomes absent.
template <class T>
void set_zero(const View<T, 1>& v) {
  for (index_t i = 0; i < v.extent(0); ++i) v(i) = T(0);
}
template <class T, int Rank>
void set_zero(const View<T, Rank>& v) {
  for (index_t i = 0; i < v.extent(0); ++i) set_zero(v.select(0, i));
}
template <class T, int Rank>
View<T, Rank> open_sum(const View<T, Rank>& gradient, GradMode mode) {
  if (!wanted(gradient, mode)) return {};
  if (mode == GradMode::overwrite) set_zero(gradient);
  return gradient;
}

}  // namespace detail

SSM_NAMESPACE_END
