#include "ops/selective_scan_backward_suite.hpp"
#include "ssm/cpu/selective_scan_backward.hpp"

namespace ssm_test {

using FloatTypes = testing::Types<ScanGradTypes<HostTarget<ssm::Cpu>, float>,
                                  ScanGradTypes<HostTarget<ssm::Cpu>, float, std::complex<float>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, SelectiveScanBackwardSuite, FloatTypes, TypeNames);

}  // namespace ssm_test
