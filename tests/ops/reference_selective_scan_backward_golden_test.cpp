#include "ops/selective_scan_backward_golden_suite.hpp"
#include "ssm/reference/selective_scan_backward.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Reference>;
using Types = testing::Types<GoldenTypes<Target, float>, GoldenTypes<Target, double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, SelectiveScanBackwardGoldenSuite, Types, TypeNames);

}  // namespace ssm_test
