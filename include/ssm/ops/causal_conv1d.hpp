#pragma once

#include "ssm/core/check.hpp"
#include "ssm/core/dtype.hpp"
#include "ssm/ops/sequences.hpp"

SSM_NAMESPACE_BEGIN

// Causal depthwise convolution of width W, per batch row and channel d:
//
//   y_t = act( bias + sum_{j=0}^{W-1} weight[j] x_{t - (W-1) + j} ),   act = silu or the identity
//
// (torch.nn.Conv1d with groups = channels and left padding W - 1). Tokens before the first come
// from state0, or are zero. The carried state is the last W - 1 inputs, oldest first; a sequence
// shorter than that keeps the younger part of the state it was given.
//
// Outputs must not overlap inputs, except that state_last may be state0.
template <class T>
struct CausalConv1dArgs {
  using Accum = accum_t<T>;
  View<const T, 3> x;       // (batch, length, channels)
  View<const T, 2> weight;  // (channels, width), width >= 1; the last tap meets the current token
  View<const T, 1> bias;    // (channels), optional
  View<const Accum, 3> state0;  // (sequences, width - 1, channels), optional: absent means zero
  View<Accum, 3> state_last;    // (sequences, width - 1, channels), optional output
  View<T, 3> y;                 // (batch, length, channels), output
  Sequences sequences = {};
  bool silu = true;
};

namespace detail {

// The shapes of everything that the convolution reads.
template <class T>
Check check_conv_inputs(const char* op, const CausalConv1dArgs<T>& a) noexcept {
  const index_t batch = a.x.extent(0);
  const index_t channels = a.x.extent(2);
  const index_t width = a.weight.extent(1);
  Check check(op);
  check.array("x", a.x).array("weight", a.weight).shape("weight", a.weight, {channels, width});
  check.at_least("weight.extent(1) (width)", width, index_t{1});
  check.optional_shape("bias", a.bias, {channels}).also(check_shapes(a.sequences, op, batch));
  check.optional_shape("state0", a.state0, {a.sequences.count(batch), width - 1, channels});
  return check;
}

}  // namespace detail

// Every shape condition; touches no element.
template <class T>
Status check_shapes(const CausalConv1dArgs<T>& a) noexcept {
  const index_t batch = a.x.extent(0);
  const index_t channels = a.x.extent(2);
  Check check = detail::check_conv_inputs("causal_conv1d", a);
  check
      .optional_shape("state_last", a.state_last,
                      {a.sequences.count(batch), a.weight.extent(1) - 1, channels})
      .shape("y", a.y, {batch, a.x.extent(1), channels});
  return check.status();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class T>
Status causal_conv1d(const Backend&, const CausalConv1dArgs<T>&) {
  static_assert(sizeof(Backend) == 0,
                "no causal_conv1d for this backend: include <ssm/reference/causal_conv1d.hpp>, "
                "<ssm/cpu/causal_conv1d.hpp> or <ssm/cuda/causal_conv1d.cuh>, or pass a backend "
                "object first");
  return Status::ok();
}

SSM_NAMESPACE_END
