#include "ops/selective_scan_golden_suite.hpp"
#include "ssm/reference/selective_scan.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Reference>;
using Types = testing::Types<GoldenTypes<Target, float>, GoldenTypes<Target, double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, SelectiveScanGoldenSuite, Types, TypeNames);

}  // namespace ssm_test
