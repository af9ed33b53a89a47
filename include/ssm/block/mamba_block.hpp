#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include "ssm/block/mamba_config.hpp"
#include "ssm/block/mamba_parameters.hpp"
#include "ssm/block/mamba_state.hpp"
#include "ssm/block/mamba_tape.hpp"
#include "ssm/fwd.hpp"
#include "ssm/ops/causal_conv1d.hpp"
#include "ssm/ops/execution.hpp"
#include "ssm/ops/linear.hpp"
#include "ssm/ops/mamba_step.hpp"
#include "ssm/ops/rms_norm.hpp"
#include "ssm/ops/selective_scan.hpp"
#include "ssm/ops/state_matrix.hpp"

SSM_NAMESPACE_BEGIN

namespace detail {

// Calls step(row, slot) for every row of a batch that has a slot in [0, states); -1 has none. Only
// where the host can read the slots.
template <class Backend, class Step>
Status step_by_slots(const char* operation, const View<const index_t, 1>& slots, index_t batch,
                     index_t states, Step&& step) {
  Check check(operation);
  check.shape("slots", slots, {batch})
      .require(reads_on_host<Backend>, ErrorCode::unsupported, "slots",
               "must be absent: this backend has no fused step for this block");
  if constexpr (reads_on_host<Backend>) {
    for (index_t row = 0; row < batch && check.passed(); ++row) {
      check.at_least("slots value", slots(row), index_t{-1})
          .at_most("slots value", slots(row), states - 1);
    }
    for (index_t row = 0; row < batch && check.passed(); ++row) {
      if (slots(row) >= 0) check.also(step(row, slots(row)));
    }
  }
  return check.status();
}

// Why a step on a state that is not in accum_t was not fused.
inline Status step_not_fused(const char* operation, bool prepared, bool has_state) noexcept {
  return Check(operation)
      .require(prepared, ErrorCode::invalid_argument, "block", "is not prepared")
      .require(has_state, ErrorCode::invalid_argument, "state", "must not be absent")
      .require(!prepared || !has_state, ErrorCode::unsupported, "b_rule and d_state",
               "must be euler and at most 256 for a state that is not in accum_t")
      .status();
}

}  // namespace detail

// The Mamba-1 block (Gu and Dao 2023, figure 3), for activations and weights stored as T:
//
//   [x, z]     = W_in u                              (bias optional)
//   x          = silu(conv1d(x))                     causal, depthwise
//   [dt, B, C] = W_x x                               (each RMS-normalised in Falcon-Mamba)
//   dt         = W_dt dt
//   y          = selective_scan(x, dt + b_dt, A, B, C, D, z)    (without config.gate: no z)
//   out        = W_out y                             (bias optional)
//
// A block holds views, never memory: the weights and the prepared constants (A = -exp(A_log), and
// weights in the backend's own layout) stay the caller's. It is cheap to copy, and const calls on
// one block from several threads are safe when state and workspace differ.
//
// Prefill, chunked prefill and decoding are the same function: state goes in and comes out, and any
// split of a sequence gives the result of the whole.
template <class T, class Backend>
class MambaBlock {
 public:
  using State = MambaState<T>;

  static Status validate(const MambaConfig& config, const MambaWeights<T>& weights) noexcept {
    const Status status = ssm::validate(config);
    return status ? check_shapes<T>(config, weights) : status;
  }

  // Bytes that prepare() takes from its arena.
  static std::size_t prepared_bytes(const Backend& backend, const MambaConfig& config,
                                    WeightFormat format = WeightFormat::native) noexcept {
    Arena counter;
    MambaBlock block;
    block.config_ = config;
    block.weights_ = shapes_only(config);
    block.carve_prepared(backend, format, counter);
    return counter.bytes_needed();
  }

  // Checks the weights and computes what every later call reuses, into `arena`, which must outlive
  // the block, as must `weights`. `format` is the storage of the four projections where the backend
  // packs them; a backend that does not pack ignores it. On error the block is unchanged.
  Status prepare(const Backend& backend, const MambaConfig& config, const MambaWeights<T>& weights,
                 Arena arena, WeightFormat format = WeightFormat::native) noexcept {
    Status status = validate(config, weights);
    if (!status) return status;
    MambaBlock prepared;
    prepared.config_ = config;
    prepared.weights_ = weights;
    prepared.carve_prepared(backend, format, arena);
    status = arena.status("MambaBlock::prepare");
    if (!status) return status;
    status = state_matrix(backend, StateMatrixArgs<accum_t<T>>{weights.A_log, prepared.A_});
    if (status) *this = prepared;
    return status;
  }

