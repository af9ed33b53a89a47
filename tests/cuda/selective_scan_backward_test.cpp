#include "ssm/cuda/selective_scan_backward.hpp"

#include <cmath>
#include <limits>
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

using GoldenScans = testing::Types<GoldenTypes<Target, float>, GoldenTypes<Target, double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, SelectiveScanBackwardGoldenSuite, GoldenScans, TypeNames);

}  // namespace ssm_test
