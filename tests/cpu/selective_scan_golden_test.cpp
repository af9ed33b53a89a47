#include "ops/selective_scan_golden_suite.hpp"
#include "ssm/cpu/selective_scan.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Cpu>;
using Types = testing::Types<GoldenTypes<Target, float>, GoldenTypes<Target, double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, SelectiveScanGoldenSuite, Types, TypeNames);

}  // namespace ssm_test