  const MambaConfig& config() const noexcept { return config_; }
  const MambaWeights<T>& weights() const noexcept { return weights_; }

  // Bytes of workspace for forward on `batch` rows of `length` tokens, and for anything smaller;
  // step needs workspace_bytes(backend, batch, 1).
  static std::size_t workspace_bytes(const Backend& backend, const MambaConfig& config,
                                     index_t batch, index_t length) noexcept {
    Arena counter;
    Workspace::carve(config, batch, length, time_chunk(backend, length), counter);
    if constexpr (fuses_mamba_step<Backend, T>) {
      MambaBlock block;
      block.config_ = config;
      block.weights_ = shapes_only(config);
      MambaStepArgs<T> args = block.fused_step(State{}, {});
      args.x = View<const T, 2>(nullptr, {batch, config.d_model});
      return std::max(counter.bytes_needed(), mamba_step_workspace_bytes(args));
    }
    return counter.bytes_needed();
  }
  std::size_t workspace_bytes(const Backend& backend, index_t batch,
                              index_t length) const noexcept {
    return workspace_bytes(backend, config_, batch, length);
  }

  // x, y (batch, length, d_model), any strides; y may be x. The state (one row per sequence) is
  // read from `before` (absent: zeros) and written to `after` (absent: dropped), which may be the
  // same memory. Nothing is written on error. Padding (sequences.lengths) is neither read nor
  // written where the host can see the lengths; on a device it does not enter the state and its
  // outputs are unspecified.
  Status forward(const Backend& backend, const View<const T, 3>& x, const View<T, 3>& y,
                 const State& before, const State& after, Arena workspace,
                 const Sequences& sequences = {}) const noexcept {
    const Status status = check_forward(backend, x, y, before, after, workspace, sequences);
    if (!status) return status;
    if constexpr (reads_on_host<Backend>) {
      const bool whole = sequences.packed() && x.extent(1) <= time_chunk(backend, x.extent(1));
      if (sequences.present() && !whole) {
        return forward_one_by_one(backend, x, y, before, after, workspace, sequences);
      }
    }
    return forward_together(backend, x, y, before, after, workspace, sequences);
  }

  // The same with the state updated in place.
  Status forward(const Backend& backend, const View<const T, 3>& x, const View<T, 3>& y,
                 const State& state, Arena workspace,
                 const Sequences& sequences = {}) const noexcept {
    return forward(backend, x, y, state, state, workspace, sequences);
  }

  // One token per row: x, y (batch, d_model). The same as forward with length 1.
  //
  // slots (batch), optional, are for states of more sequences than take a step now, as a server
  // with continuous batching keeps them: row b goes on from and updates row slots(b) of `state`,
  // and -1 skips the row, whose y is then unspecified. No state may be named twice, which is not
  // checked; nor is, on a device, the range of the slots.
  //
  // A state stored as another H than accum_t<T> needs a backend that fuses the step for it, and
  // where that does not take the block the call is `unsupported`.
  template <class H = accum_t<T>>
  Status step(const Backend& backend, const View<const T, 2>& x, const View<T, 2>& y,
              const MambaState<T, H>& state, Arena workspace,
              const View<const index_t, 1>& slots = {}) const noexcept {
    if constexpr (fuses_mamba_step<Backend, T, H>) {
      if (A_.present() && state.present() && fuses_step()) {
        MambaStepArgs<T, H> args = fused_step(state, slots);
        args.x = x;
        args.y = y;
        return mamba_step(backend, args, workspace);
      }
    }
    if constexpr (std::is_same<H, accum_t<T>>::value) {
      return step_by_forward(backend, x, y, state, workspace, slots);
    } else {
      static_assert(fuses_mamba_step<Backend, T, H>,
                    "this backend steps on states in accum_t<T> only; see MambaState");
      return detail::step_not_fused("MambaBlock::step", A_.present(), state.present());
    }
  }

