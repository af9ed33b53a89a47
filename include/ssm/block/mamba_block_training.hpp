#pragma once

// The definitions of MambaBlock's training members; <ssm/block/mamba_block.hpp> includes them.

#include <algorithm>
#include <initializer_list>

#include "ssm/block/mamba_block.hpp"
#include "ssm/ops/causal_conv1d_backward.hpp"
#include "ssm/ops/linear_backward.hpp"
#include "ssm/ops/rms_norm_backward.hpp"
#include "ssm/ops/selective_scan_backward.hpp"

SSM_NAMESPACE_BEGIN

template <class T, class Backend>
struct MambaBlock<T, Backend>::TrainingWorkspace {
  using Accum = accum_t<T>;
  Workspace forward;   // its xz and dt_BC are the tape's
  View<T, 3> y;        // (batch, length, d_inner): the scan's output
  View<T, 3> dx, ddt;  // (batch, length, d_inner): of the convolution's output, and of dt
  View<T, 3> dxz;      // (batch, length, in_proj_rows); its x half holds dy until the scan is done
  View<Accum, 3> d_dt_BC;  // (batch, length, dt_rank + 2 d_state)
  Arena scratch;           // of the operations, one after another
};

// The operations of backward with their arguments, in the order in which they run.
template <class T, class Backend>
struct MambaBlock<T, Backend>::BackwardCalls {
  using Accum = accum_t<T>;
  LinearGradArgs<T> y;  // of the scan's output
  SelectiveScanGradArgs<T> scan;
  LinearGradArgs<T> out_proj;  // of its parameters, once the scan's output is there again
  LinearGradArgs<T, T, Accum> dt_proj;
  RmsNormGradArgs<T, Accum> norms[3];  // of dt, B and C, if they have one
  LinearGradArgs<T, Accum, T> x_proj;
  CausalConv1dGradArgs<T> conv;
  LinearGradArgs<T> in_proj;

  // The bytes that the most demanding of them needs.
  std::size_t most_scratch(const Backend& backend) const noexcept {
    return std::max({scratch_bytes(backend, y), scratch_bytes(backend, scan),
                     scratch_bytes(backend, out_proj), scratch_bytes(backend, dt_proj),
                     scratch_bytes(backend, norms[0]), scratch_bytes(backend, norms[1]),
                     scratch_bytes(backend, norms[2]), scratch_bytes(backend, x_proj),
                     scratch_bytes(backend, conv), scratch_bytes(backend, in_proj)});
  }
};

template <class T, class Backend>
auto MambaBlock<T, Backend>::backward_calls(const MambaGradArgs<T>& a,
                                            const TrainingWorkspace& w) const noexcept
    -> BackwardCalls {
  const View<T, 3> dx_half = w.dxz.slice(2, 0, config_.d_inner);
  const DtBC<T> raw = split(w.forward.dt_BC);
  const DtBC<accum_t<T>> d = split(w.d_dt_BC);
  BackwardCalls calls;

  calls.y.weight = weights_.out_proj_weight;
  calls.y.dy = a.dy;
  calls.y.dx = dx_half;

  calls.scan.forward = scan_args(a.before, a.sequences, w.forward);
  calls.scan.forward.y = w.y;
  calls.scan.dy = dx_half;
  calls.scan.dh_last = a.dafter.ssm;
  calls.scan.dx = w.dx;
  calls.scan.ddt = w.ddt;
  if (config_.gate) calls.scan.dz = w.dxz.slice(2, config_.d_inner, config_.d_inner);
  calls.scan.dB = one_group(d.B);
  calls.scan.dC = one_group(d.C);
  calls.scan.dh0 = a.dbefore.ssm;
  calls.scan.dA_log = a.grads.A_log;
  calls.scan.dD = a.grads.D;
  calls.scan.ddt_bias = a.grads.dt_proj_bias;
  calls.scan.parameters = a.mode;

  calls.out_proj.x = w.y;
  calls.out_proj.weight = weights_.out_proj_weight;
  calls.out_proj.dy = a.dy;
  calls.out_proj.dweight = a.grads.out_proj_weight;
  calls.out_proj.dbias = a.grads.out_proj_bias;
  calls.out_proj.parameters = a.mode;

  calls.dt_proj.x = split(w.forward.normed).dt;
  calls.dt_proj.weight = weights_.dt_proj_weight;
  calls.dt_proj.dy = w.ddt;
  calls.dt_proj.dx = d.dt;
  calls.dt_proj.dweight = a.grads.dt_proj_weight;
  calls.dt_proj.parameters = a.mode;

  const View<T, 3> normalised[] = {raw.dt, raw.B, raw.C};
  const View<accum_t<T>, 3> gradients[] = {d.dt, d.B, d.C};
  for (int i = 0; i < 3; ++i) {
    calls.norms[i].x = normalised[i];
    calls.norms[i].eps = static_cast<accum_t<T>>(config_.dt_b_c_eps);
    calls.norms[i].dy = gradients[i];
    calls.norms[i].dx = gradients[i];
  }

  calls.x_proj.x = w.forward.x;
  calls.x_proj.weight = weights_.x_proj_weight;
  calls.x_proj.dy = w.d_dt_BC;
  calls.x_proj.dx = w.dx;
  calls.x_proj.inputs = GradMode::accumulate;  // to what the scan left there
  calls.x_proj.dweight = a.grads.x_proj_weight;
  calls.x_proj.parameters = a.mode;

  calls.conv.forward = conv_args(a.before, a.sequences, w.forward);
  calls.conv.dy = w.dx;
  calls.conv.dstate_last = a.dafter.conv;
  calls.conv.dx = dx_half;
  calls.conv.dstate0 = a.dbefore.conv;
  calls.conv.dweight = a.grads.conv1d_weight;
  calls.conv.dbias = a.grads.conv1d_bias;
  calls.conv.parameters = a.mode;

  calls.in_proj.x = a.x;
  calls.in_proj.weight = weights_.in_proj_weight;
  calls.in_proj.dy = w.dxz;
  calls.in_proj.dx = a.dx;
  calls.in_proj.dweight = a.grads.in_proj_weight;
  calls.in_proj.dbias = a.grads.in_proj_bias;
  calls.in_proj.parameters = a.mode;
  return calls;
}

