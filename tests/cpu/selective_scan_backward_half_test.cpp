#include "ops/selective_scan_backward_suite.hpp"
#include "ssm/cpu/selective_scan_backward.hpp"

namespace ssm_test {

using HalfTypes =
    testing::Types<ScanGradTypes<HostTarget<ssm::Cpu>, ssm::bf16>,
                   ScanGradTypes<HostTarget<ssm::Cpu>, ssm::f16>,
                   ScanGradTypes<HostTarget<ssm::Cpu>, ssm::bf16, std::complex<float>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, SelectiveScanBackwardSuite, HalfTypes, TypeNames);

}  // namespace ssm_test
