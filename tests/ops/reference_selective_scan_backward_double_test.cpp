#include "ops/selective_scan_backward_suite.hpp"
#include "ssm/reference/selective_scan_backward.hpp"

namespace ssm_test {

using DoubleTypes =
    testing::Types<ScanGradTypes<HostTarget<ssm::Reference>, double>,
                   ScanGradTypes<HostTarget<ssm::Reference>, double, std::complex<double>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, SelectiveScanBackwardSuite, DoubleTypes, TypeNames);

}  // namespace ssm_test
