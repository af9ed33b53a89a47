#include "ops/selective_scan_laws_suite.hpp"
#include "ssm/reference/selective_scan.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Reference>;
using Types = testing::Types<ScanTypes<Target, float>, ScanTypes<Target, double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, SelectiveScanLaws, Types, TypeNames);

}  // namespace ssm_test
