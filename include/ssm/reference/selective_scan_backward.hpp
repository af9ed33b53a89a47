#pragma once

#include <algorithm>

#include "ssm/ops/selective_scan_backward.hpp"
#include "ssm/reference/gradient.hpp"
#include "ssm/reference/selective_scan.hpp"

SSM_NAMESPACE_BEGIN

namespace detail {

// The gradients of one channel of one sequence, in the symbols of SelectiveScanGradArgs, added to
// what the channels before it left in the sums.
template <class T, class S>
class ReferenceChannelScanBackward : public ReferenceChannel<T, S> {
  using Base = ReferenceChannel<T, S>;
  using Base::A_;
  using Base::accurate_step;
  using Base::args_;
  using Base::biased_dt;
  using Base::d_;
  using Base::decay;
  using Base::delta;
  using Base::group;
  using Base::group_row;
  using Base::input;
  using Base::output;
  using Base::range_;
  using Base::sequence_;
  using Base::steps;
  using Base::token;
  using Base::ungated_output;
  using Base::weight;

 public:
  using typename Base::Accum;
  using typename Base::State;

  // Column k is the state that enters step k; the last column is the final state.
  using History = Eigen::Map<Eigen::Array<S, Eigen::Dynamic, Eigen::Dynamic>>;

  // `history` has room for d_state values of each step, and one more.
  ReferenceChannelScanBackward(const SelectiveScanGradArgs<T, S>& args, index_t sequence,
                               index_t channel, S* history)
      : Base(args.forward, sequence, channel),
        grad_(args),
        h_(history, A_.size(), static_cast<Eigen::Index>(steps() + 1)) {}

  void operator()() {
    recompute();
    State g = State::Zero(A_.size());  // conj(a_{t+1}) g_{t+1}
    State g_rest = g;                  // what `accurate` carries beside it
    if (grad_.dh_last.present()) g = row(grad_.dh_last.select(0, sequence_).select(0, d_));
    for (index_t k = steps() - 1; k >= 0; --k) {
      const index_t t = token(k);
      const Accum e = gate(t, k);
      const S output_gradient = S(is_complex_v<S> ? Accum(2) * e : e);
      g = g + output_gradient * conjugate_of(group_row(args_.C, t));
      differentiate(t, k, e, output_gradient, g + g_rest);
      advance(conjugate_of(A_), t, State::Zero(A_.size()), g, g_rest);
    }
    if (!wanted(grad_.dh0, grad_.inputs)) return;
    for (Eigen::Index n = 0; n < g.size(); ++n) {
      store_gradient(grad_.dh0(sequence_, d_, n), S(g[n] + g_rest[n]), grad_.inputs);
    }
  }

 private:
  template <class Array>
  static State conjugate_of(const Array& v) {
    return v.unaryExpr([](const S& s) { return conjugate(s); });
  }

  // h <- exp(delta_t A) h + b, with the compensation r in mode `accurate`.
  void advance(const State& A, index_t t, const State& b, State& h, State& r) const {
    using std::exp;
    for (Eigen::Index n = 0; n < h.size(); ++n) {
      const S v = S(delta(t)) * A[n];
      if (args_.mode == ScanMode::accurate) {
        Base::accurate_step(v, b[n], h[n], r[n]);
      } else {
        h[n] = exp(v) * h[n] + b[n];
      }
    }
  }

  void recompute() {
    State h = this->initial();
    State r = State::Zero(h.size());
    h_.col(0) = h;
    for (index_t k = 0; k < steps(); ++k) {
      const index_t t = token(k);
      advance(A_, t, input(t), h, r);
      h_.col(static_cast<Eigen::Index>(k + 1)) = h;
      if (args_.y.present()) output(t, h);
    }
  }

  State before(index_t k) const { return h_.col(static_cast<Eigen::Index>(k)); }
  State after(index_t k) const { return h_.col(static_cast<Eigen::Index>(k + 1)); }

  // e_t; writes dz_t.
  Accum gate(index_t t, index_t k) const {
    const Accum dy = widen(grad_.dy(range_.row, t, d_));
    if (!args_.z.present()) return dy;
    const Accum z = widen(args_.z(range_.row, t, d_));
    if (wanted(grad_.dz, grad_.inputs)) {
      store_gradient(grad_.dz(range_.row, t, d_),
                     Accum(dy * ungated_output(t, after(k)) * silu_derivative(z)), grad_.inputs);
    }
    return dy * silu(z);
  }

