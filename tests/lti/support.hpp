#pragma once

#include <Eigen/Core>
#include <cmath>
#include <complex>
#include <limits>
#include <random>

#include "ssm/lti/system.hpp"

namespace lti_test {

using ssm::is_complex_v;
using ssm::real_t;
using ssm::lti::Matrix;
using ssm::lti::Vector;

// max |found - wanted| / max |wanted|; infinity for NaN and for shapes that differ.
template <class F, class W>
double relative_error(const Eigen::MatrixBase<F>& found, const Eigen::MatrixBase<W>& wanted) {
  if (found.rows() != wanted.rows() || found.cols() != wanted.cols()) {
    return std::numeric_limits<double>::infinity();
  }
  double scale = 0;
  double worst = 0;
  for (Eigen::Index i = 0; i < wanted.rows(); ++i) {
    for (Eigen::Index j = 0; j < wanted.cols(); ++j) {
      using Wide = std::complex<long double>;
      const Wide w(wanted(i, j));
      const double error = static_cast<double>(std::abs(Wide(found(i, j)) - w));
      if (!(error <= std::numeric_limits<double>::max())) {
        return std::numeric_limits<double>::infinity();
      }
      scale = std::max(scale, static_cast<double>(std::abs(w)));
      worst = std::max(worst, error);
    }
  }
  return scale > 0 ? worst / scale : worst;
}

// |found - wanted| in units of the last place of Real at |wanted|.
template <class Scalar>
double ulps(const Scalar& found, long double wanted) {
  using Real = real_t<Scalar>;
  const long double unit = std::ldexp(
      static_cast<long double>(std::numeric_limits<Real>::epsilon()), std::ilogb(wanted));
  return static_cast<double>(
      std::abs(std::complex<long double>(found) - std::complex<long double>(wanted)) / unit);
}

class Random {
 public:
  explicit Random(unsigned seed) : generator_(seed) {}

  template <class Scalar>
  Scalar scalar() {
    using Real = real_t<Scalar>;
    if constexpr (is_complex_v<Scalar>) {
      const Real re = static_cast<Real>(uniform_(generator_));
      return Scalar(re, static_cast<Real>(uniform_(generator_)));
    } else {
      return static_cast<Real>(uniform_(generator_));
    }
  }
  template <class Scalar>
  Matrix<Scalar> matrix(Eigen::Index rows, Eigen::Index cols) {
    return Matrix<Scalar>::NullaryExpr(rows, cols, [this] { return scalar<Scalar>(); });
  }

 private:
  std::mt19937 generator_;
  std::uniform_real_distribution<double> uniform_{-1.0, 1.0};
};

// Random A whose eigenvalues lie in Re <= -0.1: -0.1 - S S* plus a skew part.
template <class Scalar>
Matrix<Scalar> stable_matrix(Random& random, Eigen::Index n) {
  const Matrix<Scalar> S = random.matrix<Scalar>(n, n);
  const Matrix<Scalar> K = random.matrix<Scalar>(n, n);
  Matrix<Scalar> A = -S * S.adjoint() + K - K.adjoint();
  A.diagonal().array() -= Scalar(real_t<Scalar>(0.1));
  return A;
}

template <class Scalar>
Vector<Scalar> stable_diagonal(Random& random, Eigen::Index n) {
  Vector<Scalar> a(n);
  for (Eigen::Index i = 0; i < n; ++i) {
    const Scalar value = random.scalar<Scalar>();
    if constexpr (is_complex_v<Scalar>) {
      a(i) = Scalar(-std::abs(value.real()), 3 * value.imag());
    } else {
      a(i) = -std::abs(value);
    }
  }
  return a;
}

// The exponential and the first two phi functions of a matrix, from nothing but Taylor series at a
// small argument and the doubling formulas
//   e^2X = (e^X)^2,  phi_1(2X) = (e^X + 1) phi_1(X) / 2,  phi_2(2X) = (phi_1(X)^2 + 2 phi_2(X)) / 4
// in long double: shares neither code nor method with the library.
using Wide = std::complex<long double>;
using WideMatrix = Matrix<Wide>;

struct Oracle {
  WideMatrix exponential, phi1, phi2;
  explicit Oracle(WideMatrix X);
};

template <class Derived>
WideMatrix wide(const Eigen::MatrixBase<Derived>& m) {
  return m.unaryExpr([](const typename Derived::Scalar& value) { return Wide(value); });
}

// a b, out of line.
WideMatrix product(const WideMatrix& a, const WideMatrix& b);

}  // namespace lti_test
