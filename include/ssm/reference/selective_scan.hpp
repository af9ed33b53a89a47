#pragma once

#include <cmath>

#include "ssm/core/math.hpp"
#include "ssm/ops/selective_scan.hpp"
#include "ssm/reference/backend.hpp"
#include "ssm/reference/row.hpp"

SSM_NAMESPACE_BEGIN

namespace detail {

// One channel d of one sequence, in the symbols of SelectiveScanArgs; "step k" counts tokens in the
// order in which the recurrence visits them.
template <class T, class S>
class ReferenceChannel {
 public:
  using Accum = accum_t<T>;
  using State = Eigen::Array<S, Eigen::Dynamic, 1>;  // the d_state values of h

  ReferenceChannel(const SelectiveScanArgs<T, S>& args, index_t sequence, index_t channel)
      : args_(args),
        range_(args.sequences.range(sequence, args.x.extent(1))),
        sequence_(sequence),
        d_(channel),
        A_(row(args.A.select(0, channel))) {}

  State initial() const {
    if (args_.h0.present()) return row(args_.h0.select(0, sequence_).select(0, d_));
    return State::Zero(A_.size());
  }

 protected:
  index_t steps() const { return range_.end - range_.begin; }
  index_t token(index_t k) const { return args_.reverse ? range_.end - 1 - k : range_.begin + k; }

  // dt_t + dt_bias
  Accum biased_dt(index_t t) const {
    const Accum v = widen(args_.dt(range_.row, t, d_));
    return args_.dt_bias.present() ? v + args_.dt_bias(d_) : v;
  }

  // delta_t
  Accum delta(index_t t) const {
    return args_.delta_softplus ? softplus(biased_dt(t)) : biased_dt(t);
  }

  // The group of this channel in B or C.
  template <class Coefficient>
  index_t group(const View<Coefficient, 4>& m) const {
    return d_ / (args_.x.extent(2) / m.extent(2));
  }

  // B or C of this channel's group at token t.
  template <class Coefficient>
  auto group_row(const View<const Coefficient, 4>& m, index_t t) const {
    return row(m.select(0, range_.row).select(0, t).select(0, group(m)));
  }

  // exp(delta A)
  State decay(index_t t) const {
    return (S(delta(t)) * A_).unaryExpr([](const S& v) {
      using std::exp;
      return S(exp(v));
    });
  }

  // w_t
  State weight(index_t t) const {
    const S dt = S(delta(t));
    if (args_.b_rule == BRule::euler) return State::Constant(A_.size(), dt);
    return dt * (dt * A_).unaryExpr([](const S& v) { return phi1(v); });
  }

  // w_t B_t x_t
  State input(index_t t) const {
    return weight(t) * group_row(args_.B, t) * S(widen(args_.x(range_.row, t, d_)));
  }

  // y_t from h_t, before the gate.
  Accum ungated_output(index_t t, const State& h) const {
    const S sum = (group_row(args_.C, t) * h).sum();
    Accum y = [&sum] {
      if constexpr (is_complex_v<S>) {
        return Accum(2) * sum.real();
      } else {
        return sum;
      }
    }();
    if (args_.D.present()) y = y + args_.D(d_) * widen(args_.x(range_.row, t, d_));
    return y;
  }

  // y_t from h_t. The only place that writes y: x_t and z_t are read here for the last time.
  void output(index_t t, const State& h) const {
    Accum y = ungated_output(t, h);
    if (args_.z.present()) y = y * silu(widen(args_.z(range_.row, t, d_)));
    args_.y(range_.row, t, d_) = narrow<T>(y);
  }

  // h + r <- e^v (h + r) + b with h the rounded state and r what the rounding lost. Beyond
  // |v| = 1/2 the decay itself is exact enough, and e h would cancel against h.
  static void accurate_step(const S& v, const S& b, S& h, S& r) {
    using std::abs;
    using std::exp;
    using Magnitude = decltype(abs(v));
    if (!(abs(v) < Magnitude(0.5))) {
      h = exp(v) * (h + r) + b;
      r = S(0);
      return;
    }
    const S increment = (expm1_of(v) * h + b) + r;
    const S sum = h + increment;  // Knuth's two-sum: sum + r equals h + increment exactly
    const S added = sum - h;
    r = (h - (sum - added)) + (increment - added);
    h = sum;
  }

