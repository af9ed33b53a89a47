#include "ssm/cpu/embedding.hpp"

#include "ops/embedding_suite.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Cpu>;
using Types = testing::Types<EmbeddingTypes<Target, float>, EmbeddingTypes<Target, double>,
                             EmbeddingTypes<Target, ssm::bf16>, EmbeddingTypes<Target, ssm::f16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, EmbeddingSuite, Types, TypeNames);

}  // namespace ssm_test
