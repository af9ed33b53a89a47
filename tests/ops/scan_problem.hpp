#pragma once

#include <ostream>

#include "ops/run.hpp"
#include "support/suite.hpp"
#include "support/target.hpp"

namespace ssm_test {

// One description of a call. The default is the base case, from which each test varies one thing.
struct ScanCase {
  index_t batch = 2, length = 9, channels = 6, d_state = 4, groups_b = 2, groups_c = 3;
  bool skip = true, gate = true, bias = true, initial = true, last = true;
  bool constant_b = false, constant_c = false;
  bool softplus = true, reverse = false;
  ssm::BRule rule = ssm::BRule::euler;
  ssm::ScanMode mode = ssm::ScanMode::sequential;
  Partition partition = {};
  Layout layout = Layout::contiguous;
  enum class Output { own, in_x, in_z } output = Output::own;
  bool state_in_place = false;
  // Decays: with softplus the base case has delta |A| >= 0.14, which the tolerance counts on.
  double dt_low = -1, dt_high = 1, A_low = -2, A_high = -0.5;

  friend std::ostream& operator<<(std::ostream& out, const ScanCase& c) {
    return out << "batch " << c.batch << " length " << c.length << " channels " << c.channels
               << " d_state " << c.d_state << " groups " << c.groups_b << "," << c.groups_c
               << " skip " << c.skip << " gate " << c.gate << " bias " << c.bias << " h0 "
               << c.initial << " h_last " << c.last << " constant " << c.constant_b << ","
               << c.constant_c << " softplus " << c.softplus << " reverse " << c.reverse << " rule "
               << static_cast<int>(c.rule) << " mode " << static_cast<int>(c.mode) << " layout "
               << static_cast<int>(c.layout) << " output " << static_cast<int>(c.output)
               << " in place " << c.state_in_place << " lengths " << c.partition.lengths.size()
               << " starts " << c.partition.starts.size();
  }
};

// The arrays of a case, its arguments, and what the oracle makes of them.
template <class T, class S>
class ScanProblem {
 public:
  using Args = ssm::SelectiveScanArgs<T, S>;
  using Accum = ssm::accum_t<T>;
  using Coefficient = typename Args::Coefficient;

  explicit ScanProblem(const ScanCase& scan_case, std::uint64_t stream = 0)
      : c(scan_case), x(x_shape(), c.layout), dt(x_shape(), c.layout) {
    Random random(stream);
    x.fill(random, -1, 1);
    dt.fill(random, c.dt_low, c.dt_high);
    A = Tensor<S, 2>({c.channels, c.d_state}, c.layout);
    A.fill(random, c.A_low, c.A_high);
    if constexpr (ssm::is_complex_v<S>) {
      A.for_each([&](S& a) { a = S(a.real(), Accum(random.uniform(-3, 3))); });
    }
    make_coefficient(random, c.constant_b, c.groups_b, B, constant_B);
    make_coefficient(random, c.constant_c, c.groups_c, C, constant_C);
    if (c.skip) D = Tensor<Accum, 1>({c.channels}, c.layout), D.fill(random, -1, 1);
    if (c.bias) dt_bias = Tensor<Accum, 1>({c.channels}, c.layout), dt_bias.fill(random, 0, 0.5);
    if (c.gate) z = Tensor<T, 3>(x_shape(), c.layout), z.fill(random, -2, 2);
    sequences = c.partition.ranges(c.batch, c.length);
    const ssm::Extents<3> states{static_cast<index_t>(sequences.size()), c.channels, c.d_state};
    if (c.initial) h0 = Tensor<S, 3>(states, c.layout), h0.fill(random, -1, 1);
    if (c.last && !c.state_in_place) h_last = Tensor<S, 3>(states, c.layout);
    if (c.output == ScanCase::Output::own) y = Tensor<T, 3>(x_shape(), c.layout);
    if (!c.partition.lengths.empty()) {
      lengths = index_tensor(c.partition.lengths);
      for (Tensor<T, 3>* const tensor : {&x, &dt, &z}) poison_padding(*tensor, c.partition.lengths);
      poison_padding(B, c.partition.lengths);
      poison_padding(C, c.partition.lengths);
    }
    if (!c.partition.starts.empty()) starts = index_tensor(c.partition.starts);
  }

  Args args() const {
    Args a;
    a.x = x.view();
    a.dt = dt.view();
    a.A = A.view();
    a.B = c.constant_b ? expanded(constant_B) : B.view();
    a.C = c.constant_c ? expanded(constant_C) : C.view();
    a.D = D.view();
    a.z = z.view();
    a.dt_bias = dt_bias.view();
    a.h0 = h0.view();
    a.h_last = c.state_in_place ? h0.view() : h_last.view();
    a.y = c.output == ScanCase::Output::in_x   ? x.view()
          : c.output == ScanCase::Output::in_z ? z.view()
                                               : y.view();
    a.sequences = {lengths.view(), starts.view()};
    a.delta_softplus = c.softplus;
    a.reverse = c.reverse;
    a.b_rule = c.rule;
    a.mode = c.mode;
    return a;
  }

