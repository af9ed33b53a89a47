#pragma once

#include "ssm/lti/system.hpp"

SSM_NAMESPACE_BEGIN
namespace lti {

namespace detail {

template <class Transition>
Status recur(const char* operation, const DiscreteSystem<Transition>& system,
             MatrixArg<typename Transition::Scalar> u, State<typename Transition::Scalar>& state,
             Matrix<typename Transition::Scalar>& y) {
  using Scalar = typename Transition::Scalar;
  Check check(operation);
  detail::check_system(check, system);
  detail::check_state(check, system, state);
  check.equal("u.rows()", u.rows(), system.Bbar.cols());
  if (!check.passed()) return check.status();

  const Eigen::Index length = u.cols();
  if (length == 0) {
    y.resize(system.C.rows(), 0);
    return Status::ok();
  }
  Matrix<Scalar> outputs(system.C.rows(), length);
  Vector<Scalar> next(state.x.size());
  for (Eigen::Index k = 0; k < length; ++k) {
    next.noalias() = system.Abar * state.x;
    next.noalias() += system.Bbar * u.col(k);
    if (system.has_input_memory()) {
      next.noalias() += system.Bbar_previous * state.u_previous;
      state.u_previous = u.col(k);
    }
    state.x.swap(next);
    outputs.col(k).noalias() = system.C * state.x;
    if (system.D.size() != 0) outputs.col(k).noalias() += system.D * u.col(k);
  }
  y.swap(outputs);
  return Status::ok();
}

}  // namespace detail

// The recurrent mode, for k = 0 .. L-1:
//
//   x_k = Abar x_{k-1} + Bbar u_k + Bbar_previous u_{k-1},   y_k = C x_k + D u_k
//
// u is (M, L), one column a time step; y becomes (P, L) and may be u. state holds x_{-1} and u_{-1}
// on entry and x_{L-1} and u_{L-1} on return, so any split of a sequence gives the same result.
// L = 0 is valid and leaves the state as it was. Errors, with nothing written: sizes that do not
// match, N or M of zero.
template <class Transition>
Status run(const DiscreteSystem<Transition>& system, MatrixArg<typename Transition::Scalar> u,
           State<typename Transition::Scalar>& state, Matrix<typename Transition::Scalar>& y) {
  return detail::recur("run", system, u, state, y);
}

// One time step of the same: u (M), y becomes (P).
template <class Transition>
Status step(const DiscreteSystem<Transition>& system, VectorArg<typename Transition::Scalar> u,
            State<typename Transition::Scalar>& state, Vector<typename Transition::Scalar>& y) {
  Matrix<typename Transition::Scalar> outputs;
  const Status status = detail::recur("step", system, u, state, outputs);
  if (status) y = outputs.col(0);
  return status;
}

}  // namespace lti
SSM_NAMESPACE_END