template <class T, class Backend>
auto MambaBlock<T, Backend>::carve_training(const Backend& backend, const MambaTape<T>& tape,
                                            const MambaGradArgs<T>& args,
                                            Arena& arena) const noexcept -> TrainingWorkspace {
  const MambaConfig& c = config_;
  const index_t batch = tape.xz.extent(0);
  const index_t length = tape.xz.extent(1);
  const Extents<3> inner{batch, length, c.d_inner};
  TrainingWorkspace w;
  w.forward.xz = tape.xz;
  w.forward.dt_BC = tape.dt_BC;
  w.forward.x = arena.view<T, 3>(inner);
  w.forward.dt = arena.view<T, 3>(inner);
  w.forward.normed =
      c.dt_b_c_norm ? arena.view<T, 3>({batch, length, c.dt_rank + 2 * c.d_state}) : tape.dt_BC;
  w.y = arena.view<T, 3>(inner);
  w.dx = arena.view<T, 3>(inner);
  w.ddt = arena.view<T, 3>(inner);
  w.dxz = arena.view<T, 3>({batch, length, in_proj_rows(c)});
  w.d_dt_BC = arena.view<accum_t<T>, 3>({batch, length, c.dt_rank + 2 * c.d_state});
  const std::size_t bytes = backward_calls(args, w).most_scratch(backend);
  w.scratch = Arena(arena.allocate<unsigned char>(static_cast<index_t>(bytes)), bytes);
  return w;
}

// All that backward may be asked for, as shapes without data.
template <class T, class Backend>
MambaGradArgs<T> MambaBlock<T, Backend>::every_gradient(index_t batch, index_t length,
                                                        index_t packed) const noexcept {
  Arena counter;
  MambaGradArgs<T> a;
  a.dx = counter.view<T, 3>({batch, length, config_.d_model});
  a.x = a.dx;
  a.dy = a.dx;
  if (packed > 0) a.sequences.starts = View<const index_t, 1>(nullptr, {packed + 1});
  a.dbefore = State::carve(config_, a.sequences.count(batch), counter);
  a.dafter = a.dbefore;
  a.before = a.dbefore;
  a.grads = MambaGrads<T>::carve(config_, counter);
  return a;
}

template <class T, class Backend>
std::size_t MambaBlock<T, Backend>::training_workspace_bytes(const Backend& backend,
                                                             const MambaConfig& config,
                                                             index_t batch, index_t length,
                                                             index_t packed) noexcept {
  Arena prepared;
  MambaBlock block;
  block.config_ = config;
  block.weights_ = shapes_only(config);
  block.carve_prepared(backend, WeightFormat::native, prepared);
  Arena tape;
  Arena counter;
  block.carve_training(backend, MambaTape<T>::carve(config, batch, length, tape),
                       block.every_gradient(batch, length, packed), counter);
  return counter.bytes_needed();
}

// The conditions that forward_train and backward share.
template <class T, class Backend>
Status MambaBlock<T, Backend>::check_training(const char* op, const View<const T, 3>& x,
                                              const State& before, const MambaTape<T>& tape,
                                              const Sequences& sequences) const {
  const index_t batch = x.extent(0);
  const index_t length = x.extent(1);
  Check check(op);
  check.require(A_.present(), ErrorCode::invalid_argument, "block", "is not prepared")
      .shape("x", x, {batch, length, config_.d_model})
      .also(check_shapes(sequences, op, batch));
  if (before.present()) check.also(check_shapes<T>(config_, before, sequences.count(batch)));
  check.also(check_shapes(config_, tape, batch, length));
  if constexpr (reads_on_host<Backend>) {
    if (check.passed()) check.also(check_values(sequences, op, batch, length));
  } else {
    check.require(!sequences.lengths.present(), ErrorCode::unsupported, "sequences.lengths",
                  "must be absent: pack the sequences instead");
  }
  return check.status();
}

