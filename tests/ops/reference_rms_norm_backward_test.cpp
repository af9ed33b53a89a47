#include "ops/rms_norm_backward_suite.hpp"
#include "ssm/reference/rms_norm_backward.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Reference>;
using Types = testing::Types<NormGradTypes<Target, float>, NormGradTypes<Target, double>,
                             NormGradTypes<Target, ssm::bf16>, NormGradTypes<Target, ssm::f16>,
                             NormGradTypes<Target, ssm::bf16, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, RmsNormBackwardSuite, Types, TypeNames);

}  // namespace ssm_test