  const SelectiveScanArgs<T, S>& args_;
  const Sequences::Range range_;
  const index_t sequence_;
  const index_t d_;
  const State A_;
};

// The scan of that channel.
template <class T, class S>
class ReferenceChannelScan : public ReferenceChannel<T, S> {
  using Base = ReferenceChannel<T, S>;
  using Base::A_;
  using Base::accurate_step;
  using Base::args_;
  using Base::decay;
  using Base::delta;
  using Base::input;
  using Base::output;
  using Base::steps;
  using Base::token;

 public:
  using Base::Base;
  using typename Base::State;

  // From the initial state h to the last one, writing y on the way.
  State operator()(const State& h) const {
    switch (args_.mode) {
      case ScanMode::associative:
        return associative(h);
      case ScanMode::accurate:
        return accurate(h);
      case ScanMode::sequential:
        break;
    }
    return sequential(h);
  }

 private:
  using Map = AffineMap<State>;

  // h_t = exp(delta_t A) h_{t-1} + w_t B_t x_t
  State sequential(State h) const {
    for (index_t k = 0; k < steps(); ++k) {
      const index_t t = token(k);
      h = decay(t) * h + input(t);
      output(t, h);
    }
    return h;
  }

  // The same by composition of affine maps. The initial state enters as the constant map h -> h0.
  State associative(const State& h0) const {
    if (steps() == 0) return h0;
    const Map before{State::Zero(h0.size()), h0};
    return ComposeAffine()(before, tree(0, steps(), before)).b;
  }

  // Blelloch's scan (1990) of the steps [begin, end): returns their composition, and writes the
  // outputs given `before`, the composition of everything that precedes them. Going up, a node
  // composes its halves; going down, its right half is preceded by `before` and its left half.
  Map tree(index_t begin, index_t end, const Map& before) const {
    constexpr ComposeAffine compose;
    if (end - begin == 1) {
      const index_t t = token(begin);
      const Map own{decay(t), input(t)};
      output(t, compose(before, own).b);
      return own;
    }
    const index_t middle = begin + (end - begin) / 2;
    const Map left = tree(begin, middle, before);
    const Map right = tree(middle, end, compose(before, left));
    return compose(left, right);
  }

  // h_t = h_{t-1} + (e h_{t-1} + w_t B_t x_t), e = expm1(delta_t A), with what the sum rounds away
  // carried in r: the state is h + r.
  State accurate(State h) const {
    State r = State::Zero(h.size());
    for (index_t k = 0; k < steps(); ++k) {
      const index_t t = token(k);
      const S dt = S(delta(t));
      const State b = input(t);
      for (Eigen::Index n = 0; n < h.size(); ++n) accurate_step(dt * A_[n], b[n], h[n], r[n]);
      output(t, h);
    }
    return h;
  }
};

}  // namespace detail

// The definition of the selective scan; see SelectiveScanArgs for the equation. The three modes
// agree up to rounding. `accurate` needs a compiler that keeps the order of additions (no
// -ffast-math).
//
// T may be float, double, long double, bf16, f16 or any scalar whose exp, expm1, log1p and abs are
// found by argument-dependent lookup (dual numbers). Scratch is a few vectors of d_state values,
// which Eigen allocates. On a bad argument it returns a Status and writes nothing.
template <class T, class S>
Status selective_scan(Reference, const SelectiveScanArgs<T, S>& a) {
  Status status = check_shapes(a);
  if (status.is_ok()) status = check_values(a);
  if (!status.is_ok()) return status;

  using Scan = detail::ReferenceChannelScan<T, S>;
  const index_t d_state = a.A.extent(1);
  for (index_t i = 0; i < a.sequences.count(a.x.extent(0)); ++i) {
    for (index_t d = 0; d < a.x.extent(2); ++d) {
      const Scan scan(a, i, d);
      const typename Scan::State h = scan(scan.initial());
      if (!a.h_last.present()) continue;
      for (index_t n = 0; n < d_state; ++n) a.h_last(i, d, n) = h[static_cast<Eigen::Index>(n)];
    }
  }
  return Status::ok();
}

SSM_NAMESPACE_END
