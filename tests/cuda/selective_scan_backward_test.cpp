#include "ssm/cuda/selective_scan_backward.hpp"
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

using GoldenScans = testing::Types<GoldenTypes<Target, float>, GoldenTypes<Target, double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, SelectiveScanBackwardGoldenSuite, GoldenScans, TypeNames);

}  // namespace ssm_test
