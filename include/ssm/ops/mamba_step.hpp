#pragma once

#include "ssm/core/arena.hpp"
#include "ssm/core/check.hpp"
#include "ssm/core/dtype.hpp"
#include "ssm/ops/selective_scan.hpp"

SSM_NAMESPACE_BEGIN

// One token of every row through a Mamba-1 block, as one operation: what MambaBlock::step and
// LanguageModel::step call on a backend that does this faster than one operation after another.
//
//   u          = x, or rms_norm(residual) norm_weight
//   [x, z]     = W_in u + b_in
//   x          = silu(conv1d(x))                    from and to the state `conv`
//   [dt, B, C] = W_x x                              (each RMS-normalised if dt_b_c_norm)
//   y          = selective_scan(x, W_dt dt + b_dt, A, B, C, D, z)    from and to the state `ssm`
//   out        = W_out y + b_out                    to y, or added to residual
//
// The names are those of MambaParameters. No z without a gate: in_proj_weight has d_inner rows.
// H is how the states are stored: y is of the new state before it is rounded to H.
template <class T, class H = accum_t<T>>
struct MambaStepArgs {
  using Accum = accum_t<T>;

  // Either a block alone …
  View<const T, 2> x;  // (batch, d_model)
  View<T, 2> y;        // (batch, d_model), output
  // … or a block in a model, with the norm before it; what is not meant is absent.
  View<Accum, 2> residual;       // (batch, d_model), input and output
  View<const T, 1> norm_weight;  // (d_model)
  Accum norm_eps = 0;

  View<const T, 2> in_proj_weight;    // (2 d_inner or d_inner, d_model)
  View<const T, 1> in_proj_bias;      // optional
  View<const T, 2> conv1d_weight;     // (d_inner, d_conv)
  View<const T, 1> conv1d_bias;       // (d_inner), optional
  View<const T, 2> x_proj_weight;     // (dt_rank + 2 d_state, d_inner)
  View<const T, 2> dt_proj_weight;    // (d_inner, dt_rank)
  View<const Accum, 1> dt_proj_bias;  // (d_inner), optional
  View<const Accum, 2> A;             // (d_inner, d_state)
  View<const Accum, 1> D;             // (d_inner), optional
  View<const T, 2> out_proj_weight;   // (d_model, d_inner)
  View<const T, 1> out_proj_bias;     // (d_model), optional
  bool dt_b_c_norm = false;
  Accum dt_b_c_eps = 0;
  BRule b_rule = BRule::euler;

  View<H, 3> conv;  // (states, d_conv - 1, d_inner), updated
  View<H, 3> ssm;   // (states, d_inner, d_state), updated
  // (batch), optional: row b goes on from and updates the state slots(b), any of them but none
  // twice; -1 skips the row: no state is touched, and its output is unspecified. Absent: row b has
  // the state b.
  View<const index_t, 1> slots;

  index_t batch() const noexcept { return x.present() ? x.extent(0) : residual.extent(0); }
  bool gate() const noexcept { return in_proj_weight.extent(0) != conv1d_weight.extent(0); }
};

// Whether a backend has the operation for T and states in H. False: blocks call one operation after
// another, which takes states in accum_t<T> only.
template <class Backend, class T, class H = accum_t<T>>
inline constexpr bool fuses_mamba_step = false;
// What such a backend takes; for the rest, too, blocks call one operation after another.
inline bool mamba_step_takes(BRule b_rule, index_t d_state) noexcept {
  return b_rule == BRule::euler && d_state <= 256;
}

