#include "ssm/cuda/selective_scan_backward.hpp"

#include <cmath>
#include <cstdio>
#include <limits>
#include <string>
#include <vector>

#include "cuda/device_target.hpp"
#include "ops/selective_scan_backward_golden_suite.hpp"
#include "ops/selective_scan_backward_laws_suite.hpp"
#include "ops/selective_scan_backward_suite.hpp"
#include "ssm/cuda/selective_scan.hpp"

namespace ssm_test {

using Target = DeviceTarget<>;
using Captured = DeviceTarget<Execution::graph>;

using Types =
    testing::Types<ScanGradTypes<Target, float>, ScanGradTypes<Target, float, std::complex<float>>,
                   ScanGradTypes<Target, double>,
                   ScanGradTypes<Target, double, std::complex<double>>,
                   ScanGradTypes<Target, ssm::bf16>, ScanGradTypes<Target, ssm::f16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, SelectiveScanBackwardSuite, Types, TypeNames);
using CapturedTypes = testing::Types<ScanGradTypes<Captured, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(CudaGraph, SelectiveScanBackwardSuite, CapturedTypes, TypeNames);

using LawTypes = testing::Types<ScanGradTypes<Target, double>, ScanGradTypes<Target, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, SelectiveScanBackwardLaws, LawTypes, TypeNames);

// A decay rate of -infinity forgets at once, and so does one that is merely huge: also where the
// last tile has tokens past the end, whose step is zero.
TEST(CudaSelectiveScanBackward, InfiniteRatesForgetLikeHugeOnes) {
  const auto outputs = [](float rate) {
    ScanGradCase c;
    c.scan.length = 21;
    c.scan.groups_b = c.scan.groups_c = 1;  // one path has tiles
    const ScanGradProblem<float, float> p(c);
    p.forward.A(1, 2) = p.forward.A(5, 0) = rate;
    EXPECT_TRUE(run<Target>(p.args()).is_ok());
    std::vector<double> values;
    const auto add = [&](const auto& gradient) {
      for (const float v : gradient.tensor.values()) values.push_back(static_cast<double>(v));
    };
    add(p.dx), add(p.ddt), add(p.dz), add(p.dB), add(p.dC), add(p.dh0), add(p.dA), add(p.dD);
    return values;
  };
  const std::vector<double> huge = outputs(-1e30f);
  for (const double v : huge) ASSERT_TRUE(std::isfinite(v));
  EXPECT_EQ(outputs(-std::numeric_limits<float>::infinity()), huge);
}

// The norm-relative error of every gradient over 4096 tokens, cut into chunks and, as a packed
// sequence, uncut. Each is recorded: --gtest_output=xml shows them.
template <class T>
void expect_errors_below(double bound) {
  for (const bool packed : {false, true}) {
    ScanGradCase c;
    c.scan.batch = 1;
    c.scan.length = 4096;
    c.scan.channels = 64;
    c.scan.d_state = 16;
    c.scan.groups_b = c.scan.groups_c = 1;
    if (packed) c.scan.partition.starts = {0, c.scan.length};
    const ScanGradProblem<T, float> p(c);
    const oracle::ScanGradient wanted = p.expected();
    ASSERT_TRUE(run<Target>(p.args()).is_ok());
    const auto check = [&](const std::string& name, const auto& gradient, const auto& reference) {
      const std::vector<oracle::Complex> here = complex_values(gradient.tensor.view());
      const std::vector<oracle::Complex> there(reference.begin(), reference.end());
      const auto error = static_cast<double>(norm_relative_error(here, there));
      char text[32];
      std::snprintf(text, sizeof text, "%.2e", error);
      testing::Test::RecordProperty(name + (packed ? "_uncut" : "_cut"), text);
      EXPECT_TRUE(error <= bound) << name << (packed ? " uncut: " : " cut: ") << error;
    };
    check("dx", p.dx, wanted.dx);
    check("ddt", p.ddt, wanted.ddt);
    check("dz", p.dz, wanted.dz);
    check("dB", p.dB, wanted.dB);
    check("dC", p.dC, wanted.dC);
    check("dh0", p.dh0, wanted.dh0);
    check("dA", p.dA, wanted.dA);
    check("dA_log", p.dA_log, wanted.dA_log);
    check("dD", p.dD, wanted.dD);
    check("ddt_bias", p.ddt_bias, wanted.ddt_bias);
  }
}
TEST(CudaSelectiveScanBackward, ErrorsOfLongSequencesInFloat) { expect_errors_below<float>(1e-5); }
TEST(CudaSelectiveScanBackward, ErrorsOfLongSequencesInBf16) {
  expect_errors_below<ssm::bf16>(2e-2);
}

using GoldenScans = testing::Types<GoldenTypes<Target, float>, GoldenTypes<Target, double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, SelectiveScanBackwardGoldenSuite, GoldenScans, TypeNames);

}  // namespace ssm_test
