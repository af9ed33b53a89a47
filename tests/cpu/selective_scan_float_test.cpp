#include "ssm/cpu/selective_scan.hpp"

#include "ops/selective_scan_suite.hpp"

namespace ssm_test {

using FloatTypes = testing::Types<ScanTypes<HostTarget<ssm::Cpu>, float>,
                                  ScanTypes<HostTarget<ssm::Cpu>, float, std::complex<float>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, SelectiveScanSuite, FloatTypes, TypeNames);

}  // namespace ssm_test
