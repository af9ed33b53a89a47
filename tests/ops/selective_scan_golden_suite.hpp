#pragma once

#include "ops/golden_scan.hpp"

// golden/selective_scan_dev: `selective_scan_ref` of mamba_ssm in float64, eleven cases.
//
//   using Types = testing::Types<GoldenTypes<HostTarget<ssm::Cpu>, float>, …>;
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, SelectiveScanGoldenSuite, Types, TypeNames);
namespace ssm_test {

template <class Types>
class SelectiveScanGoldenSuite : public testing::Test {
 public:
  // Relative to the norm of the whole result.
  static constexpr double kTolerance =
      std::is_same<typename Types::T, double>::value ? 1e-12 : 1e-5;

  template <class S>
  static void check(const Golden& file, int number) {
    const GoldenScan<typename Types::T, S> scan(file, number);
    for (const ssm::ScanMode mode :
         {ssm::ScanMode::sequential, ssm::ScanMode::associative, ssm::ScanMode::accurate}) {
      SCOPED_TRACE(testing::Message() << "case " << number << " mode " << static_cast<int>(mode));
      auto args = scan.args();
      args.mode = mode;
      scan.y.poison();
      scan.h_last.poison();
      if (!Types::Target::supports(args)) continue;
      const ssm::Status status = run<typename Types::Target>(args);
      ASSERT_TRUE(status.is_ok()) << status.message().text;
      EXPECT_LE(norm_relative_error(complex_values(scan.y.view()), scan.wanted_y()), kTolerance);
      EXPECT_LE(norm_relative_error(complex_values(scan.h_last.view()), scan.last_state),
                kTolerance);
      EXPECT_TRUE(scan.y.guards_intact());
      EXPECT_TRUE(scan.h_last.guards_intact());
    }
  }
};

TYPED_TEST_SUITE_P(SelectiveScanGoldenSuite);

TYPED_TEST_P(SelectiveScanGoldenSuite, EveryCaseInEveryMode) {
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

REGISTER_TYPED_TEST_SUITE_P(SelectiveScanGoldenSuite, EveryCaseInEveryMode);

}  // namespace ssm_test