template <class T, class Backend>
Status MambaBlock<T, Backend>::forward_train(const Backend& backend, const View<const T, 3>& x,
                                             const View<T, 3>& y, const State& before,
                                             const State& after, const MambaTape<T>& tape,
                                             Arena workspace,
                                             const Sequences& sequences) const noexcept {
  const char* const op = "MambaBlock::forward_train";
  const index_t batch = x.extent(0);
  const index_t length = x.extent(1);
  Check check(op);
  check.also(check_training(op, x, before, tape, sequences))
      .shape("y", y, {batch, length, config_.d_model});
  if (after.present()) check.also(check_shapes<T>(config_, after, sequences.count(batch)));
  check.require(before.ssm.size() == 0 || before.ssm.data() != after.ssm.data(),
                ErrorCode::invalid_argument, "after", "must not be before: backward reads that");
  if (!check.passed()) return check.status();
  const TrainingWorkspace w = carve_training(
      backend, tape, every_gradient(batch, length, sequences.packed() ? sequences.count(batch) : 0),
      workspace);
  Status status = workspace.status(op);
  if (!status) return status;
  if (!sequences.lengths.present()) {
    return forward_chunk(backend, x, y, before, after, sequences, w.forward);
  }
  // Every sequence on its own, so that padding is never touched.
  for (index_t i = 0; i < batch && status; ++i) {
    const Sequences::Range r = sequences.range(i, length);
    const auto cut = [&r](const auto& v) {
      return v.slice(0, r.row, 1).slice(1, r.begin, r.end - r.begin);
    };
    Workspace part = w.forward;
    for (View<T, 3>* const v : {&part.xz, &part.x, &part.dt_BC, &part.normed, &part.dt}) {
      *v = cut(*v);
    }
    status = forward_chunk(backend, cut(x), cut(y), row_of(before, i), row_of(after, i), {}, part);
  }
  return status;
}

template <class T, class Backend>
Status MambaBlock<T, Backend>::backward(const Backend& backend, const MambaGradArgs<T>& a,
                                        const MambaTape<T>& tape, Arena workspace) const noexcept {
  const char* const op = "MambaBlock::backward";
  const Extents<3> shape{a.x.extent(0), a.x.extent(1), config_.d_model};
  Check check(op);
  check.also(check_training(op, a.x, a.before, tape, a.sequences))
      .shape("dy", a.dy, shape)
      .optional_shape("dx", a.dx, shape);
  for (const State& gradient : {a.dafter, a.dbefore}) {
    if (gradient.present()) {
      check.also(check_shapes<T>(config_, gradient, a.sequences.count(shape[0])));
    }
  }
  if (a.mode != GradMode::ignore) check.also(check_grad_shapes(config_, a.grads));
  if (!check.passed()) return check.status();
  Arena counter = workspace;
  carve_training(backend, tape, a, counter);
  Status status = counter.status(op);
  if (!status || !a.sequences.lengths.present() || shape[0] == 0) {
    return status ? backward_together(backend, a, tape, workspace) : status;
  }
  // Every sequence on its own, so that padding is never touched; their weights' gradients add up.
  MambaGradArgs<T> one = a;
  one.sequences = {};
  for (index_t i = 0; i < shape[0] && status; ++i) {
    const Sequences::Range r = a.sequences.range(i, shape[1]);
    const auto cut = [&r](const auto& v) {
      return v.present() ? v.slice(0, r.row, 1).slice(1, r.begin, r.end - r.begin) : v;
    };
    one.x = cut(a.x);
    one.dy = cut(a.dy);
    one.dx = cut(a.dx);
    one.before = row_of(a.before, i);
    one.dafter = row_of(a.dafter, i);
    one.dbefore = row_of(a.dbefore, i);
    status = backward_together(backend, one, tape.part(r), workspace);
    if (one.mode == GradMode::overwrite) one.mode = GradMode::accumulate;
  }
  return status;
}

// The equations of the block, last to first.
template <class T, class Backend>
Status MambaBlock<T, Backend>::backward_together(const Backend& backend, const MambaGradArgs<T>& a,
                                                 const MambaTape<T>& tape, Arena workspace) const {
  const TrainingWorkspace w = carve_training(backend, tape, a, workspace);
  const BackwardCalls calls = backward_calls(a, w);

  // What the tape does not hold: x after the convolution, and dt.
  Status status = causal_conv1d(backend, conv_args(a.before, a.sequences, w.forward));
  if (status) status = project_dt(backend, w.forward);

  if (status) status = linear_backward(backend, calls.y, w.scratch);
  if (status) status = selective_scan_backward(backend, calls.scan, w.scratch);
  if (status) status = linear_backward(backend, calls.out_proj, w.scratch);
  if (status) status = linear_backward(backend, calls.dt_proj, w.scratch);
  for (int i = 0; i < 3 && config_.dt_b_c_norm; ++i) {
    if (status) status = rms_norm_backward(backend, calls.norms[i], w.scratch);
  }
  if (status) status = linear_backward(backend, calls.x_proj, w.scratch);
  if (status) status = causal_conv1d_backward(backend, calls.conv, w.scratch);
  if (status) status = linear_backward(backend, calls.in_proj, w.scratch);
  return status;
}

SSM_NAMESPACE_END
