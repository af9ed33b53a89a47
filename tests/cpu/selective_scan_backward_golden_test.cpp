#include "ops/selective_scan_backward_golden_suite.hpp"
#include "ssm/cpu/selective_scan_backward.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Cpu>;
using Types = testing::Types<GoldenTypes<Target, float>, GoldenTypes<Target, double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, SelectiveScanBackwardGoldenSuite, Types, TypeNames);

}  // namespace ssm_test
