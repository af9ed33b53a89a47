#pragma once

#include "ops/scan_grad_problem.hpp"
#include "support/differences.hpp"

// The scan's gradient without the adjoint oracle, in double: golden values of three tokens, and all
// nine gradients against differences of the forward oracle.
//
//   using Types = testing::Types<ScanGradTypes<HostTarget<ssm::Cpu>, double>, …>;
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, SelectiveScanBackwardLaws, Types, TypeNames);
namespace ssm_test {

template <class Types>
class SelectiveScanBackwardLaws : public testing::Test {};

TYPED_TEST_SUITE_P(SelectiveScanBackwardLaws);

TYPED_TEST_P(SelectiveScanBackwardLaws, ThreeTokensOfGoldenValues) {
  using T = typename TypeParam::T;
  if constexpr (!ssm::is_complex_v<typename TypeParam::S>) {
    const long double tolerance = std::is_same<T, double>::value ? 1e-14L : 1e-6L;
    const auto sequence = [](const std::vector<double>& v) {
      return tensor_of<T, 3>({1, 3, 1}, v);
    };
    const Tensor<T, 3> u = sequence({1, 2, 3}), delta = sequence({0, 1, -1}),
                       z = sequence({1, 0, -1}), dy = sequence({1, 1, 1}), y({1, 3, 1}),
                       dx({1, 3, 1}), ddt({1, 3, 1});
    const Tensor<T, 2> A = tensor_of<T, 2>({1, 2}, {-1, -2}), dA({1, 2});
    const Tensor<T, 4> B = tensor_of<T, 4>({1, 3, 1, 2}, {1, 0, 0, 1, 1, 1});
    const Tensor<T, 4> C = tensor_of<T, 4>({1, 3, 1, 2}, {1, 1, 1, 1, 1, -1});
    const Tensor<T, 1> D = tensor_of<T, 1>({1}, {0.5}), bias = tensor_of<T, 1>({1}, {0});
    typename TypeParam::Args a;
    a.forward.x = u.view();
    a.forward.dt = delta.view();
    a.forward.A = A.view();
    a.forward.B = B.view();
    a.forward.C = C.view();
    a.forward.D = D.view();
    a.forward.z = z.view();
    a.forward.dt_bias = bias.view();
    a.forward.y = y.view();
    a.dy = dy.view();
    a.dx = dx.view();
    a.ddt = ddt.view();
    a.dA = dA.view();
    ASSERT_TRUE(run<typename TypeParam::Target>(a).is_ok());
    const auto expect = [&](const auto& found, const std::vector<double>& wanted) {
      std::size_t i = 0;
      found.for_each([&](const T& v) {
        const long double w = wanted[i++];
        EXPECT_TRUE(std::abs(to_real(v) - w) <= tolerance) << i << ": " << v << " not " << w;
      });
    };
    expect(y, {.8722604819165515, 0, -.0625408215666041});
    expect(dA, {-.0596146967862214, .1182634664534408});
    expect(ddt, {.3390907429228691, .2369516486163986, -.1932059649857472});
    expect(dx, {.8356088741369303, .1887614591340048, -.1344707106849976});
  }
}

TYPED_TEST_P(SelectiveScanBackwardLaws, EveryGradientEqualsDifferences) {
  using T = typename TypeParam::T;
  using S = typename TypeParam::S;
  constexpr bool kComplex = ssm::is_complex_v<S>;
  const long double tolerance = std::is_same<T, double>::value ? 1e-12L : 2e-5L;
  for (const ssm::BRule rule : {ssm::BRule::euler, ssm::BRule::zero_order_hold}) {
    for (const index_t groups : {1, 2}) {
      for (const bool reverse : {false, true}) {
        ScanGradCase c;
        c.scan.batch = 2;
        c.scan.length = 4;
        c.scan.channels = 2;
        c.scan.d_state = 2;
        c.scan.groups_b = groups;
        c.scan.groups_c = 3 - groups;
        c.scan.rule = rule;
        c.scan.reverse = reverse;
        c.scan.A_low = -1;
        c.scan.A_high = -0.02;
        SCOPED_TRACE(testing::Message() << c);
        typename TypeParam::Problem p(c);
        // On both sides of softplus's threshold, bias included; A small enough that the state
        // survives there.
        p.forward.dt_bias.fill(0.25);
        p.forward.dt(0, 1, 0) = T(19.5);
        p.forward.dt(1, 2, 1) = T(20.5);
        p.forward.dt(1, 0, 0) = T(-12);
        p.forward.A(0, 0) = S(-0.03125f);
        p.forward.A(1, 1) = S(-0.015625f);
        ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());

        oracle::Scan o = p.forward.problem();
        const auto dy = real_values(ssm::View<const T, 3>(p.dy.view()));
        const auto dh = complex_values(ssm::View<const S, 3>(p.dh_last.view()));
        const auto loss = [&] {
          const oracle::ScanResult r = oracle::selective_scan(o);
          oracle::Real sum = 0;
          for (std::size_t i = 0; i < dy.size(); ++i) sum += dy[i] * r.y[i];
          for (std::size_t i = 0; i < dh.size(); ++i) sum += (std::conj(dh[i]) * r.h[i]).real();
          return sum;
        };
        p.dx.expect("dx", oracle::gradient(o.x, loss), tolerance);
        p.ddt.expect("ddt", oracle::gradient(o.dt, loss), tolerance);
        p.dz.expect("dz", oracle::gradient(o.z, loss), tolerance);
        p.dA.expect("dA", oracle::gradient(o.A, kComplex, loss), tolerance);
        p.dB.expect("dB", oracle::gradient(o.B, kComplex, loss), tolerance);
        p.dC.expect("dC", oracle::gradient(o.C, kComplex, loss), tolerance);
        p.dh0.expect("dh0", oracle::gradient(o.h0, kComplex, loss), tolerance);
        p.dD.expect("dD", oracle::gradient(o.D, loss), tolerance);
        p.ddt_bias.expect("ddt_bias", oracle::gradient(o.dt_bias, loss), tolerance);

        // And so is the adjoint oracle, on which the suite stands.
        const oracle::ScanGradient adjoint = p.expected();
        const auto agrees = [&](const char* name, const auto& found, const auto& wanted) {
          const long double error = norm_relative_error(found, wanted);
          EXPECT_TRUE(error <= 1e-13L) << name << ": " << error;
        };
        agrees("dx", adjoint.dx, oracle::gradient(o.x, loss));
        agrees("ddt", adjoint.ddt, oracle::gradient(o.dt, loss));
        agrees("dz", adjoint.dz, oracle::gradient(o.z, loss));
        agrees("dA", adjoint.dA, oracle::gradient(o.A, kComplex, loss));
        agrees("dB", adjoint.dB, oracle::gradient(o.B, kComplex, loss));
        agrees("dC", adjoint.dC, oracle::gradient(o.C, kComplex, loss));
        agrees("dh0", adjoint.dh0, oracle::gradient(o.h0, kComplex, loss));
        agrees("dD", adjoint.dD, oracle::gradient(o.D, loss));
        agrees("ddt_bias", adjoint.ddt_bias, oracle::gradient(o.dt_bias, loss));
      }
    }
  }
}

REGISTER_TYPED_TEST_SUITE_P(SelectiveScanBackwardLaws, ThreeTokensOfGoldenValues,
                            EveryGradientEqualsDifferences);

}  // namespace ssm_test