  // To be asked before a run that writes into x, z or h0.
  oracle::ScanResult expected() const { return oracle::selective_scan(problem()); }
  oracle::Scan problem() const {
    const Args a = args();
    oracle::Scan p;
    p.batch = c.batch;
    p.length = c.length;
    p.channels = c.channels;
    p.d_state = c.d_state;
    p.groups_b = a.B.extent(2);
    p.groups_c = a.C.extent(2);
    p.x = real_values(a.x);
    p.dt = real_values(a.dt);
    p.z = real_values(a.z);
    p.A = complex_values(a.A);
    p.B = complex_values(a.B);
    p.C = complex_values(a.C);
    p.D = real_values(a.D);
    p.dt_bias = real_values(a.dt_bias);
    p.h0 = complex_values(a.h0);
    p.sequences = sequences;
    p.conjugate_pairs = ssm::is_complex_v<S>;
    p.softplus = c.softplus;
    p.reverse = c.reverse;
    p.zero_order_hold = c.rule == ssm::BRule::zero_order_hold;
    return p;
  }

  // y and, unless it is absent, h_last against the oracle; tokens of no sequence unwritten.
  void expect(const oracle::ScanResult& wanted) const { expect(wanted, args().y, args().h_last); }
  void expect(const oracle::ScanResult& wanted, const ssm::View<T, 3>& found_y,
              const ssm::View<S, 3>& found_h) const {
    ErrorMeter error(underflow<T>());
    std::size_t i = 0;
    for (index_t b = 0; b < c.batch; ++b) {
      for (index_t t = 0; t < c.length; ++t) {
        for (index_t d = 0; d < c.channels; ++d, ++i) {
          if (std::isnan(wanted.y[i])) {
            if (c.output == ScanCase::Output::own) {
              EXPECT_TRUE(is_poison(found_y(b, t, d))) << b << " " << t << " " << d;
            }
          } else {
            error.add(to_real(found_y(b, t, d)), wanted.y[i], wanted.y_scale[i]);
          }
        }
      }
    }
    EXPECT_LE(error.worst(), tolerance<T>(Op::selective_scan)) << "y: " << error;

    if (!found_h.present()) return;
    ErrorMeter state_error(underflow<Accum>());
    const auto h = complex_values(found_h);
    ASSERT_EQ(h.size(), wanted.h.size());
    for (std::size_t j = 0; j < h.size(); ++j) {
      state_error.add(h[j], wanted.h[j], wanted.h_scale[j]);
    }
    EXPECT_LE(state_error.worst(), accum_tolerance<T>(Op::selective_scan))
        << "h_last: " << state_error;
  }

  void expect_guards() const {
    EXPECT_TRUE(y.guards_intact());
    EXPECT_TRUE(h_last.guards_intact());
  }

  // Every array that a run must not write.
  std::vector<std::vector<unsigned char>> inputs() const {
    std::vector<std::vector<unsigned char>> all = {
        dt.snapshot(),         A.snapshot(),          B.snapshot(), C.snapshot(),
        constant_B.snapshot(), constant_C.snapshot(), D.snapshot(), dt_bias.snapshot()};
    if (c.output != ScanCase::Output::in_x) all.push_back(x.snapshot());
    if (c.output != ScanCase::Output::in_z) all.push_back(z.snapshot());
    if (!c.state_in_place) all.push_back(h0.snapshot());
    return all;
  }

  ScanCase c;
  std::vector<oracle::Range> sequences;
  Tensor<T, 3> x, dt, z, y;
  Tensor<S, 2> A;
  Tensor<Coefficient, 4> B, C;
  Tensor<Coefficient, 2> constant_B, constant_C;
  Tensor<Accum, 1> D, dt_bias;
  Tensor<S, 3> h0, h_last;
  Tensor<index_t, 1> lengths, starts;

 private:
  ssm::Extents<3> x_shape() const { return {c.batch, c.length, c.channels}; }

  void make_coefficient(Random& random, bool constant, index_t groups, Tensor<Coefficient, 4>& m,
                        Tensor<Coefficient, 2>& constant_m) const {
    if (constant) {
      constant_m = Tensor<Coefficient, 2>({c.channels, c.d_state}, c.layout);
      constant_m.fill(random, -1, 1);
    } else {
      m = Tensor<Coefficient, 4>({c.batch, c.length, groups, c.d_state}, c.layout);
      m.fill(random, -1, 1);
    }
  }
  ssm::View<const Coefficient, 4> expanded(const Tensor<Coefficient, 2>& m) const {
    return ssm::constant_over_sequence<Coefficient>(m.view(), c.batch, c.length);
  }
};

// The backend under test with the types of its arguments: the parameter of the suite.
template <class Target_, class T_, class S_ = ssm::accum_t<T_>>
struct ScanTypes {
  using Target = Target_;
  using T = T_;
  using S = S_;
  using Args = ssm::SelectiveScanArgs<T, S>;
  using Problem = ScanProblem<T, S>;
  static std::string name() { return type_name<T>() + "_" + type_name<S>(); }
};

// The tokens [begin, begin + length) of a call.
template <class T, class S>
ssm::SelectiveScanArgs<T, S> chunk(ssm::SelectiveScanArgs<T, S> a, index_t begin, index_t length) {
  a.x = a.x.slice(1, begin, length);
  a.dt = a.dt.slice(1, begin, length);
  a.B = a.B.slice(1, begin, length);
  a.C = a.C.slice(1, begin, length);
  if (a.z.present()) a.z = a.z.slice(1, begin, length);
  a.y = a.y.slice(1, begin, length);
  return a;
}

}  // namespace ssm_test
