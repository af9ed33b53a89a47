#include "support.hpp"

namespace lti_test {

WideMatrix product(const WideMatrix& a, const WideMatrix& b) {
  WideMatrix result = WideMatrix::Zero(a.rows(), b.cols());
  for (Eigen::Index j = 0; j < b.cols(); ++j) {
    for (Eigen::Index k = 0; k < a.cols(); ++k) {
      for (Eigen::Index i = 0; i < a.rows(); ++i) result(i, j) += a(i, k) * b(k, j);
    }
  }
  return result;
}

Oracle::Oracle(WideMatrix X) {
  const Eigen::Index n = X.rows();
  int doublings = 0;
  for (long double norm = X.cwiseAbs().sum(); norm > 0.25L; norm /= 2) ++doublings;
  X /= Wide(std::ldexp(1.0L, doublings));
  const WideMatrix one = WideMatrix::Identity(n, n);
  WideMatrix power = one;
  long double factorial = 1;
  exponential = phi1 = phi2 = WideMatrix::Zero(n, n);
  for (int k = 0; k < 24; ++k) {
    exponential += power / Wide(factorial);
    phi1 += power / Wide(factorial * static_cast<long double>(k + 1));
    phi2 += power / Wide(factorial * static_cast<long double>((k + 1) * (k + 2)));
    power = product(power, X);
    factorial *= static_cast<long double>(k + 1);
  }
  for (int d = 0; d < doublings; ++d) {
    phi2 = (product(phi1, phi1) + Wide(2) * phi2) / Wide(4);
    phi1 = product(exponential + one, phi1) / Wide(2);
    exponential = product(exponential, exponential);
  }
}

}  // namespace lti_test
