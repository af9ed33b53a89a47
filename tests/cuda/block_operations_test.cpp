#include "cuda/device_target.hpp"
#include "ops/causal_conv1d_suite.hpp"
#include "ops/convert_suite.hpp"
#include "ops/embedding_suite.hpp"
#include "ops/linear_suite.hpp"
#include "ops/rms_norm_suite.hpp"
#include "ssm/cuda/causal_conv1d.hpp"
#include "ssm/cuda/convert.hpp"
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

using Conversions = testing::Types<ConvertTypes<Target, float, ssm::bf16>,
                                   ConvertTypes<Captured, ssm::bf16, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, ConvertSuite, Conversions, TypeNames);

template <class T>
using LinearsOf =
    testing::Types<LinearTypes<T, float>, LinearTypes<T, double>, LinearTypes<T, ssm::bf16>,
                   LinearTypes<T, ssm::f16>, LinearTypes<T, ssm::bf16, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(CudaBlas, LinearSuite, LinearsOf<Target>, TypeNames);
INSTANTIATE_TYPED_TEST_SUITE_P(CudaBlasGraph, LinearSuite, LinearsOf<Captured>, TypeNames);
INSTANTIATE_TYPED_TEST_SUITE_P(CudaOwn, LinearSuite, LinearsOf<OwnProducts>, TypeNames);

// Where rows have octets and there is no gate: around every number of threads per token.
template <class T>
class CudaOctets : public testing::Test {};
using OctetTypes = testing::Types<float, ssm::bf16, ssm::f16>;
TYPED_TEST_SUITE(CudaOctets, OctetTypes);

TYPED_TEST(CudaOctets, Norms) {
  for (const index_t features :
       {8, 16, 248, 256, 264, 768, 1016, 1024, 1032, 2560, 4088, 4096, 4104, 8184, 8192, 8200}) {
    for (int bits = 0; bits < 8; ++bits) {
      NormCase c;
      c.features = features;
      c.gate = false;
      c.length = bits == 0 ? 9 : 3;
      c.residual = (bits & 1) != 0;
      c.weight = (bits & 2) != 0;
      c.in_place = (bits & 4) != 0;
      c.x = c.in_place || features != 768 || !c.residual;
      RmsNormSuite<NormTypes<Target, TypeParam>>::check(c);
    }
  }
}

TYPED_TEST(CudaOctets, Convolutions) {
  for (const index_t width : {2, 3, 4}) {
    for (const index_t length : {9, 11, 12, 13, 15, 16, 17, 23, 24, 25, 31, 32, 33, 200}) {
      ConvCase c;
      c.width = width;
      c.length = length;
      c.channels = length % 2 == 0 ? 8 : 40;
      c.initial = length % 3 != 0;
      c.bias = length % 5 != 0;
      c.silu = length != 17;
      CausalConv1dSuite<ConvTypes<Target, TypeParam>>::check(c);
    }
    ConvCase c;
    c.width = width;
    c.batch = 6;
    c.length = 40;
    c.channels = 16;
    c.partition.lengths = {40, 0, 1, 13, 16, 39};
    CausalConv1dSuite<ConvTypes<Target, TypeParam>>::check(c);
  }
}

}  // namespace ssm_test
