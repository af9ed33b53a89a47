#include "ops/rms_norm_suite.hpp"
#include "ssm/reference/rms_norm.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Reference>;
using Types = testing::Types<NormTypes<Target, float>, NormTypes<Target, double>,
                             NormTypes<Target, ssm::bf16>, NormTypes<Target, ssm::f16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, RmsNormSuite, Types, TypeNames);

}  // namespace ssm_test
