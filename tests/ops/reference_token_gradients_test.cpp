#include "ops/token_gradients_suite.hpp"
#include "ssm/reference/cross_entropy.hpp"
#include "ssm/reference/embedding_backward.hpp"
#include "ssm/reference/residual_add.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Reference>;
using Types = testing::Types<OnTarget<Target, float>, OnTarget<Target, double>,
                             OnTarget<Target, ssm::bf16>, OnTarget<Target, ssm::f16>>;
using RealTypes = testing::Types<OnTarget<Target, float>, OnTarget<Target, double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, EmbeddingBackwardSuite, Types, TypeNames);
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, ResidualAddSuite, Types, TypeNames);
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, CrossEntropySuite, RealTypes, TypeNames);

}  // namespace ssm_test
