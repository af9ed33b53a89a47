#include "ops/selective_scan_backward_suite.hpp"
#include "ssm/cpu/selective_scan_backward.hpp"

namespace ssm_test {

using DoubleTypes =
    testing::Types<ScanGradTypes<HostTarget<ssm::Cpu>, double>,
                   ScanGradTypes<HostTarget<ssm::Cpu>, double, std::complex<double>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, SelectiveScanBackwardSuite, DoubleTypes, TypeNames);

}  // namespace ssm_test