  // Whether the backend's mamba_step, where it has one, takes this block …
  bool fuses_step() const noexcept { return mamba_step_takes(config_.b_rule, config_.d_state); }
  // … and its arguments but for input and output.
  template <class H>
  MambaStepArgs<T, H> fused_step(const MambaState<T, H>& state,
                                 const View<const index_t, 1>& slots) const noexcept {
    MambaStepArgs<T, H> args;
    args.in_proj_weight = weights_.in_proj_weight;
    args.in_proj_bias = weights_.in_proj_bias;
    args.conv1d_weight = weights_.conv1d_weight;
    args.conv1d_bias = weights_.conv1d_bias;
    args.x_proj_weight = weights_.x_proj_weight;
    args.dt_proj_weight = weights_.dt_proj_weight;
    args.dt_proj_bias = weights_.dt_proj_bias;
    args.A = A_;
    args.D = weights_.D;
    args.out_proj_weight = weights_.out_proj_weight;
    args.out_proj_bias = weights_.out_proj_bias;
    args.dt_b_c_norm = config_.dt_b_c_norm;
    args.dt_b_c_eps = static_cast<accum_t<T>>(config_.dt_b_c_eps);
    args.b_rule = config_.b_rule;
    args.conv = state.conv;
    args.ssm = state.ssm;
    args.slots = slots;
    return args;
  }

  // Training: forward that keeps, on `tape`, what backward reads. The arithmetic is forward's. x, y
  // (batch, length, d_model) must not overlap; `before` and `after` likewise, for backward reads x
  // and `before` once more. Carrying `after` of one call into the next, and the gradient of
  // `before` back, is truncated backpropagation through time.
  //
  // sequences as in forward, but that padding (sequences.lengths) is `unsupported` on a backend
  // whose memory the host cannot read.
  Status forward_train(const Backend& backend, const View<const T, 3>& x, const View<T, 3>& y,
                       const State& before, const State& after, const MambaTape<T>& tape,
                       Arena workspace, const Sequences& sequences = {}) const noexcept;

  // The gradients of that call; see MambaGradArgs. The tape is left as it is.
  Status backward(const Backend& backend, const MambaGradArgs<T>& args, const MambaTape<T>& tape,
                  Arena workspace) const noexcept;

  // Bytes of the tape, which stay in use from forward_train to backward …
  std::size_t tape_bytes(index_t batch, index_t length) const noexcept {
    return MambaTape<T>::bytes(config_, batch, length);
  }
  // … and of the workspace for either call, which every layer of a model may share. `packed` is the
  // number of packed sequences, or 0 where each batch row is one.
  static std::size_t training_workspace_bytes(const Backend& backend, const MambaConfig& config,
                                              index_t batch, index_t length,
                                              index_t packed = 0) noexcept;
  std::size_t training_workspace_bytes(const Backend& backend, index_t batch, index_t length,
                                       index_t packed = 0) const noexcept {
    return training_workspace_bytes(backend, config_, batch, length, packed);
  }

 private:
  struct TrainingWorkspace;
  struct BackwardCalls;
  BackwardCalls backward_calls(const MambaGradArgs<T>& args,
                               const TrainingWorkspace& w) const noexcept;
  TrainingWorkspace carve_training(const Backend& backend, const MambaTape<T>& tape,
                                   const MambaGradArgs<T>& args, Arena& arena) const noexcept;
  MambaGradArgs<T> every_gradient(index_t batch, index_t length, index_t packed) const noexcept;
  Status check_training(const char* op, const View<const T, 3>& x, const State& before,
                        const MambaTape<T>& tape, const Sequences& sequences) const;
  Status backward_together(const Backend& backend, const MambaGradArgs<T>& args,
                           const MambaTape<T>& tape, Arena workspace) const;

  // What forward needs besides its arguments: the activations between the operations for one chunk
  // of every batch row, and the state carried between chunks when the caller keeps none.
  struct Workspace {
    View<T, 3> xz;      // (batch, chunk, in_proj_rows)
    View<T, 3> x;       // (batch, chunk, d_inner): after the convolution, then the scan's output
    View<T, 3> dt_BC;   // (batch, chunk, dt_rank + 2 d_state)
    View<T, 3> normed;  // the same after its norms: dt_BC itself, unless that is to be kept
    View<T, 3> dt;      // (batch, chunk, d_inner)
    State carried;

    static Workspace carve(const MambaConfig& c, index_t batch, index_t length, index_t chunk,
                           Arena& arena) noexcept {
      const index_t tokens = std::min(length, chunk);
      Workspace w;
      w.xz = arena.view<T, 3>({batch, tokens, in_proj_rows(c)});
      w.x = arena.view<T, 3>({batch, tokens, c.d_inner});
      w.dt_BC = arena.view<T, 3>({batch, tokens, c.dt_rank + 2 * c.d_state});
      w.normed = w.dt_BC;
      w.dt = arena.view<T, 3>({batch, tokens, c.d_inner});
      if (length > chunk) w.carried = State::carve(c, batch, arena);
      return w;
    }

