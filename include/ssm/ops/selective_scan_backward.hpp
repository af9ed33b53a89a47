#pragma once

#include "ssm/core/arena.hpp"
#include "ssm/ops/execution.hpp"
#include "ssm/ops/grad_mode.hpp"
#include "ssm/ops/selective_scan.hpp"

SSM_NAMESPACE_BEGIN

// The gradient of the selective scan with respect to everything it reads, given dy = dL/dy and
// dh_last = dL/dh_last. In the symbols of SelectiveScanArgs, s_t the sum over n with D x_t added,
// t + 1 the token visited after t:
//
//   dz_t      = dy_t s_t silu'(z_t),   e_t = dy_t silu(z_t)           (e_t = dy_t without a gate)
//   g_t       = e_t C_t + a_{t+1} g_{t+1},  a_t = exp(delta_t A),  dh_last in place of the last
//                                                                  a_{t+1} g_{t+1}
//   dC_t      = sum_d e_t h_t              dB_t = sum_d g_t w_t x_t   (over the group's channels)
//   dx_t      = D e_t + sum_n g_t w_t B_t                             dh0 = a_0 g_0
//   ddelta_t  = sum_n g_t (A a_t h_{t-1} + w'_t B_t x_t)              dD  = sum_{b,t} e_t x_t
//   dA        = sum_{b,t} g_t (delta_t a_t h_{t-1} + v_t B_t x_t)     dA_log = dA A
//   ddt_t     = ddelta_t softplus'(dt_t + dt_bias)                    ddt_bias = sum_{b,t} ddt_t
//
//   euler: w' = 1, v = 0;   zoh: w'_t = a_t, v_t = delta_t^2 phi_1'(delta_t A)
//
// This is the exact adjoint of the recurrence. a_t h_{t-1} is formed as it stands, never as
// h_t - w_t B_t x_t, which cancels. A complex gradient is dL/dRe + i dL/dIm, PyTorch's convention:
// conjugate every factor of g or e above, with 2 e_t for e_t in dC and g.
//
// Nothing of the forward pass needs keeping but its inputs. Gradients of activations are stored as
// T; those that are sums (of B and C over channels, of parameters over tokens) in S or accum_t<T>.
// Every sum is taken in an order fixed by the shape: the same call gives the same bits.
//
// Padding is neither read nor written. Outputs must not overlap inputs or one another, except that
// dh0 may be dh_last when `inputs` is overwrite.
template <class T, class S = accum_t<T>>
struct SelectiveScanGradArgs {
  using Accum = accum_t<T>;

  // As the forward call had them, but for two: y, if present, is computed once more (gate
  // included), for a layer that did not keep it; h_last is not looked at.
  SelectiveScanArgs<T, S> forward;

  View<const T, 3> dy;       // (batch, length, channels)
  View<const S, 3> dh_last;  // (sequences, channels, d_state), optional: absent means zero

  View<T, 3> dx;   // (batch, length, channels)
  View<T, 3> ddt;  // (batch, length, channels)
  View<T, 3> dz;   // (batch, length, channels); not looked at when there is no gate
  // (batch, length, groups, d_state). Strides over batch and length that are both zero, as
  // constant_over_sequence makes them, give the sum over both: the gradient of a parameter.
  View<S, 4> dB, dC;
  View<S, 3> dh0;  // (sequences, channels, d_state)

  View<S, 2> dA;            // (channels, d_state)
  View<S, 2> dA_log;        // (channels, d_state): of A_log where A = -exp(A_log)
  View<Accum, 1> dD;        // (channels)
  View<Accum, 1> ddt_bias;  // (channels)

  GradMode inputs = GradMode::overwrite;      // dx, ddt, dz, dh0, dB and dC
  GradMode parameters = GradMode::overwrite;  // the rest, and dB or dC that are sums over tokens
};

// Whether this view of B, C or their gradient has one (channels, d_state) matrix for all tokens.
template <class T>
constexpr bool is_constant_over_sequence(const View<T, 4>& m) noexcept {
  return m.stride(0) == 0 && m.stride(1) == 0;
}

// The mode that dB or dC follows.
template <class T, class S>
GradMode coefficient_mode(const SelectiveScanGradArgs<T, S>& a, const View<S, 4>& gradient) {
  return is_constant_over_sequence(gradient) ? a.parameters : a.inputs;
}

// Every shape condition; touches no element.
template <class T, class S>
Status check_shapes(const SelectiveScanGradArgs<T, S>& a) noexcept {
  const char* const op = "selective_scan_backward";
  const SelectiveScanArgs<T, S>& f = a.forward;
  const Extents<3> tokens{f.x.extent(0), f.x.extent(1), f.x.extent(2)};
  const index_t channels = f.x.extent(2);
  const index_t d_state = f.A.extent(1);
  const Extents<3> states{f.sequences.count(f.x.extent(0)), channels, d_state};
  Check check = detail::check_scan_inputs(op, f);
  check.optional_shape("y", f.y, tokens)
      .shape("dy", a.dy, tokens)
      .optional_shape("dh_last", a.dh_last, states);
  if (a.inputs != GradMode::ignore) {
    check.optional_shape("dx", a.dx, tokens).optional_shape("ddt", a.ddt, tokens);
    if (f.z.present()) check.optional_shape("dz", a.dz, tokens);
    check.optional_shape("dh0", a.dh0, states);
  }
  const auto coefficient = [&](const char* name, const View<S, 4>& gradient, index_t groups) {
    if (!wanted(gradient, coefficient_mode(a, gradient))) return;
    check.shape(name, gradient, {tokens[0], tokens[1], groups, d_state});
    const bool one_zero = (gradient.stride(0) == 0) != (gradient.stride(1) == 0);
    check.require(!one_zero || tokens[0] <= 1 || tokens[1] <= 1, ErrorCode::invalid_argument, name,
                  "must have zero strides over both batch and length, or over neither");
  };
  coefficient("dB", a.dB, f.B.extent(2));
  coefficient("dC", a.dC, f.C.extent(2));
  if (a.parameters != GradMode::ignore) {
    check.optional_shape("dA", a.dA, {channels, d_state})
        .optional_shape("dA_log", a.dA_log, {channels, d_state})
        .optional_shape("dD", a.dD, {channels})
        .optional_shape("ddt_bias", a.ddt_bias, {channels});
  }
  return check.status();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class T, class S>
Status selective_scan_backward(const Backend&, const SelectiveScanGradArgs<T, S>&, Arena) {
  static_assert(sizeof(Backend) == 0,
                "no selective_scan_backward for this backend: include "
                "<ssm/reference/selective_scan_backward.hpp> or the header of that name of your "
                "backend, or pass a backend object first");
  return Status::ok();
}

SSM_NAMESPACE_END