  // The gradients of everything that step k reads, from e_t, its share of every dL/d(C_t h_t), and
  // g_t.
  void differentiate(index_t t, index_t k, const Accum& e, const S& output_gradient,
                     const State& g) const {
    const Accum x = widen(args_.x(range_.row, t, d_));
    const S dt = S(delta(t));
    const State a = decay(t);
    const State w = weight(t);
    const State B = group_row(args_.B, t);
    const State decayed = a * before(k);  // a_t h_{t-1}
    const State Bx = B * S(x);
    const bool zoh = args_.b_rule == BRule::zero_order_hold;

    State by_delta = A_ * decayed;  // dh_t / ddelta_t
    State by_A = dt * decayed;      // dh_t / dA
    if (zoh) {
      by_delta += a * Bx;
      by_A += dt * dt * (dt * A_).unaryExpr([](const S& v) { return phi1_derivative(v); }) * Bx;
    } else {
      by_delta += Bx;
    }

    Accum dx = real_part(S((g * conjugate_of(w * B)).sum()));
    if (args_.D.present()) dx = dx + args_.D(d_) * e;
    Accum ddt = real_part(S((g * conjugate_of(by_delta)).sum()));
    if (args_.delta_softplus) ddt = ddt * softplus_derivative(biased_dt(t));

    const GradMode mode = grad_.inputs;
    if (wanted(grad_.dx, mode)) store_gradient(grad_.dx(range_.row, t, d_), dx, mode);
    if (wanted(grad_.ddt, mode)) store_gradient(grad_.ddt(range_.row, t, d_), ddt, mode);
    add(grad_.dB, t, g * conjugate_of(w) * S(x));
    add(grad_.dC, t, output_gradient * conjugate_of(after(k)));

    for (Eigen::Index n = 0; n < g.size(); ++n) {
      if (grad_.dA.present()) grad_.dA(d_, n) += g[n] * conjugate(by_A[n]);
      if (grad_.dA_log.present()) grad_.dA_log(d_, n) += g[n] * conjugate(S(by_A[n] * A_[n]));
    }
    if (grad_.dD.present()) grad_.dD(d_) += e * x;
    if (grad_.ddt_bias.present()) grad_.ddt_bias(d_) += ddt;
  }

  void add(const View<S, 4>& gradient, index_t t, const State& value) const {
    if (!gradient.present()) return;
    for (Eigen::Index n = 0; n < value.size(); ++n) {
      gradient(range_.row, t, group(gradient), n) += value[n];
    }
  }

  const SelectiveScanGradArgs<T, S>& grad_;
  History h_;
};

}  // namespace detail

// Bytes of the Arena for selective_scan_backward: the states of one channel of the longest
// sequence there can be.
template <class T, class S>
std::size_t scratch_bytes(Reference, const SelectiveScanGradArgs<T, S>& a) noexcept {
  Arena counter;
  counter.view<S, 2>({a.forward.x.extent(1) + 1, a.forward.A.extent(1)});
  return counter.bytes_needed();
}

// The definition of the scan's gradient; see SelectiveScanGradArgs for the equations. Channel by
// channel it runs the recurrence forwards, keeping every state in the workspace (recomputing them
// backwards would divide by decays that underflow), then the adjoint backwards. Mode `accurate`
// compensates both recurrences; `associative` runs sequentially here.
//
// Beyond the workspace, scratch is a few vectors of d_state values, which Eigen allocates. On a bad
// argument it returns a Status and writes nothing.
template <class T, class S>
Status selective_scan_backward(Reference, const SelectiveScanGradArgs<T, S>& a, Arena workspace) {
  const char* const op = "selective_scan_backward";
  Status status = check_shapes(a);
  if (status.is_ok()) status = check_values(a.forward, op);
  const View<S, 2> history =
      workspace.view<S, 2>({a.forward.x.extent(1) + 1, a.forward.A.extent(1)});
  if (status.is_ok()) status = workspace.status(op);
  if (!status.is_ok()) return status;

  const index_t batch = a.forward.x.extent(0);
  const Sequences& sequences = a.forward.sequences;
  SelectiveScanGradArgs<T, S> sums = a;
  const auto open_coefficient = [&](const View<S, 4>& gradient) {
    const GradMode mode = coefficient_mode(a, gradient);
    if (!wanted(gradient, mode)) return View<S, 4>();
    if (is_constant_over_sequence(gradient)) {
      if (gradient.size() > 0) {
        detail::open_sum(gradient.slice(0, 0, 1).slice(1, 0, 1), mode);
      } else if (mode == GradMode::overwrite && gradient.data() != nullptr) {
        // No token, but the matrix behind the broadcast is there and its gradient is zero.
        const View<S, 2> matrix(gradient.data(), {gradient.extent(2), gradient.extent(3)},
                                {gradient.stride(2), gradient.stride(3)});
        detail::set_zero(matrix);
      }
      return gradient;
    }
    for (index_t i = 0; i < sequences.count(batch); ++i) {  // padding stays unwritten
      const Sequences::Range r = sequences.range(i, a.forward.x.extent(1));
      detail::open_sum(gradient.slice(0, r.row, 1).slice(1, r.begin, r.end - r.begin), mode);
    }
    return gradient;
  };
  sums.dB = open_coefficient(a.dB);
  sums.dC = open_coefficient(a.dC);
  sums.dA = detail::open_sum(a.dA, a.parameters);
  sums.dA_log = detail::open_sum(a.dA_log, a.parameters);
  sums.dD = detail::open_sum(a.dD, a.parameters);
  sums.ddt_bias = detail::open_sum(a.ddt_bias, a.parameters);

  for (index_t i = 0; i < sequences.count(batch); ++i) {
    for (index_t d = 0; d < a.forward.x.extent(2); ++d) {
      detail::ReferenceChannelScanBackward<T, S>(sums, i, d, history.data())();
    }
  }
  return Status::ok();
}

SSM_NAMESPACE_END