    Workspace first_tokens(index_t count) const noexcept {
      return {xz.slice(1, 0, count),     x.slice(1, 0, count),  dt_BC.slice(1, 0, count),
              normed.slice(1, 0, count), dt.slice(1, 0, count), carried};
    }
  };

  // The weights' shapes without their data: enough to size what prepare() carves.
  static MambaWeights<T> shapes_only(const MambaConfig& config) noexcept {
    Arena counter;
    return MambaParameters<T>::carve(config, counter);
  }

  void carve_prepared(const Backend& backend, WeightFormat format, Arena& arena) {
    A_ = arena.view<accum_t<T>, 2>({config_.d_state, config_.d_inner}).transpose(0, 1);
    in_proj_ = pack_linear(backend, weights_.in_proj_weight, format, arena);
    x_proj_ = pack_linear(backend, weights_.x_proj_weight, format, arena);
    dt_proj_ = pack_linear(backend, weights_.dt_proj_weight, format, arena);
    out_proj_ = pack_linear(backend, weights_.out_proj_weight, format, arena);
  }

  Status check_forward(const Backend& backend, const View<const T, 3>& x, const View<T, 3>& y,
                       const State& before, const State& after, Arena workspace,
                       const Sequences& sequences) const {
    const char* const op = "MambaBlock::forward";
    const index_t batch = x.extent(0);
    const index_t length = x.extent(1);
    Check check(op);
    check.require(A_.present(), ErrorCode::invalid_argument, "block", "is not prepared")
        .shape("x", x, {batch, length, config_.d_model})
        .shape("y", y, {batch, length, config_.d_model})
        .also(check_shapes(sequences, op, batch));
    const index_t rows = sequences.count(batch);
    if (before.present()) check.also(check_shapes<T>(config_, before, rows));
    if (after.present()) check.also(check_shapes<T>(config_, after, rows));
    if (check.passed()) {
      Workspace::carve(config_, batch, length, time_chunk(backend, length), workspace);
      check.also(workspace.status(op));
    }
    if constexpr (reads_on_host<Backend>) {
      if (check.passed()) check.also(check_values(sequences, op, batch, length));
    }
    return check.status();
  }

  Status step_by_forward(const Backend& backend, const View<const T, 2>& x, const View<T, 2>& y,
                         const State& state, Arena workspace,
                         const View<const index_t, 1>& slots) const {
    const auto one_token = [](const auto& v) {
      using Element = typename std::decay_t<decltype(v)>::element_type;
      return View<Element, 3>(v.data(), {v.extent(0), 1, v.extent(1)},
                              {v.stride(0), 0, v.stride(1)});
    };
    if (!slots.present()) return forward(backend, one_token(x), one_token(y), state, workspace);
    return detail::step_by_slots<Backend>("MambaBlock::step", slots, x.extent(0),
                                          state.conv.extent(0), [&](index_t row, index_t slot) {
                                            return forward(backend, one_token(x.slice(0, row, 1)),
                                                           one_token(y.slice(0, row, 1)),
                                                           state.rows(slot, 1), workspace);
                                          });
  }

  static State row_of(const State& state, index_t i) noexcept {
    return state.present() ? state.rows(i, 1) : State{};
  }

  // Every sequence on its own, so that padding is never touched.
  Status forward_one_by_one(const Backend& backend, const View<const T, 3>& x, const View<T, 3>& y,
                            const State& before, const State& after, Arena workspace,
                            const Sequences& sequences) const {
    Status status;
    for (index_t i = 0; i < sequences.count(x.extent(0)) && status; ++i) {
      const Sequences::Range r = sequences.range(i, x.extent(1));
      status = forward_together(backend, x.slice(0, r.row, 1).slice(1, r.begin, r.end - r.begin),
                                y.slice(0, r.row, 1).slice(1, r.begin, r.end - r.begin),
                                row_of(before, i), row_of(after, i), workspace, {});
    }
    return status;
  }

  // Every batch row at once, chunk after chunk of time.
  Status forward_together(const Backend& backend, const View<const T, 3>& x, const View<T, 3>& y,
                          const State& before, const State& after, Arena workspace,
                          const Sequences& sequences) const {
    const index_t length = x.extent(1);
    const index_t chunk = time_chunk(backend, length);
    const Workspace w = Workspace::carve(config_, x.extent(0), length, chunk, workspace);
    if (length <= chunk) return forward_chunk(backend, x, y, before, after, sequences, w);
    const State carried = after.present() ? after : w.carried;
    State entering = before;
    Status status;
    for (index_t t = 0; t < length && status; t += chunk) {
      const index_t tokens = std::min(chunk, length - t);
      status = forward_chunk(backend, x.slice(1, t, tokens), y.slice(1, t, tokens), entering,
                             carried, {}, w.first_tokens(tokens));
      entering = carried;
    }
    return status;
  }

