#pragma once

#include <Eigen/LU>
#include <cmath>
#include <limits>
#include <unsupported/Eigen/MatrixFunctions>

#include "ssm/core/math.hpp"
#include "ssm/lti/system.hpp"

SSM_NAMESPACE_BEGIN
namespace lti {

// How x' = A x + B u becomes x_k = Abar x_{k-1} + Bbar u_k + Bbar_previous u_{k-1} over a step dt,
// with X = dt A, phi_1(X) = (e^X - 1) / X and phi_2(X) = (e^X - 1 - X) / X^2:
//
//   rule                        Abar                      Bbar               Bbar_previous
//   forward_euler               1 + X                     dt B
//   backward_euler              (1 - X)^-1                (1 - X)^-1 dt B
//   bilinear                    (1 - X/2)^-1 (1 + X/2)    (1 - X/2)^-1 dt B
//   generalized_bilinear(a)     (1 - aX)^-1 (1 + (1-a)X)  (1 - aX)^-1 dt B
//   zero_order_hold             e^X                       dt phi_1(X) B
//   first_order_hold            e^X                       dt phi_2(X) B      dt (phi_1-phi_2)(X) B
//   exponential_euler           e^X                       dt B
//   exponential_trapezoidal(l)  e^X                       l dt B             (1-l) dt e^X B
//
// Forward Euler, backward Euler and bilinear are generalized_bilinear with a = 0, 1 and 1/2
// (Tustin; S4 takes 1/2). Zero- and first-order hold are exact for inputs that are constant, or
// linear, within a step. exponential_euler is what Mamba-1 and Mamba-2 compute, and is neither
// zero-order hold (whose Bbar differs by phi_1) nor forward Euler (whose Abar is its first-order
// expansion). exponential_trapezoidal is Mamba-3's; l = 1 is exponential_euler, l = 1/2 is second
// order.
class Rule {
 public:
  enum class Kind {
    generalized_bilinear,
    zero_order_hold,
    first_order_hold,
    exponential_trapezoidal,
  };

  static Rule forward_euler() noexcept { return generalized_bilinear(0); }
  static Rule backward_euler() noexcept { return generalized_bilinear(1); }
  static Rule bilinear() noexcept { return generalized_bilinear(0.5); }
  // 0 <= alpha <= 1, checked by discretize().
  static Rule generalized_bilinear(double alpha) noexcept {
    return Rule(Kind::generalized_bilinear, alpha);
  }
  static Rule zero_order_hold() noexcept { return Rule(Kind::zero_order_hold, 0); }
  static Rule first_order_hold() noexcept { return Rule(Kind::first_order_hold, 0); }
  static Rule exponential_euler() noexcept { return exponential_trapezoidal(1); }
  // 0 <= lambda <= 1, checked by discretize().
  static Rule exponential_trapezoidal(double lambda) noexcept {
    return Rule(Kind::exponential_trapezoidal, lambda);
  }

  Kind kind() const noexcept { return kind_; }
  // alpha or lambda; 0 for the rules that have neither.
  double parameter() const noexcept { return parameter_; }
  // Whether Bbar_previous is present.
  bool has_input_memory() const noexcept {
    return kind_ == Kind::first_order_hold ||
           (kind_ == Kind::exponential_trapezoidal && parameter_ != 1);
  }

 private:
  Rule(Kind kind, double parameter) noexcept : kind_(kind), parameter_(parameter) {}

