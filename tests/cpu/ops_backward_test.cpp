#include "ops/causal_conv1d_backward_suite.hpp"
#include "ops/linear_backward_suite.hpp"
#include "ops/rms_norm_backward_suite.hpp"
#include "ops/token_gradients_suite.hpp"
#include "ssm/cpu/causal_conv1d_backward.hpp"
#include "ssm/cpu/cross_entropy.hpp"
#include "ssm/cpu/embedding_backward.hpp"
#include "ssm/cpu/linear_backward.hpp"
#include "ssm/cpu/residual_add.hpp"
#include "ssm/cpu/rms_norm_backward.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Cpu>;

using ConvGrads = testing::Types<ConvGradTypes<Target, float>, ConvGradTypes<Target, double>,
                                 ConvGradTypes<Target, ssm::bf16>, ConvGradTypes<Target, ssm::f16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, CausalConv1dBackwardSuite, ConvGrads, TypeNames);

using LinearGrads =
    testing::Types<LinearGradTypes<Target, float>, LinearGradTypes<Target, double>,
                   LinearGradTypes<Target, ssm::bf16>, LinearGradTypes<Target, ssm::f16>,
                   LinearGradTypes<Target, ssm::bf16, float>,
                   LinearGradTypes<Target, ssm::bf16, ssm::bf16, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, LinearBackwardSuite, LinearGrads, TypeNames);

using NormGrads = testing::Types<NormGradTypes<Target, float>, NormGradTypes<Target, double>,
                                 NormGradTypes<Target, ssm::bf16>, NormGradTypes<Target, ssm::f16>,
                                 NormGradTypes<Target, ssm::bf16, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, RmsNormBackwardSuite, NormGrads, TypeNames);

using Types = testing::Types<OnTarget<Target, float>, OnTarget<Target, double>,
                             OnTarget<Target, ssm::bf16>, OnTarget<Target, ssm::f16>>;
using RealTypes = testing::Types<OnTarget<Target, float>, OnTarget<Target, double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, EmbeddingBackwardSuite, Types, TypeNames);
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, ResidualAddSuite, Types, TypeNames);
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, CrossEntropySuite, RealTypes, TypeNames);

}  // namespace ssm_test