  // The equations above, on one piece of every sequence.
  Status forward_chunk(const Backend& backend, const View<const T, 3>& u, const View<T, 3>& out,
                       const State& before, const State& after, const Sequences& sequences,
                       const Workspace& w) const {
    Status status = linear(
        backend, LinearArgs<T>{u, weights_.in_proj_weight, weights_.in_proj_bias, w.xz, in_proj_});
    if (!status) return status;

    CausalConv1dArgs<T> conv = conv_args(before, sequences, w);
    conv.state_last = after.conv;
    status = causal_conv1d(backend, conv);
    if (!status) return status;

    status = linear(backend, LinearArgs<T>{w.x, weights_.x_proj_weight, {}, w.dt_BC, x_proj_});
    if (!status) return status;

    status = project_dt(backend, w);
    if (!status) return status;

    SelectiveScanArgs<T> scan = scan_args(before, sequences, w);
    scan.h_last = after.ssm;
    scan.y = w.x;
    status = selective_scan(backend, scan);
    if (!status) return status;

    return linear(backend, LinearArgs<T>{w.x, weights_.out_proj_weight, weights_.out_proj_bias, out,
                                         out_proj_});
  }

  // [dt, B, C], or their gradients, taken apart.
  template <class U>
  struct DtBC {
    View<U, 3> dt, B, C;
  };
  template <class U>
  DtBC<U> split(const View<U, 3>& v) const noexcept {
    const MambaConfig& c = config_;
    return {v.slice(2, 0, c.dt_rank), v.slice(2, c.dt_rank, c.d_state),
            v.slice(2, c.dt_rank + c.d_state, c.d_state)};
  }

  // x = silu(conv1d(x))
  CausalConv1dArgs<T> conv_args(const State& before, const Sequences& sequences,
                                const Workspace& w) const {
    CausalConv1dArgs<T> conv;
    conv.x = w.xz.slice(2, 0, config_.d_inner);
    conv.weight = weights_.conv1d_weight;
    conv.bias = weights_.conv1d_bias;
    conv.state0 = before.conv;
    conv.y = w.x;
    conv.sequences = sequences;
    return conv;
  }

  // The norms of dt, B and C, and dt = W_dt dt.
  Status project_dt(const Backend& backend, const Workspace& w) const {
    const DtBC<T> raw = split(w.dt_BC);
    const DtBC<T> normed = split(w.normed);
    if (config_.dt_b_c_norm) {
      for (const auto& [from, to] :
           {std::pair(raw.dt, normed.dt), std::pair(raw.B, normed.B), std::pair(raw.C, normed.C)}) {
        RmsNormArgs<T> norm;
        norm.x = from;
        norm.y = to;
        norm.eps = static_cast<accum_t<T>>(config_.dt_b_c_eps);
        const Status status = rms_norm(backend, norm);
        if (!status) return status;
      }
    }
    return linear(backend, LinearArgs<T>{normed.dt, weights_.dt_proj_weight, {}, w.dt, dt_proj_});
  }

  // The scan but for its outputs.
  SelectiveScanArgs<T> scan_args(const State& before, const Sequences& sequences,
                                 const Workspace& w) const {
    const DtBC<T> normed = split(w.normed);
    SelectiveScanArgs<T> scan;
    scan.x = w.x;
    scan.dt = w.dt;
    scan.A = A_;
    scan.B = one_group(normed.B);
    scan.C = one_group(normed.C);
    scan.D = weights_.D;
    if (config_.gate) scan.z = w.xz.slice(2, config_.d_inner, config_.d_inner);
    scan.dt_bias = weights_.dt_proj_bias;
    scan.h0 = before.ssm;
    scan.sequences = sequences;
    scan.b_rule = config_.b_rule;
    return scan;
  }

  template <class U>
  static View<U, 4> one_group(const View<U, 3>& v) noexcept {
    return View<U, 4>(v.data(), {v.extent(0), v.extent(1), 1, v.extent(2)},
                      {v.stride(0), v.stride(1), 0, v.stride(2)});
  }

  MambaConfig config_;
  MambaWeights<T> weights_;
  View<accum_t<T>, 2> A_;  // (d_inner, d_state), channels contiguous in memory
  PackedWeight in_proj_, x_proj_, dt_proj_, out_proj_;
};

SSM_NAMESPACE_END

#include "ssm/block/mamba_block_training.hpp"
