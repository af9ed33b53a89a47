#include "ssm/cpu/selective_scan.hpp"

#include "ops/selective_scan_suite.hpp"

namespace ssm_test {

using HalfTypes = testing::Types<ScanTypes<HostTarget<ssm::Cpu>, ssm::bf16>,
                                 ScanTypes<HostTarget<ssm::Cpu>, ssm::f16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, SelectiveScanSuite, HalfTypes, TypeNames);

}  // namespace ssm_test
