#include "ssm/cpu/rms_norm.hpp"

#include "ops/rms_norm_suite.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Cpu>;
using Types = testing::Types<NormTypes<Target, float>, NormTypes<Target, double>,
                             NormTypes<Target, ssm::bf16>, NormTypes<Target, ssm::f16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, RmsNormSuite, Types, TypeNames);

}  // namespace ssm_test
