#include "ssm/cpu/convert.hpp"
#include "ops/convert_suite.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Cpu>;
using Types =
    testing::Types<ConvertTypes<Target, float, ssm::bf16>, ConvertTypes<Target, ssm::bf16, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, ConvertSuite, Types, TypeNames);

}  // namespace ssm_test
