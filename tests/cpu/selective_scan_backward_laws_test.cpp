#include "ops/selective_scan_backward_laws_suite.hpp"
#include "ssm/cpu/selective_scan_backward.hpp"

namespace ssm_test {

using Types = testing::Types<ScanGradTypes<HostTarget<ssm::Cpu>, double>,
                             ScanGradTypes<HostTarget<ssm::Cpu>, double, std::complex<double>>,
                             ScanGradTypes<HostTarget<ssm::Cpu>, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, SelectiveScanBackwardLaws, Types, TypeNames);

}  // namespace ssm_test
