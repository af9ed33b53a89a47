#pragma once

#include "ops/golden_scan.hpp"
#include "ops/run_backward.hpp"

// golden/selective_scan_dev: the gradients that torch's autograd gives for mamba_ssm's
// `selective_scan_ref` in float64, eleven cases.
//
//   using Types = testing::Types<GoldenTypes<HostTarget<ssm::Cpu>, float>, …>;
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, SelectiveScanBackwardGoldenSuite, Types, TypeNames);
namespace ssm_test {

template <class Types>
class SelectiveScanBackwardGoldenSuite : public testing::Test {
 public:
  using T = typename Types::T;
  using Accum = ssm::accum_t<T>;
  // Relative to the norm of each gradient.
  static constexpr double kTolerance = std::is_same<T, double>::value ? 1e-11 : 1e-4;

  // The gradient `name` in the order of `found`, which has the file's extents but for `transposed`
  // dimensions.
  template <class U, int Rank, class Reorder>
  static void expect(const Golden& file, const std::string& name, const ssm::View<U, Rank>& found,
                     Reorder reorder) {
    using Wide = std::conditional_t<ssm::is_complex_v<U>, std::complex<double>, double>;
    const ssm::View<U, Rank> stored = reorder(found);
    ssm::Extents<Rank> extents{};
    for (int i = 0; i < Rank; ++i) extents[i] = stored.extent(i);
    const Tensor<Wide, Rank> wanted = file.tensor<Wide, Rank>(name, extents);
    const long double error =
        norm_relative_error(complex_values(stored), complex_values(wanted.view()));
    EXPECT_TRUE(error <= kTolerance) << name << ": " << error;
  }

  template <class S>
  static void check(const Golden& file, int number) {
    SCOPED_TRACE(testing::Message() << "case " << number);
    const std::string prefix = "case" + std::to_string(number) + ".";
    const GoldenScan<T, S> scan(file, number);
    ssm::SelectiveScanGradArgs<T, S> a;
    a.forward = scan.args();
    a.forward.h_last = {};
    a.forward.y = {};
    if (!Types::Target::supports(a)) return;
    const index_t batch = a.forward.x.extent(0), length = a.forward.x.extent(1),
                  channels = a.forward.x.extent(2), d_state = a.forward.A.extent(1);
    const Tensor<T, 3> grad_out = file.tensor<T, 3>(prefix + "grad_out", {batch, channels, length});
    a.dy = grad_out.view().transpose(1, 2);

    const ssm::Extents<3> tokens{batch, length, channels};
    const Tensor<T, 3> dx(tokens), ddt(tokens), dz(tokens);
    const Tensor<S, 2> dA({channels, d_state}), constant_dB({channels, d_state}),
        constant_dC({channels, d_state});
    const Tensor<S, 4> dB({batch, length, a.forward.B.extent(2), d_state});
    const Tensor<S, 4> dC({batch, length, a.forward.C.extent(2), d_state});
    const Tensor<Accum, 1> dD({channels}), ddt_bias({channels});
    const bool constant_b = file.shape(prefix + "B") == file.shape(prefix + "A");
    const bool constant_c = file.shape(prefix + "C") == file.shape(prefix + "A");
    a.dx = dx.view();
    a.ddt = ddt.view();
    a.dz = dz.view();
    a.dA = dA.view();
    a.dB =
        constant_b ? ssm::constant_over_sequence<S>(constant_dB.view(), batch, length) : dB.view();
    a.dC =
        constant_c ? ssm::constant_over_sequence<S>(constant_dC.view(), batch, length) : dC.view();
    a.dD = dD.view();
    a.ddt_bias = ddt_bias.view();
    const ssm::Status status = run<typename Types::Target>(a);
    ASSERT_TRUE(status.is_ok()) << status.message().text;

    const auto as_is = [](const auto& v) { return v; };
    const auto channels_first = [](const auto& v) { return v.transpose(1, 2); };
    const auto tokens_last = [](const auto& v) { return v.transpose(2, 3).transpose(1, 3); };
    expect(file, prefix + "grad.u", dx.view(), channels_first);
    expect(file, prefix + "grad.delta", ddt.view(), channels_first);
    expect(file, prefix + "grad.A", dA.view(), as_is);
    if (constant_b) {
      expect(file, prefix + "grad.B", constant_dB.view(), as_is);
    } else {
      expect(file, prefix + "grad.B", dB.view(), tokens_last);
    }
    if (constant_c) {
      expect(file, prefix + "grad.C", constant_dC.view(), as_is);
    } else {
      expect(file, prefix + "grad.C", dC.view(), tokens_last);
    }
    if (a.forward.D.present()) expect(file, prefix + "grad.D", dD.view(), as_is);
    if (a.forward.z.present()) expect(file, prefix + "grad.z", dz.view(), channels_first);
    if (a.forward.dt_bias.present()) {
      expect(file, prefix + "grad.delta_bias", ddt_bias.view(), as_is);
    }
  }
};

TYPED_TEST_SUITE_P(SelectiveScanBackwardGoldenSuite);

TYPED_TEST_P(SelectiveScanBackwardGoldenSuite, EveryGradientOfEveryCase) {
  using R = ssm::accum_t<typename TypeParam::T>;
  const Golden file("selective_scan_dev.safetensors");
  for (int number = 0; number < kGoldenScans; ++number) {
    if (golden_scan_is_complex(file, number)) {
      this->template check<std::complex<R>>(file, number);
    } else {
      this->template check<R>(file, number);
    }
  }
}

REGISTER_TYPED_TEST_SUITE_P(SelectiveScanBackwardGoldenSuite, EveryGradientOfEveryCase);

}  // namespace ssm_test
