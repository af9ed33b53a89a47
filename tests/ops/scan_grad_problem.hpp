#pragma once

#include <algorithm>
#include <ostream>

#include "ops/run_backward.hpp"
#include "ops/scan_problem.hpp"
#include "support/gradient.hpp"
#include "support/oracle_backward.hpp"

namespace ssm_test {

// One description of a call of the scan's backward: the forward call, and what is wanted of it.
struct ScanGradCase {
  ScanCase scan = {};
  bool final_gradient = true;   // dh_last is given
  bool output = false;          // y is computed once more
  bool state_in_place = false;  // dh0 is dh_last
  ssm::GradMode inputs = ssm::GradMode::overwrite;
  ssm::GradMode parameters = ssm::GradMode::overwrite;
  const char* only = nullptr;  // the one gradient that is wanted, or all

  friend std::ostream& operator<<(std::ostream& out, const ScanGradCase& c) {
    return out << c.scan << " dh_last " << c.final_gradient << " output " << c.output
               << " state in place " << c.state_in_place << " inputs " << static_cast<int>(c.inputs)
               << " parameters " << static_cast<int>(c.parameters) << " only "
               << (c.only == nullptr ? "-" : c.only);
  }
};

template <class T, class S>
class ScanGradProblem {
 public:
  using Args = ssm::SelectiveScanGradArgs<T, S>;
  using Accum = ssm::accum_t<T>;

  explicit ScanGradProblem(const ScanGradCase& grad_case, std::uint64_t stream = 0)
      : c(grad_case), forward(grad_case.scan, stream) {
    Random random(stream + 1000);
    const ScanCase& s = c.scan;
    const ssm::Extents<3> tokens{s.batch, s.length, s.channels};
    const ssm::Extents<3> states{static_cast<index_t>(forward.sequences.size()), s.channels,
                                 s.d_state};
    dy = Tensor<T, 3>(tokens, s.layout), dy.fill(random, -1, 1);
    if (!s.partition.lengths.empty()) poison_padding(dy, s.partition.lengths);
    if (c.final_gradient) dh_last = Tensor<S, 3>(states, s.layout), dh_last.fill(random, -1, 1);
    const auto make = [&](const char* name, auto& gradient, const auto& extents,
                          ssm::GradMode mode) {
      if (c.only != nullptr && std::string(c.only) != name) return;
      gradient = std::decay_t<decltype(gradient)>(extents, s.layout, mode, random);
    };
    make("dx", dx, tokens, c.inputs);
    make("ddt", ddt, tokens, c.inputs);
    if (s.gate) make("dz", dz, tokens, c.inputs);
    const ssm::Extents<2> constant{s.channels, s.d_state};
    if (s.constant_b) {
      make("dB", constant_dB, constant, c.parameters);
    } else {
      make("dB", dB, ssm::Extents<4>{s.batch, s.length, s.groups_b, s.d_state}, c.inputs);
    }
    if (s.constant_c) {
      make("dC", constant_dC, constant, c.parameters);
    } else {
      make("dC", dC, ssm::Extents<4>{s.batch, s.length, s.groups_c, s.d_state}, c.inputs);
    }
    if (!c.state_in_place) make("dh0", dh0, states, c.inputs);
    make("dA", dA, ssm::Extents<2>{s.channels, s.d_state}, c.parameters);
    make("dA_log", dA_log, ssm::Extents<2>{s.channels, s.d_state}, c.parameters);
    make("dD", dD, ssm::Extents<1>{s.channels}, c.parameters);
    make("ddt_bias", ddt_bias, ssm::Extents<1>{s.channels}, c.parameters);
  }

  Args args() const {
    Args a;
    a.forward = forward.args();
    a.forward.h_last = {};
    if (!c.output) a.forward.y = {};
    a.dy = dy.view();
    a.dh_last = dh_last.view();
    a.dx = dx.view();
    a.ddt = ddt.view();
    a.dz = dz.view();
    a.dB = c.scan.constant_b ? expanded(constant_dB) : dB.view();
    a.dC = c.scan.constant_c ? expanded(constant_dC) : dC.view();
    a.dh0 = c.state_in_place ? dh_last.view() : dh0.view();
    a.dA = dA.view();
    a.dA_log = dA_log.view();
    a.dD = dD.view();
    a.ddt_bias = ddt_bias.view();
    a.inputs = c.inputs;
    a.parameters = c.parameters;
    return a;
  }

