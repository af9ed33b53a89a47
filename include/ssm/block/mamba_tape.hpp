#pragma once

#include "ssm/block/mamba_parameters.hpp"
#include "ssm/block/mamba_state.hpp"
#include "ssm/ops/grad_mode.hpp"
#include "ssm/ops/sequences.hpp"

SSM_NAMESPACE_BEGIN

// What a block keeps from forward_train to backward: its two projections of the input. Everything
// else - the convolution's output, dt, the states and the scan's output - is computed again, from
// these, the block's input and its initial state. Per token that is in_proj_rows + dt_rank + 2
// d_state values of T.
template <class T>
struct MambaTape {
  View<T, 3> xz;     // (batch, length, in_proj_rows): W_in u
  View<T, 3> dt_BC;  // (batch, length, dt_rank + 2 d_state): W_x x, before any norm

  static MambaTape carve(const MambaConfig& c, index_t batch, index_t length,
                         Arena& arena) noexcept {
    MambaTape tape;
    tape.xz = arena.view<T, 3>({batch, length, in_proj_rows(c)});
    tape.dt_BC = arena.view<T, 3>({batch, length, c.dt_rank + 2 * c.d_state});
    return tape;
  }
  static std::size_t bytes(const MambaConfig& c, index_t batch, index_t length) noexcept {
    Arena counter;
    carve(c, batch, length, counter);
    return counter.bytes_needed();
  }

  // The tokens [begin, end) of one batch row.
  MambaTape part(const Sequences::Range& r) const noexcept {
    const auto cut = [&r](const View<T, 3>& v) {
      return v.slice(0, r.row, 1).slice(1, r.begin, r.end - r.begin);
    };
    return {cut(xz), cut(dt_BC)};
  }
};

template <class T>
Status check_shapes(const MambaConfig& c, const MambaTape<T>& tape, index_t batch,
                    index_t length) noexcept {
  return Check("MambaTape")
      .shape("xz", tape.xz, {batch, length, in_proj_rows(c)})
      .shape("dt_BC", tape.dt_BC, {batch, length, c.dt_rank + 2 * c.d_state})
      .status();
}

// MambaBlock::backward: given dy = dL/dy and dafter = dL/d(final state), the gradients of the
// input, of the initial state and of the weights. Two calls with the same arguments give the same
// bits on the same backend.
template <class T>
struct MambaGradArgs {
  View<const T, 3> x;    // (batch, length, d_model), as forward_train read it
  MambaState<T> before;  // the same
  View<const T, 3> dy;   // (batch, length, d_model)
  MambaState<T> dafter;  // optional: absent means zero

  View<T, 3> dx;          // (batch, length, d_model), optional; may be dy
  MambaState<T> dbefore;  // optional; may be dafter

  MambaGrads<T> grads;                  // views of the weights' shapes; an absent one is not wanted
  GradMode mode = GradMode::overwrite;  // of grads: accumulate adds up chunks and micro-batches
  Sequences sequences = {};             // as forward_train had them; dx of padding is not written
};

// The shapes of those gradients that are present.
template <class R>
Status check_grad_shapes(const MambaConfig& c, const MambaParameters<R>& g) noexcept {
  return Check("MambaGrads")
      .optional_shape("in_proj.weight", g.in_proj_weight, {in_proj_rows(c), c.d_model})
      .optional_shape("in_proj.bias", g.in_proj_bias, {in_proj_rows(c)})
      .optional_shape("conv1d.weight", g.conv1d_weight, {c.d_inner, c.d_conv})
      .optional_shape("conv1d.bias", g.conv1d_bias, {c.d_inner})
      .optional_shape("x_proj.weight", g.x_proj_weight, {c.dt_rank + 2 * c.d_state, c.d_inner})
      .optional_shape("dt_proj.weight", g.dt_proj_weight, {c.d_inner, c.dt_rank})
      .optional_shape("dt_proj.bias", g.dt_proj_bias, {c.d_inner})
      .optional_shape("A_log", g.A_log, {c.d_inner, c.d_state})
      .optional_shape("D", g.D, {c.d_inner})
      .optional_shape("out_proj.weight", g.out_proj_weight, {c.d_model, c.d_inner})
      .optional_shape("out_proj.bias", g.out_proj_bias, {c.d_model})
      .status();
}

SSM_NAMESPACE_END
