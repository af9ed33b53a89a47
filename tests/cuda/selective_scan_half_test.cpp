#include "cuda/device_target.hpp"
#include "ops/selective_scan_suite.hpp"
#include "ssm/cuda/selective_scan.hpp"

namespace ssm_test {

using Types =
    testing::Types<ScanTypes<DeviceTarget<>, ssm::bf16>, ScanTypes<DeviceTarget<>, ssm::f16>,
                   ScanTypes<DeviceTarget<>, ssm::bf16, std::complex<float>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, SelectiveScanSuite, Types, TypeNames);

// The same captured into a graph.
using Captured = testing::Types<ScanTypes<DeviceTarget<Execution::graph>, ssm::bf16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(CudaGraph, SelectiveScanSuite, Captured, TypeNames);

}  // namespace ssm_test
