#pragma once

#include "ssm/core/arena.hpp"
#include "ssm/ops/causal_conv1d.hpp"
#include "ssm/ops/execution.hpp"
#include "ssm/ops/grad_mode.hpp"

SSM_NAMESPACE_BEGIN

// The gradient of the causal convolution. With u the carried state followed by the tokens (u_k is
// state0[k] for k < W - 1, x_{k-(W-1)} after) and s_t the sum before the activation,
//
//   s_t = bias + sum_j weight[j] u_{t+j},   e_t = dy_t act'(s_t)
//   du_k = sum_j weight[j] e_{k-j}  (over tokens that exist)  + dstate_last[k - length]  (k >=
//   length) dweight[j] = sum_{b,t} e_t u_{t+j}      dbias = sum_{b,t} e_t
//
// dstate0 is du for k < W - 1 and dx the rest. Only the inputs of the forward pass are needed: s_t
// is computed again. The same call gives the same bits.
//
// Padding is neither read nor written. Outputs must not overlap inputs or one another, except that
// dstate0 may be dstate_last when `inputs` is overwrite.
template <class T>
struct CausalConv1dGradArgs {
  using Accum = accum_t<T>;
  CausalConv1dArgs<T> forward;  // as the forward call had it; y and state_last are not looked at

  View<const T, 3> dy;  // (batch, length, channels)
  View<const Accum, 3>
      dstate_last;  // (sequences, width - 1, channels), optional: absent means zero

  View<T, 3> dx;           // (batch, length, channels)
  View<Accum, 3> dstate0;  // (sequences, width - 1, channels)

  View<Accum, 2> dweight;  // (channels, width)
  View<Accum, 1> dbias;    // (channels)

  GradMode inputs = GradMode::overwrite;      // dx and dstate0
  GradMode parameters = GradMode::overwrite;  // dweight and dbias
};

// Every shape condition; touches no element.
template <class T>
Status check_shapes(const CausalConv1dGradArgs<T>& a) noexcept {
  const CausalConv1dArgs<T>& f = a.forward;
  const Extents<3> tokens{f.x.extent(0), f.x.extent(1), f.x.extent(2)};
  const index_t channels = f.x.extent(2);
  const index_t width = f.weight.extent(1);
  const Extents<3> states{f.sequences.count(f.x.extent(0)), width - 1, channels};
  Check check = detail::check_conv_inputs("causal_conv1d_backward", f);
  check.shape("dy", a.dy, tokens).optional_shape("dstate_last", a.dstate_last, states);
  if (a.inputs != GradMode::ignore) {
    check.optional_shape("dx", a.dx, tokens).optional_shape("dstate0", a.dstate0, states);
  }
  if (a.parameters != GradMode::ignore) {
    check.optional_shape("dweight", a.dweight, {channels, width})
        .optional_shape("dbias", a.dbias, {channels});
  }
  return check.status();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class T>
Status causal_conv1d_backward(const Backend&, const CausalConv1dGradArgs<T>&, Arena) {
  static_assert(sizeof(Backend) == 0,
                "no causal_conv1d_backward for this backend: include "
                "<ssm/reference/causal_conv1d_backward.hpp> or the header of that name of your "
                "backend, or pass a backend object first");
  return Status::ok();
}

SSM_NAMESPACE_END
