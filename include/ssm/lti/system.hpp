#pragma once

#include <Eigen/Core>
#include <limits>

#include "ssm/core/check.hpp"
#include "ssm/core/dtype.hpp"

SSM_NAMESPACE_BEGIN

// Linear time-invariant state-space systems
//
//   x' = A x + B u,   y = C x + D u
//
// with N states, M inputs and P outputs, over float, double, long double or std::complex of them.
namespace lti {

template <class Scalar>
using Matrix = Eigen::Matrix<Scalar, Eigen::Dynamic, Eigen::Dynamic>;
template <class Scalar>
using Vector = Eigen::Matrix<Scalar, Eigen::Dynamic, 1>;
template <class Scalar>
using Diagonal = Eigen::DiagonalMatrix<Scalar, Eigen::Dynamic>;

namespace detail {

template <class T>
struct Identity {
  using type = T;
};

// The type that set-up arithmetic is done in: at least double, so that a float result is rounded
// once, at the end.
template <class Scalar>
struct Work {
  using type = Scalar;
};
template <>
struct Work<float> {
  using type = double;
};
template <>
struct Work<std::complex<float>> {
  using type = std::complex<double>;
};

}  // namespace detail

// Read-only arguments: any Eigen expression of this scalar. The scalar itself is deduced from the
// other arguments.
template <class Scalar>
using MatrixArg = const Eigen::Ref<const Matrix<typename detail::Identity<Scalar>::type>>&;
template <class Scalar>
using VectorArg = const Eigen::Ref<const Vector<typename detail::Identity<Scalar>::type>>&;

// A discrete system with the input held to the right end of each step:
//
//   x_k = Abar x_{k-1} + Bbar u_k + Bbar_previous u_{k-1},   y_k = C x_k + D u_k
//
// Transition is Matrix<Scalar> or Diagonal<Scalar>. Bbar_previous is there for the rules that look
// at two inputs (first-order hold, exponential-trapezoidal) and empty, that is absent, for the
// others; an empty D is absent too. Discretization does not concern C and D: discretize() leaves
// them alone and the caller sets them.
//
// A diagonal system with real outputs may keep one state of each conjugate pair; its real output is
// then 2 Re y.
template <class TransitionType>
struct DiscreteSystem {
  using Transition = TransitionType;
  using Scalar = typename Transition::Scalar;

  Transition Abar;               // (N, N)
  Matrix<Scalar> Bbar;           // (N, M)
  Matrix<Scalar> Bbar_previous;  // (N, M) or empty
  Matrix<Scalar> C;              // (P, N)
  Matrix<Scalar> D;              // (P, M) or empty

  bool has_input_memory() const noexcept { return Bbar_previous.size() != 0; }
};

template <class Scalar>
using DenseSystem = DiscreteSystem<Matrix<Scalar>>;
template <class Scalar>
using DiagonalSystem = DiscreteSystem<Diagonal<Scalar>>;

// What one step hands to the next. u_previous belongs to systems with an input memory; for the
// others it is neither read nor written and may stay empty.
template <class Scalar>
struct State {
  Vector<Scalar> x;           // (N)
  Vector<Scalar> u_previous;  // (M)
};

template <class Transition>
State<typename Transition::Scalar> zero_state(const DiscreteSystem<Transition>& system) {
  using Scalar = typename Transition::Scalar;
  return {Vector<Scalar>::Zero(system.Abar.rows()), Vector<Scalar>::Zero(system.Bbar.cols())};
}

namespace detail {

// Conditions that every use of a discrete system shares.
template <class Transition>
void check_system(Check& check, const DiscreteSystem<Transition>& system) {
  const index_t states = system.Abar.rows();
  const index_t inputs = system.Bbar.cols();
  check.at_least("Abar.rows()", states, index_t{1})
      .equal("Abar.cols()", system.Abar.cols(), states)
      .equal("Bbar.rows()", system.Bbar.rows(), states)
      .at_least("Bbar.cols()", inputs, index_t{1})
      .equal("C.cols()", system.C.cols(), states);
  if (system.has_input_memory()) {
    check.equal("Bbar_previous.rows()", system.Bbar_previous.rows(), states)
        .equal("Bbar_previous.cols()", system.Bbar_previous.cols(), inputs);
  }
  if (system.D.size() != 0) {
    check.equal("D.rows()", system.D.rows(), system.C.rows())
        .equal("D.cols()", system.D.cols(), inputs);
  }
}

template <class Transition>
void check_state(Check& check, const DiscreteSystem<Transition>& system,
                 const State<typename Transition::Scalar>& state) {
  check.equal("state.x.size()", state.x.size(), system.Abar.rows());
  if (system.has_input_memory()) {
    check.equal("state.u_previous.size()", state.u_previous.size(), system.Bbar.cols());
  }
}

// 0 <= count, and so small that count x rows x cols scalars can be addressed.
template <class Scalar>
void check_count(Check& check, const char* argument, index_t count, index_t rows, index_t cols) {
  check.at_least(argument, count, index_t{0});
  if (!check.passed()) return;
  const index_t bytes = static_cast<index_t>(sizeof(Scalar));
  check.at_most(argument, count, std::numeric_limits<index_t>::max() / bytes / rows / cols);
}

}  // namespace detail
}  // namespace lti
SSM_NAMESPACE_END
