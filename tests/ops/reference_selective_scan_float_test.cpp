#include "ops/selective_scan_suite.hpp"
#include "ssm/reference/selective_scan.hpp"

namespace ssm_test {

using FloatTypes =
    testing::Types<ScanTypes<HostTarget<ssm::Reference>, float>,
                   ScanTypes<HostTarget<ssm::Reference>, float, std::complex<float>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, SelectiveScanSuite, FloatTypes, TypeNames);

}  // namespace ssm_test
