#include "cuda/device_target.hpp"
#include "ops/selective_scan_suite.hpp"
#include "ssm/cuda/selective_scan.hpp"

namespace ssm_test {

using Types = testing::Types<
    ScanTypes<DeviceTarget<>, float>, ScanTypes<DeviceTarget<>, float, std::complex<float>>,
    ScanTypes<DeviceTarget<>, double>, ScanTypes<DeviceTarget<>, double, std::complex<double>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, SelectiveScanSuite, Types, TypeNames);

}  // namespace ssm_test
