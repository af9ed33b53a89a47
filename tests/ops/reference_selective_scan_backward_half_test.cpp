#include "ops/selective_scan_backward_suite.hpp"
#include "ssm/reference/selective_scan_backward.hpp"

namespace ssm_test {

using HalfTypes =
    testing::Types<ScanGradTypes<HostTarget<ssm::Reference>, ssm::bf16>,
                   ScanGradTypes<HostTarget<ssm::Reference>, ssm::f16>,
                   ScanGradTypes<HostTarget<ssm::Reference>, ssm::bf16, std::complex<float>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, SelectiveScanBackwardSuite, HalfTypes, TypeNames);

}  // namespace ssm_test