  // To be asked before a run that writes into dh_last.
  oracle::ScanGradient expected() const {
    return oracle::selective_scan_backward(forward.problem(),
                                           real_values(ssm::View<const T, 3>(dy.view())),
                                           complex_values(ssm::View<const S, 3>(dh_last.view())));
  }

  // Norm-relative. Each gradient is a product of sums over the memory of the recurrence, in both
  // directions, each as good as the forward pass; one rounding more where it is stored as T.
  static double sum_tolerance() { return 4 * accum_tolerance<T>(Op::selective_scan); }
  static double value_tolerance() { return sum_tolerance() + unit_roundoff<T>(); }

  void expect(const oracle::ScanGradient& wanted) const {
    dx.expect("dx", wanted.dx, value_tolerance());
    ddt.expect("ddt", wanted.ddt, value_tolerance());
    dz.expect("dz", wanted.dz, value_tolerance());
    dB.expect("dB", wanted.dB, sum_tolerance());
    dC.expect("dC", wanted.dC, sum_tolerance());
    if (c.scan.constant_b) {
      constant_dB.expect("dB", summed_over_tokens(wanted.dB), sum_tolerance());
    }
    if (c.scan.constant_c) {
      constant_dC.expect("dC", summed_over_tokens(wanted.dC), sum_tolerance());
    }
    dh0.expect("dh0", wanted.dh0, sum_tolerance());
    dA.expect("dA", wanted.dA, sum_tolerance());
    dA_log.expect("dA_log", wanted.dA_log, sum_tolerance());
    dD.expect("dD", wanted.dD, sum_tolerance());
    ddt_bias.expect("ddt_bias", wanted.ddt_bias, sum_tolerance());
    if (c.state_in_place) {
      EXPECT_TRUE(norm_relative_error(complex_values(dh_last.view()), wanted.dh0) <=
                  sum_tolerance());
      EXPECT_TRUE(dh_last.guards_intact());
    }
    if (c.output) forward.expect(oracle::selective_scan(forward.problem()), forward.y.view(), {});
  }

  // Every array that a run must not write.
  std::vector<std::vector<unsigned char>> inputs() const {
    auto all = forward.inputs();
    all.push_back(dy.snapshot());
    if (!c.state_in_place) all.push_back(dh_last.snapshot());
    if (!c.output) all.push_back(forward.y.snapshot());
    return all;
  }
  // Every array that a run may write, bit for bit.
  std::vector<std::vector<unsigned char>> outputs() const {
    return {dx.tensor.snapshot(),          ddt.tensor.snapshot(),         dz.tensor.snapshot(),
            dB.tensor.snapshot(),          dC.tensor.snapshot(),          dh0.tensor.snapshot(),
            constant_dB.tensor.snapshot(), constant_dC.tensor.snapshot(), dA.tensor.snapshot(),
            dD.tensor.snapshot(),          ddt_bias.tensor.snapshot(),    dh_last.snapshot(),
            dA_log.tensor.snapshot()};
  }

  ScanGradCase c;
  ScanProblem<T, S> forward;
  Tensor<T, 3> dy;
  Tensor<S, 3> dh_last;
  GradientArray<T, 3> dx, ddt, dz;
  GradientArray<S, 4> dB, dC;
  GradientArray<S, 2> constant_dB, constant_dC, dA, dA_log;
  GradientArray<S, 3> dh0;
  GradientArray<Accum, 1> dD, ddt_bias;

 private:
  ssm::View<S, 4> expanded(const GradientArray<S, 2>& m) const {
    if (!m.tensor.present()) return {};
    return ssm::constant_over_sequence<S>(m.view(), c.scan.batch, c.scan.length);
  }
  // (tokens, channels, d_state) to (channels, d_state), padding left out.
  std::vector<oracle::Complex> summed_over_tokens(const std::vector<oracle::Complex>& all) const {
    const auto size = static_cast<std::size_t>(c.scan.channels * c.scan.d_state);
    std::vector<oracle::Complex> sum(size, 0);
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (!std::isnan(all[i].real())) sum[i % size] += all[i];
    }
    return sum;
  }
};

// The backend under test with the types of its arguments: the parameter of the suites.
template <class Target_, class T_, class S_ = ssm::accum_t<T_>>
struct ScanGradTypes {
  using Target = Target_;
  using T = T_;
  using S = S_;
  using Args = ssm::SelectiveScanGradArgs<T, S>;
  using Problem = ScanGradProblem<T, S>;
  static std::string name() { return type_name<T>() + "_" + type_name<S>(); }
};

}  // namespace ssm_test
