#include "ops/linear_suite.hpp"
#include "ssm/cpu/linear.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Cpu>;
using Types = testing::Types<LinearTypes<Target, float>, LinearTypes<Target, double>,
                             LinearTypes<Target, ssm::bf16>, LinearTypes<Target, ssm::f16>,
                             LinearTypes<Target, ssm::bf16, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, LinearSuite, Types, TypeNames);

}  // namespace ssm_test
