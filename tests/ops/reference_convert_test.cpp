#include "ops/convert_suite.hpp"
#include "ssm/reference/convert.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Reference>;
using Types =
    testing::Types<ConvertTypes<Target, float, ssm::bf16>, ConvertTypes<Target, ssm::bf16, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, ConvertSuite, Types, TypeNames);

}  // namespace ssm_test
