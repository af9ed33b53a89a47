#include "cuda/device_target.hpp"
#include "ops/causal_conv1d_backward_suite.hpp"
#include "ops/linear_backward_suite.hpp"
#include "ops/rms_norm_backward_suite.hpp"
#include "ops/token_gradients_suite.hpp"
#include "ssm/cuda/causal_conv1d_backward.hpp"
#include "ssm/cuda/cross_entropy.hpp"
#include "ssm/cuda/embedding_backward.hpp"
#include "ssm/cuda/linear_backward.hpp"
#include "ssm/cuda/residual_add.hpp"
#include "ssm/cuda/rms_norm_backward.hpp"

namespace ssm_test {

using Target = DeviceTarget<>;
using Captured = DeviceTarget<Execution::graph>;
using OwnProducts = DeviceTarget<Execution::stream, Products::own>;

using Convs = testing::Types<ConvGradTypes<Target, float>, ConvGradTypes<Target, double>,
                             ConvGradTypes<Target, ssm::bf16>, ConvGradTypes<Target, ssm::f16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, CausalConv1dBackwardSuite, Convs, TypeNames);
using CapturedConvs = testing::Types<ConvGradTypes<Captured, ssm::bf16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(CudaGraph, CausalConv1dBackwardSuite, CapturedConvs, TypeNames);

using Norms = testing::Types<NormGradTypes<Target, float>, NormGradTypes<Target, double>,
                             NormGradTypes<Target, ssm::bf16>, NormGradTypes<Target, ssm::f16>,
                             NormGradTypes<Target, ssm::bf16, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, RmsNormBackwardSuite, Norms, TypeNames);
using CapturedNorms = testing::Types<NormGradTypes<Captured, ssm::bf16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(CudaGraph, RmsNormBackwardSuite, CapturedNorms, TypeNames);

// bf16 beside a float dy is rounded to bf16 for cuBLASLt: the suite's bounds are those of the
// library's own products. The training of whole models holds the other way to a bound of its own.
template <class T>
using LinearsOf = testing::Types<LinearGradTypes<T, float>, LinearGradTypes<T, double>,
                                 LinearGradTypes<T, ssm::bf16>, LinearGradTypes<T, ssm::f16>,
                                 LinearGradTypes<T, ssm::f16, float>,
                                 LinearGradTypes<T, ssm::bf16, ssm::bf16, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(CudaBlas, LinearBackwardSuite, LinearsOf<Target>, TypeNames);
INSTANTIATE_TYPED_TEST_SUITE_P(CudaBlasGraph, LinearBackwardSuite, LinearsOf<Captured>, TypeNames);
INSTANTIATE_TYPED_TEST_SUITE_P(CudaOwn, LinearBackwardSuite, LinearsOf<OwnProducts>, TypeNames);
using MixedOwn = testing::Types<LinearGradTypes<OwnProducts, ssm::bf16, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(CudaOwnMixed, LinearBackwardSuite, MixedOwn, TypeNames);

using Tokens = testing::Types<OnTarget<Target, float>, OnTarget<Target, double>,
                              OnTarget<Target, ssm::bf16>, OnTarget<Captured, ssm::f16>>;
using Reals = testing::Types<OnTarget<Target, float>, OnTarget<Captured, double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, EmbeddingBackwardSuite, Tokens, TypeNames);
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, ResidualAddSuite, Tokens, TypeNames);
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, CrossEntropySuite, Reals, TypeNames);

}  // namespace ssm_test
