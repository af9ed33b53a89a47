#include "ops/selective_scan_backward_laws_suite.hpp"
#include "ssm/reference/selective_scan_backward.hpp"

namespace ssm_test {

using Types =
    testing::Types<ScanGradTypes<HostTarget<ssm::Reference>, double>,
                   ScanGradTypes<HostTarget<ssm::Reference>, double, std::complex<double>>,
                   ScanGradTypes<HostTarget<ssm::Reference>, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, SelectiveScanBackwardLaws, Types, TypeNames);

}  // namespace ssm_test
