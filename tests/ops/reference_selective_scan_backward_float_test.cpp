#include "ops/selective_scan_backward_suite.hpp"
#include "ssm/reference/selective_scan_backward.hpp"

namespace ssm_test {

using FloatTypes =
    testing::Types<ScanGradTypes<HostTarget<ssm::Reference>, float>,
                   ScanGradTypes<HostTarget<ssm::Reference>, float, std::complex<float>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, SelectiveScanBackwardSuite, FloatTypes, TypeNames);

}  // namespace ssm_test
