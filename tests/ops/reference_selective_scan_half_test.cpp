#include "ops/selective_scan_suite.hpp"
#include "ssm/reference/selective_scan.hpp"

namespace ssm_test {

using HalfTypes =
    testing::Types<ScanTypes<HostTarget<ssm::Reference>, ssm::bf16>,
                   ScanTypes<HostTarget<ssm::Reference>, ssm::f16>,
                   ScanTypes<HostTarget<ssm::Reference>, ssm::bf16, std::complex<float>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, SelectiveScanSuite, HalfTypes, TypeNames);

}  // namespace ssm_test