// Every shape condition; touches no element.
template <class T, class H>
Status check_shapes(const MambaStepArgs<T, H>& a) noexcept {
  const index_t batch = a.batch();
  const index_t d_model = a.out_proj_weight.extent(0);
  const index_t d_inner = a.conv1d_weight.extent(0);
  const index_t d_state = a.A.extent(1);
  const index_t dt_rank = a.dt_proj_weight.extent(1);
  const index_t states = a.slots.present() ? a.conv.extent(0) : batch;
  Check check("mamba_step");
  if (a.residual.present()) {
    check.shape("residual", a.residual, {batch, d_model})
        .shape("norm_weight", a.norm_weight, {d_model})
        .require(!a.x.present() && !a.y.present(), ErrorCode::invalid_argument, "x and y",
                 "must be absent when residual is present");
  } else {
    check.array("x", a.x).shape("x", a.x, {batch, d_model}).shape("y", a.y, {batch, d_model});
  }
  const index_t in_rows = a.in_proj_weight.extent(0);
  check.shape("in_proj_weight", a.in_proj_weight, {in_rows, d_model})
      .require(in_rows == d_inner || in_rows == 2 * d_inner, ErrorCode::shape_mismatch,
               "in_proj_weight.extent(0)", "must be d_inner or 2 d_inner")
      .optional_shape("in_proj_bias", a.in_proj_bias, {in_rows})
      .array("conv1d_weight", a.conv1d_weight)
      .at_least("conv1d_weight.extent(1) (d_conv)", a.conv1d_weight.extent(1), index_t{1})
      .optional_shape("conv1d_bias", a.conv1d_bias, {d_inner})
      .shape("x_proj_weight", a.x_proj_weight, {dt_rank + 2 * d_state, d_inner})
      .shape("dt_proj_weight", a.dt_proj_weight, {d_inner, dt_rank})
      .optional_shape("dt_proj_bias", a.dt_proj_bias, {d_inner})
      .shape("A", a.A, {d_inner, d_state})
      .optional_shape("D", a.D, {d_inner})
      .shape("out_proj_weight", a.out_proj_weight, {d_model, d_inner})
      .optional_shape("out_proj_bias", a.out_proj_bias, {d_model})
      .shape("conv", a.conv, {states, a.conv1d_weight.extent(1) - 1, d_inner})
      .shape("ssm", a.ssm, {states, d_inner, d_state})
      .optional_shape("slots", a.slots, {batch});
  return check.status();
}

namespace detail {

// Channels of a slice of x_proj's product.
constexpr index_t kMambaStepSlice = 128;

// What mamba_step carves from its workspace: the activations between its parts.
template <class T>
struct MambaStepScratch {
  View<T, 2> normed;  // (batch, d_model)
  View<T, 2> mixed;   // (batch, d_model)
  View<T, 2> xz;      // (batch, in_rows)
  View<T, 2> x;       // (batch, d_inner): after the convolution, then the scan's output
  View<T, 2> dt_BC;   // (batch, dt_rank + 2 d_state)
  View<T, 2> dt;      // (batch, d_inner)
  // (slices of d_inner, batch, dt_rank + 2 d_state): sums of dt_BC over a slice, for 16-bit T
  View<accum_t<T>, 3> dt_BC_parts;

  template <class H>
  static MambaStepScratch carve(const MambaStepArgs<T, H>& a, Arena& arena) noexcept {
    const index_t batch = a.batch();
    const auto rows = [&](const View<const T, 2>& weight) {
      return arena.view<T, 2>({batch, weight.extent(0)});
    };
    MambaStepScratch s;
    s.normed = rows(a.out_proj_weight);
    s.mixed = rows(a.out_proj_weight);
    s.xz = rows(a.in_proj_weight);
    s.x = rows(a.dt_proj_weight);
    s.dt_BC = rows(a.x_proj_weight);
    s.dt = rows(a.dt_proj_weight);
    if constexpr (!std::is_same<T, accum_t<T>>::value) {
      const index_t slices = (a.dt_proj_weight.extent(0) + kMambaStepSlice - 1) / kMambaStepSlice;
      s.dt_BC_parts = arena.view<accum_t<T>, 3>({slices, batch, a.x_proj_weight.extent(0)});
    }
    return s;
  }
};

}  // namespace detail

// Bytes of workspace for mamba_step; reads shapes alone.
template <class T, class H>
std::size_t mamba_step_workspace_bytes(const MambaStepArgs<T, H>& a) noexcept {
  Arena counter;
  detail::MambaStepScratch<T>::carve(a, counter);
  return counter.bytes_needed();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class T, class H>
Status mamba_step(const Backend&, const MambaStepArgs<T, H>&, Arena) {
  static_assert(sizeof(Backend) == 0,
                "no mamba_step for this backend: include <ssm/cuda/mamba_step.hpp>");
  return Status::ok();
}

SSM_NAMESPACE_END
