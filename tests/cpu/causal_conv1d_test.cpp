#include "ssm/cpu/causal_conv1d.hpp"

#include "ops/causal_conv1d_suite.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Cpu>;
using Types = testing::Types<ConvTypes<Target, float>, ConvTypes<Target, double>,
                             ConvTypes<Target, ssm::bf16>, ConvTypes<Target, ssm::f16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, CausalConv1dSuite, Types, TypeNames);

}  // namespace ssm_test
