#include "ops/linear_backward_suite.hpp"
#include "ssm/reference/linear_backward.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Reference>;
using Types = testing::Types<LinearGradTypes<Target, float>, LinearGradTypes<Target, double>,
                             LinearGradTypes<Target, ssm::bf16>, LinearGradTypes<Target, ssm::f16>,
                             LinearGradTypes<Target, ssm::bf16, float>,
                             LinearGradTypes<Target, ssm::bf16, ssm::bf16, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, LinearBackwardSuite, Types, TypeNames);

}  // namespace ssm_test
