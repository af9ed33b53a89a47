#pragma once

#include "ssm/core/check.hpp"

SSM_NAMESPACE_BEGIN

// A = -exp(A_log), elementwise: the state matrix from its stored logarithm, always in accum_t
// (-exp(A_log.float()) in every Mamba implementation). Run once, when a block is prepared.
template <class R>
struct StateMatrixArgs {
  View<const R, 2> A_log;  // (channels, d_state)
  View<R, 2> A;            // (channels, d_state), output
};

// Every shape condition; touches no element.
template <class R>
Status check_shapes(const StateMatrixArgs<R>& a) noexcept {
  Check check("state_matrix");
  check.array("A_log", a.A_log).shape("A", a.A, {a.A_log.extent(0), a.A_log.extent(1)});
  return check.status();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class R>
Status state_matrix(const Backend&, const StateMatrixArgs<R>&) {
  static_assert(sizeof(Backend) == 0,
                "no state_matrix for this backend: include <ssm/reference/state_matrix.hpp>, "
                "<ssm/cpu/state_matrix.hpp> or <ssm/cuda/state_matrix.cuh>, or pass a backend "
                "object first");
  return Status::ok();
}

SSM_NAMESPACE_END
