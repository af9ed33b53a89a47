#pragma once

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "block/block_under_test.hpp"

// How gradients of a block or a model are compared.
namespace ssm_test {

// Norm-relative bound of a gradient. double: what differences can tell of small gradients of a loss
// of order one. float: two passes of a few dozen terms each. The two-byte types round ten stored
// intermediates on the way there and back, and f16 loses digits of small ones to its subnormals.
template <class T>
double gradient_tolerance() {
  if (std::is_same<T, double>::value) return 1e-8;
  if (std::is_same<T, float>::value) return 1e-5;
  return std::is_same<T, ssm::bf16>::value ? 3e-2 : 1e-2;
}

// A row-major copy of a view's elements.
template <class T, int Rank>
void append(const ssm::View<T, Rank>& v, std::vector<double>& out) {
  for (ssm::index_t i = 0; i < v.extent(0); ++i) {
    if constexpr (Rank == 1) {
      out.push_back(static_cast<double>(v(i)));
    } else {
      append(v.select(0, i), out);
    }
  }
}
template <class V>
std::vector<double> values_of(const V& v) {
  std::vector<double> out;
  append(v, out);
  return out;
}

// f'(0) by central differences of order eight in double: rounding leaves about 1e-13 of the scale
// of f, the order less.
template <class F>
double derivative(const F& f) {
  constexpr double kStep = 0.005;
  return (4.0 / 5 * (f(kStep) - f(-kStep)) - 1.0 / 5 * (f(2 * kStep) - f(-2 * kStep)) +
          4.0 / 105 * (f(3 * kStep) - f(-3 * kStep)) - 1.0 / 280 * (f(4 * kStep) - f(-4 * kStep))) /
         kStep;
}

// The same gradient summed in another order, or through other chunks.
template <class T>
double reordered_tolerance() {
  if (std::is_same<T, double>::value) return 1e-13;
  return std::is_same<T, float>::value ? 2e-6 : gradient_tolerance<T>();
}

template <class V>
void fill_nan(const V& v) {
  using E = typename V::value_type;
  for (ssm::index_t i = 0; i < v.size(); ++i) v.data()[i] = std::numeric_limits<E>::quiet_NaN();
}

// Lengths or starts of sequences, where the backend reads them.
inline ssm::Owned<ssm::index_t, 1> index_array(std::initializer_list<ssm::index_t> values) {
  ssm::Owned<ssm::index_t, 1> array({static_cast<ssm::index_t>(values.size())});
  std::copy(values.begin(), values.end(), array.data());
  return array;
}

// Initialisation makes delta small, and with it every gradient that goes through the state: too
// small for differences and for f16. This makes delta of order one.
template <class T>
void enlarge_delta(const ssm::MambaParameters<T>& p) {
  ssm::Random random(31);
  for (ssm::index_t d = 0; d < p.dt_proj_bias.extent(0); ++d) {
    p.dt_proj_bias(d) = static_cast<ssm::accum_t<T>>(random.uniform(-1, 1));
  }
}

}  // namespace ssm_test
