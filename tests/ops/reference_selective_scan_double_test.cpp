#include "ops/selective_scan_suite.hpp"
#include "ssm/reference/selective_scan.hpp"

namespace ssm_test {

using DoubleTypes =
    testing::Types<ScanTypes<HostTarget<ssm::Reference>, double>,
                   ScanTypes<HostTarget<ssm::Reference>, double, std::complex<double>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, SelectiveScanSuite, DoubleTypes, TypeNames);

}  // namespace ssm_test
