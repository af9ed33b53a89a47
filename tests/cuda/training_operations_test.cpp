#include <cmath>
#include <vector>

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

// Host backends refuse such a target. Here the loss and its position's gradient show it.
TEST(CudaTraining, TargetsOutsideTheVocabularyMakeNaN) {
  for (const index_t target : {-1, 7, 1 << 30}) {
    const CrossEntropySuite<OnTarget<Target, float>>::Problem p;
    p.targets(1, 2) = target;
    ASSERT_TRUE(run<Target>(p.args()).is_ok());
    EXPECT_TRUE(std::isnan(p.loss(0)));
    for (index_t b = 0; b < 2; ++b) {
      for (index_t t = 0; t < 5; ++t) {
        for (index_t v = 0; v < 7; ++v) {
          EXPECT_EQ(std::isnan(p.dlogits.tensor(b, t, v)), b == 1 && t == 2) << b << " " << t;
        }
      }
    }
    EXPECT_TRUE(p.dlogits.tensor.guards_intact());
  }
}

// Token ids are not checked either: one outside the vocabulary adds nothing.
TEST(CudaTraining, IdsOutsideTheVocabularyAddNothing) {
  const Tensor<index_t, 2> ids({1, 6});
  const Tensor<float, 3> dy({1, 6, 2});
  const Tensor<float, 2> dweight({4, 2});
  const index_t values[] = {-1, 3, 4, 0, index_t{1} << 40, 3};
  for (index_t t = 0; t < 6; ++t) ids(0, t) = values[t];
  dy.fill(2);
  const ssm::EmbeddingGradArgs<float> a{ids.view(), dy.view(), dweight.view()};
  ASSERT_TRUE(run<Target>(a).is_ok());
  EXPECT_EQ(dweight.values(), (std::vector<float>{2, 2, 0, 0, 0, 0, 4, 4}));
  EXPECT_TRUE(dweight.guards_intact());
}

// More tokens than the blocks take at once.
TEST(CudaTraining, ManyTokens) {
  for (const index_t features : {5, 1027}) {
    NormGradCase c;
    c.batch = 3;
    c.length = features == 5 ? 7001 : 61;
    c.features = features;
    c.gate = false;
    RmsNormBackwardSuite<NormGradTypes<Target, float>>::check(c);
    c.residual = c.in_place = true;
    RmsNormBackwardSuite<NormGradTypes<Target, ssm::bf16>>::check(c);
  }
  for (const index_t width : {3, 4, 5}) {
    ConvGradCase c;
    c.conv.batch = 2;
    c.conv.length = 40001;
    c.conv.channels = 2;
    c.conv.width = width;
    CausalConv1dBackwardSuite<ConvGradTypes<Target, float>>::check(c);
    c.conv.batch = 1;
    c.conv.partition.starts = {0, 17, 20000, 40001};
    CausalConv1dBackwardSuite<ConvGradTypes<Target, ssm::bf16>>::check(c);
  }
}

// Where rows have octets and there is no gate: around every number of threads per token, and more
// tokens than a block takes at once.
template <class T>
class CudaOctetGradients : public testing::Test {};
using OctetTypes = testing::Types<float, ssm::bf16, ssm::f16>;
TYPED_TEST_SUITE(CudaOctetGradients, OctetTypes);

TYPED_TEST(CudaOctetGradients, Norms) {
  for (int bits = 0; bits < 16; ++bits) {
    NormGradCase c;
    c.gate = false;
    c.residual = (bits & 1) != 0;
    c.weight = (bits & 2) != 0;
    c.later = (bits & 4) != 0;
    c.in_place = c.later && (bits & 8) != 0;
    for (const index_t features : {8, 264, 1032}) {
      c.features = features;
      c.length = features == 8 ? 67 : 2;
      RmsNormBackwardSuite<NormGradTypes<Target, TypeParam>>::check(c);
      RmsNormBackwardSuite<NormGradTypes<Target, TypeParam, float>>::check(c);
    }
  }
  for (const index_t features : {1024, 4096, 4104, 8192, 8200}) {
    NormGradCase c;
    c.gate = false;
    c.features = features;
    c.batch = c.length = 1;
    RmsNormBackwardSuite<NormGradTypes<Target, TypeParam>>::check(c);
  }
  for (const ssm::GradMode inputs : kGradModes) {
    for (const ssm::GradMode parameters : kGradModes) {
      NormGradCase c;
      c.features = 40;
      c.gate = false;
      c.inputs = inputs;
      c.parameters = parameters;
      RmsNormBackwardSuite<NormGradTypes<Target, TypeParam>>::check(c);
    }
  }
  NormGradCase c;
  c.features = 16;
  c.gate = false;
  c.length = 9001;  // beyond 256 segments of 32 tokens
  RmsNormBackwardSuite<NormGradTypes<Target, TypeParam>>::check(c);
}

}  // namespace ssm_test
