#include "ops/selective_scan_suite.hpp"
#include "ssm/reference/selective_scan.hpp"

namespace ssm_test {

using LongDoubleTypes = testing::Types<ScanTypes<HostTarget<ssm::Reference>, long double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, SelectiveScanSuite, LongDoubleTypes, TypeNames);

}  // namespace ssm_test
