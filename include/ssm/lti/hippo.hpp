#pragma once

#include <cmath>

#include "ssm/lti/discretize.hpp"

SSM_NAMESPACE_BEGIN
namespace lti {

// The HiPPO systems (Gu, Dao, Ermon, Rudra and Re 2020): x' = A x + B u keeps the coefficients of
// the input's past in an orthogonal basis of N polynomials. The sign is in A: all three are stable.
enum class Hippo {
  legs,  // scaled Legendre, the whole past:  A_nk = -sqrt((2n+1)(2k+1)) for n > k, -(n+1) for n =
         // k, 0 above; B_n = sqrt(2n+1). Eigenvalues -1 .. -N. A e_0 = -B.
  legt,  // Legendre on a sliding window:  A_nk = -sqrt((2n+1)(2k+1)) / 2, times (-1)^(n-k) for n <
         // k; B_n = sqrt(2n+1) / 2
  lagt,  // Laguerre:  A = 1/2 - tril(1), B = 1. Every eigenvalue is -1/2, A is defective.
};

// Writes A (states, states) and B (states, 1). Errors, with nothing written: states < 1, or so many
// that A cannot be addressed.
template <class Scalar>
Status hippo(Hippo measure, index_t states, Matrix<Scalar>& A, Matrix<Scalar>& B) {
  Check check("hippo");
  check.at_least("states", states, index_t{1});
  if (check.passed()) detail::check_count<Scalar>(check, "states", states, states, 1);
  if (!check.passed()) return check.status();

  using Real = real_t<Scalar>;
  const Eigen::Index N = static_cast<Eigen::Index>(states);
  A.setZero(N, N);
  B.setOnes(N, 1);
  for (Eigen::Index n = 0; n < N; ++n) {
    if (measure != Hippo::lagt) B(n, 0) = Scalar(std::sqrt(static_cast<Real>(2 * n + 1)));
    for (Eigen::Index k = 0; k < N; ++k) {
      const Real root = std::sqrt(static_cast<Real>(2 * n + 1) * static_cast<Real>(2 * k + 1));
      switch (measure) {
        case Hippo::legs:
          if (n > k) A(n, k) = Scalar(-root);
          if (n == k) A(n, k) = Scalar(-static_cast<Real>(n + 1));
          break;
        case Hippo::legt:
          A(n, k) = Scalar((n < k && (k - n) % 2 != 0 ? root : -root) / 2);
          break;
        case Hippo::lagt:
          if (n > k) A(n, k) = Scalar(-1);
          if (n == k) A(n, k) = Scalar(Real(-0.5));
          break;
      }
    }
  }
  if (measure == Hippo::legt) B /= Scalar(2);
  return Status::ok();
}

// One step, from k to k + 1, of the HiPPO-LegS memory, whose equation is scaled by time,
//
//   t c' = A c + B f,   (A, B) = hippo(Hippo::legs)
//
// so that c holds the Legendre coefficients of all of f so far, whatever its time scale. The rule
// is applied with the step 1/k (rules that evaluate A: t stands still) or ln((k+1)/k) (rules that
// take its exponential: in the time ln t the system does not vary).
//
// c (N, channels) is the memory of each channel, updated in place; f (channels) the new sample.
// For a constant f the fixed point is c = f e_0. Errors, with nothing written: k < 1, A not square,
// sizes that do not match, a rule with an input memory, and those of discretize().
template <class Scalar>
Status hippo_legs_step(const Rule& rule, MatrixArg<Scalar> A, VectorArg<Scalar> B, index_t k,
                       VectorArg<Scalar> f, Matrix<Scalar>& c) {
  Check check("hippo_legs_step");
  check.at_least("k", k, index_t{1})
      .require(!rule.has_input_memory(), ErrorCode::unsupported, "rule",
               "must not have an input memory (first_order_hold and exponential_trapezoidal do)")
      .equal("c.rows()", c.rows(), A.rows())
      .equal("c.cols()", c.cols(), f.size());
  if (!check.passed()) return check.status();

  using Real = real_t<Scalar>;
  const Real inverse = Real(1) / static_cast<Real>(k);
  const bool evaluates_A = rule.kind() == Rule::Kind::generalized_bilinear;
  DenseSystem<Scalar> system;
  const Status status = discretize(rule, A, B, evaluates_A ? inverse : std::log1p(inverse), system);
  if (!status) return status;
  c = system.Abar * c + system.Bbar * f.transpose();
  return Status::ok();
}

}  // namespace lti
SSM_NAMESPACE_END
