#include "cuda/device_target.hpp"
#include "ops/causal_conv1d_suite.hpp"
#include "ops/embedding_suite.hpp"
#include "ops/linear_suite.hpp"
#include "ops/rms_norm_suite.hpp"
#include "ssm/cuda/causal_conv1d.hpp"
#include "ssm/cuda/embedding.hpp"
#include "ssm/cuda/linear.hpp"
#include "ssm/cuda/rms_norm.hpp"

namespace ssm_test {

using Target = DeviceTarget<>;
using Captured = DeviceTarget<Execution::graph>;
using OwnProducts = DeviceTarget<Execution::stream, Products::own>;

using Convs = testing::Types<ConvTypes<Target, float>, ConvTypes<Target, double>,
                             ConvTypes<Target, ssm::bf16>, ConvTypes<Target, ssm::f16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, CausalConv1dSuite, Convs, TypeNames);
using CapturedConvs = testing::Types<ConvTypes<Captured, ssm::bf16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(CudaGraph, CausalConv1dSuite, CapturedConvs, TypeNames);

using Norms = testing::Types<NormTypes<Target, float>, NormTypes<Target, double>,
                             NormTypes<Target, ssm::bf16>, NormTypes<Target, ssm::f16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, RmsNormSuite, Norms, TypeNames);
using CapturedNorms = testing::Types<NormTypes<Captured, ssm::bf16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(CudaGraph, RmsNormSuite, CapturedNorms, TypeNames);

using Embeddings =
    testing::Types<EmbeddingTypes<Target, float>, EmbeddingTypes<Target, double>,
                   EmbeddingTypes<Target, ssm::bf16>, EmbeddingTypes<Captured, ssm::f16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, EmbeddingSuite, Embeddings, TypeNames);

template <class T>
using LinearsOf =
    testing::Types<LinearTypes<T, float>, LinearTypes<T, double>, LinearTypes<T, ssm::bf16>,
                   LinearTypes<T, ssm::f16>, LinearTypes<T, ssm::bf16, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(CudaBlas, LinearSuite, LinearsOf<Target>, TypeNames);
INSTANTIATE_TYPED_TEST_SUITE_P(CudaBlasGraph, LinearSuite, LinearsOf<Captured>, TypeNames);
INSTANTIATE_TYPED_TEST_SUITE_P(CudaOwn, LinearSuite, LinearsOf<OwnProducts>, TypeNames);

}  // namespace ssm_test
