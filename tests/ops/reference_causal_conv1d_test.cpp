#include "ops/causal_conv1d_suite.hpp"
#include "ssm/reference/causal_conv1d.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Reference>;
using Types = testing::Types<ConvTypes<Target, float>, ConvTypes<Target, double>,
                             ConvTypes<Target, ssm::bf16>, ConvTypes<Target, ssm::f16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, CausalConv1dSuite, Types, TypeNames);

}  // namespace ssm_test