  Kind kind_;
  double parameter_;
};

namespace detail {

template <class Real>
void check_rule(Check& check, const Rule& rule, Real dt) {
  check.greater("dt", dt, Real(0)).at_most("dt", dt, std::numeric_limits<Real>::max());
  const char* const name =
      rule.kind() == Rule::Kind::generalized_bilinear ? "rule.alpha" : "rule.lambda";
  check.at_least(name, rule.parameter(), 0.0).at_most(name, rule.parameter(), 1.0);
}

inline Status singular(const char* reason) noexcept {
  return Status::error(ErrorCode::invalid_argument, "discretize", "A", reason);
}

// e^M. Anything not finite gives NaN everywhere: the scaling step of the algorithm would take the
// exponent of a NaN, which is unspecified.
template <class Work>
Matrix<Work> exponential(const Matrix<Work>& M) {
  if (!M.allFinite()) {
    return Matrix<Work>::Constant(M.rows(), M.cols(),
                                  Work(std::numeric_limits<real_t<Work>>::quiet_NaN()));
  }
  // Assigned to a matrix: elements read from the expression M.exp() itself are garbage.
  const Matrix<Work> result = M.exp();
  return result;
}

template <class Work>
struct ExponentialBlocks {
  Matrix<Work> decay;   // e^X
  Matrix<Work> phi1_W;  // phi_1(X) W, if order >= 1
  Matrix<Work> phi2_W;  // phi_2(X) W, if order == 2
};

// From one exponential, singular X included (Van Loan 1978):
//
//   exp [X W 0]   [e^X  phi_1(X) W  phi_2(X) W]
//       [0 0 1] = [0    1           1         ]
//       [0 0 0]   [0    0           1         ]
//
// `order` says how many of the block columns after the first are wanted. W is scaled by a power of
// two to the norm of X: a larger W would drive the scaling and squaring, which X alone should, and
// costs six digits of Bbar at |B| = 1e12 |A|.
template <class Work>
ExponentialBlocks<Work> exponential_blocks(const Matrix<Work>& X, const Matrix<Work>& W,
                                           int order) {
  using Real = real_t<Work>;
  const Eigen::Index n = X.rows();
  const Eigen::Index m = W.cols();
  const Real norm_X = X.cwiseAbs().colwise().sum().maxCoeff();
  const Real norm_W = W.cwiseAbs().colwise().sum().maxCoeff();
  int exponent = 0;
  if (std::isfinite(norm_X) && std::isfinite(norm_W) && norm_W > 0) {
    exponent = std::ilogb(norm_W) - (norm_X > 1 ? std::ilogb(norm_X) : 0);
  }
  Matrix<Work> M = Matrix<Work>::Zero(n + order * m, n + order * m);
  M.topLeftCorner(n, n) = X;
  const auto scaled = [](const Matrix<Work>& block, int by) -> Matrix<Work> {
    return block.unaryExpr([by](const Work& value) -> Work {
      if constexpr (is_complex_v<Work>) {
        return Work(std::scalbn(value.real(), by), std::scalbn(value.imag(), by));
      } else {
        return std::scalbn(value, by);
      }
    });
  };
  if (order >= 1) M.block(0, n, n, m) = scaled(W, -exponent);
  if (order == 2) M.block(n, n + m, m, m).setIdentity();
  const Matrix<Work> E = exponential(M);

  ExponentialBlocks<Work> blocks;
  blocks.decay = E.topLeftCorner(n, n);
  if (order >= 1) blocks.phi1_W = scaled(E.block(0, n, n, m), exponent);
  if (order == 2) blocks.phi2_W = scaled(E.block(0, n + m, n, m), exponent);
  return blocks;
}

// Whether some pivot is indistinguishable from the rounding errors of its own elimination,
// n eps (|L| |U|)_kk, so that the factorized 1 - alpha X may as well be singular. Unlike the
// condition number this is the same for any scaling of the states, so stiff systems pass.
template <class Work>
bool is_singular(const Eigen::PartialPivLU<Matrix<Work>>& lu) {
  using Real = real_t<Work>;
  const Matrix<Work>& LU = lu.matrixLU();
  const Real tolerance = static_cast<Real>(LU.rows()) * std::numeric_limits<Real>::epsilon();
  for (Eigen::Index k = 0; k < LU.rows(); ++k) {
    const Real eliminated =
        LU.row(k).head(k).cwiseAbs().dot(LU.col(k).head(k).cwiseAbs().transpose());
    if (std::abs(LU(k, k)) <= tolerance * (eliminated + 1)) return true;
  }
  return false;
}

// The scalar factors of a diagonal state: decay for Abar, the others times the row of B.
template <class Work>
struct Factors {
  Work decay;
  Work current;
  Work previous;
};

template <class Work>
Factors<Work> diagonal_factors(const Rule& rule, const Work& x, const Work& dt) {
  using Real = real_t<Work>;
  using std::exp;
  const Work parameter(static_cast<Real>(rule.parameter()));
  switch (rule.kind()) {
    case Rule::Kind::generalized_bilinear: {
      const Work denominator = Work(1) - parameter * x;
      return {(Work(1) + (Work(1) - parameter) * x) / denominator, dt / denominator, Work(0)};
    }
    case Rule::Kind::zero_order_hold:
      return {exp(x), dt * phi1(x), Work(0)};
    case Rule::Kind::first_order_hold:  // phi_1 - phi_2 = phi_1', which does not cancel
      return {exp(x), dt * phi2(x), dt * phi1_derivative(x)};
    case Rule::Kind::exponential_trapezoidal:
      break;
  }
  return {exp(x), parameter * dt, (Work(1) - parameter) * dt * exp(x)};
}

}  // namespace detail

// Dense A (N, N) and B (N, M), any A, singular or not:
//
//   DenseSystem<double> system;
//   Status status = discretize(Rule::zero_order_hold(), A, B, 0.1, system);
//
// Writes Abar, Bbar and Bbar_previous and leaves C and D as they are. A and B may be members of the
// output. Computed in at least double. Errors: A not square or empty, B with other rows than A or
// without columns, dt not positive and finite, alpha or lambda outside [0, 1], 1 - alpha dt A
// singular. On error nothing is written. NaN in A or B is no error and gives NaN.
template <class Scalar>
Status discretize(const Rule& rule, MatrixArg<Scalar> A, MatrixArg<Scalar> B,
                  typename detail::Identity<real_t<Scalar>>::type dt, DenseSystem<Scalar>& system) {
  using Work = typename detail::Work<Scalar>::type;
  using Real = real_t<Work>;
  Check check("discretize");
  check.at_least("A.rows()", index_t{A.rows()}, index_t{1})
      .equal("A.cols()", A.cols(), A.rows())
      .equal("B.rows()", B.rows(), A.rows())
      .at_least("B.cols()", index_t{B.cols()}, index_t{1});
  detail::check_rule(check, rule, dt);
  if (!check.passed()) return check.status();

  const Real step = static_cast<Real>(dt);
  const Real parameter = static_cast<Real>(rule.parameter());
  const Matrix<Work> X = step * A.template cast<Work>();
  const Matrix<Work> W = step * B.template cast<Work>();
  Matrix<Work> Abar;
  Matrix<Work> Bbar;
  Matrix<Work> Bbar_previous;
  switch (rule.kind()) {
    case Rule::Kind::generalized_bilinear: {
      const Matrix<Work> one = Matrix<Work>::Identity(X.rows(), X.cols());
      const Eigen::PartialPivLU<Matrix<Work>> lu(one - parameter * X);
      if (detail::is_singular(lu)) {
        return detail::singular("must not make 1 - alpha dt A singular to working precision");
      }
      Abar = lu.solve(one + (1 - parameter) * X);
      Bbar = lu.solve(W);
      break;
    }
    case Rule::Kind::zero_order_hold: {
      const auto blocks = detail::exponential_blocks(X, W, 1);
      Abar = blocks.decay;
      Bbar = blocks.phi1_W;
      break;
    }
    case Rule::Kind::first_order_hold: {
      const auto blocks = detail::exponential_blocks(X, W, 2);
      Abar = blocks.decay;
      Bbar = blocks.phi2_W;
      Bbar_previous = blocks.phi1_W - blocks.phi2_W;
      break;
    }
    case Rule::Kind::exponential_trapezoidal: {
      Abar = detail::exponential(X);
      Bbar = parameter * W;
      if (rule.has_input_memory()) Bbar_previous = (1 - parameter) * (Abar * W);
      break;
    }
  }
  system.Abar = Abar.template cast<Scalar>();
  system.Bbar = Bbar.template cast<Scalar>();
  system.Bbar_previous = Bbar_previous.template cast<Scalar>();
  return Status::ok();
}

// Diagonal A, given as the vector (N) of its diagonal; otherwise as above. The input weights keep
// full relative precision as dt A goes to zero, and at zero.
template <class Scalar>
Status discretize(const Rule& rule, VectorArg<Scalar> A, MatrixArg<Scalar> B,
                  typename detail::Identity<real_t<Scalar>>::type dt,
                  DiagonalSystem<Scalar>& system) {
  using Work = typename detail::Work<Scalar>::type;
  using Real = real_t<Work>;
  Check check("discretize");
  check.at_least("A.size()", index_t{A.size()}, index_t{1})
      .equal("B.rows()", B.rows(), A.size())
      .at_least("B.cols()", index_t{B.cols()}, index_t{1});
  detail::check_rule(check, rule, dt);
  if (!check.passed()) return check.status();

  const Work step(static_cast<Real>(dt));
  const Vector<Work> X = step * A.template cast<Work>();
  if (rule.kind() == Rule::Kind::generalized_bilinear) {
    const Work alpha(static_cast<Real>(rule.parameter()));
    for (Eigen::Index n = 0; n < X.size(); ++n) {
      if (std::abs(Work(1) - alpha * X(n)) <= std::numeric_limits<Real>::epsilon()) {
        return detail::singular("must not make 1 - alpha dt A singular to working precision");
      }
    }
  }
  Vector<Scalar> Abar(X.size());
  Matrix<Scalar> Bbar(B.rows(), B.cols());
  Matrix<Scalar> Bbar_previous;
  if (rule.has_input_memory()) Bbar_previous.resize(B.rows(), B.cols());
  for (Eigen::Index n = 0; n < X.size(); ++n) {
    const detail::Factors<Work> factors = detail::diagonal_factors(rule, X(n), step);
    Abar(n) = static_cast<Scalar>(factors.decay);
    for (Eigen::Index m = 0; m < B.cols(); ++m) {
      const Work b = static_cast<Work>(B(n, m));
      Bbar(n, m) = static_cast<Scalar>(factors.current * b);
      if (rule.has_input_memory()) {
        Bbar_previous(n, m) = static_cast<Scalar>(factors.previous * b);
      }
    }
  }
  system.Abar.diagonal() = Abar;
  system.Bbar.swap(Bbar);
  system.Bbar_previous.swap(Bbar_previous);
  return Status::ok();
}

}  // namespace lti
SSM_NAMESPACE_END
