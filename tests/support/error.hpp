#pragma once

#include <cmath>
#include <complex>
#include <limits>
#include <ostream>

#include "ssm/core/dtype.hpp"

namespace ssm_test {

using LongComplex = std::complex<long double>;

// Any stored scalar as the oracle's type.
template <class T>
LongComplex to_complex(const T& v) {
  if constexpr (ssm::is_complex_v<T>) {
    return {static_cast<long double>(v.real()), static_cast<long double>(v.imag())};
  } else {
    return {static_cast<long double>(ssm::widen(v)), 0};
  }
}
template <class T>
long double to_real(const T& v) {
  return static_cast<long double>(ssm::widen(v));
}

// The larger of two errors; a NaN counts as infinite, so that no later error takes its place.
template <class T>
T larger_error(T worst, T error) {
  if (std::isnan(error)) return std::numeric_limits<T>::infinity();
  return error <= worst ? worst : error;
}

// The largest error of a set of numbers, each relative to a scale of its own: the sum of the
// magnitudes of the terms it was summed from, which is what rounding is relative to. A NaN or an
// infinity that was not wanted makes the error infinite.
class ErrorMeter {
 public:
  // Magnitudes below this count as zero: what the type and a flush of subnormals cannot represent.
  explicit ErrorMeter(long double underflow = 0) : underflow_(underflow) {}

  template <class V>
  void add(const V& found, const V& wanted, long double scale) {
    const long double difference = std::abs(found - wanted);
    ++count_;
    if (difference <= underflow_) return;
    const long double worst = larger_error(worst_, difference / scale);
    if (worst != worst_) at_ = count_;
    worst_ = worst;
  }

  long double worst() const { return worst_; }
  friend std::ostream& operator<<(std::ostream& out, const ErrorMeter& meter) {
    return out << "worst relative error " << meter.worst_ << " (comparison " << meter.at_ << " of "
               << meter.count_ << ")";
  }

 private:
  long double underflow_;
  long double worst_ = 0;
  long count_ = 0;
  long at_ = 0;
};

// |found - wanted| / |wanted| in the Euclidean norm over two equally long ranges; infinite when
// anything is NaN.
template <class Found, class Wanted>
long double norm_relative_error(const Found& found, const Wanted& wanted) {
  long double difference = 0;
  long double norm = 0;
  auto w = wanted.begin();
  for (const auto& f : found) {
    difference += std::norm(to_complex(f) - to_complex(*w));
    norm += std::norm(to_complex(*w));
    ++w;
  }
  const long double error = std::sqrt(difference) / std::sqrt(norm);
  if (difference == 0) return 0;
  return std::isnan(error) ? std::numeric_limits<long double>::infinity() : error;
}

}  // namespace ssm_test
