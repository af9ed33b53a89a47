#include "ssm/cpu/selective_scan.hpp"

#include "ops/selective_scan_suite.hpp"

namespace ssm_test {

using DoubleTypes = testing::Types<ScanTypes<HostTarget<ssm::Cpu>, double>,
                                   ScanTypes<HostTarget<ssm::Cpu>, double, std::complex<double>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, SelectiveScanSuite, DoubleTypes, TypeNames);

}  // namespace ssm_test
