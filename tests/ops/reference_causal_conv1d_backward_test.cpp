#include "ops/causal_conv1d_backward_suite.hpp"
#include "ssm/reference/causal_conv1d_backward.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Reference>;
using Types = testing::Types<ConvGradTypes<Target, float>, ConvGradTypes<Target, double>,
                             ConvGradTypes<Target, ssm::bf16>, ConvGradTypes<Target, ssm::f16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, CausalConv1dBackwardSuite, Types, TypeNames);

}  // namespace ssm_test
