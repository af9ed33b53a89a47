#include "ops/embedding_suite.hpp"
#include "ssm/reference/embedding.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Reference>;
using Types = testing::Types<EmbeddingTypes<Target, float>, EmbeddingTypes<Target, double>,
                             EmbeddingTypes<Target, ssm::bf16>, EmbeddingTypes<Target, ssm::f16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, EmbeddingSuite, Types, TypeNames);

}  // namespace ssm_test
