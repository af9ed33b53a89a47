#include "cuda/on_device.hpp"
#include "golden/language_model_gradient_golden_suite.hpp"
#include "ssm/cuda/causal_conv1d.hpp"
#include "ssm/cuda/causal_conv1d_backward.hpp"
#include "ssm/cuda/cross_entropy.hpp"
#include "ssm/cuda/embedding.hpp"
#include "ssm/cuda/embedding_backward.hpp"
#include "ssm/cuda/linear.hpp"
#include "ssm/cuda/linear_backward.hpp"
#include "ssm/cuda/residual_add.hpp"
#include "ssm/cuda/rms_norm.hpp"
#include "ssm/cuda/rms_norm_backward.hpp"
#include "ssm/cuda/selective_scan.hpp"
#include "ssm/cuda/selective_scan_backward.hpp"
#include "ssm/cuda/state_matrix.hpp"

namespace ssm_test {

using GradientTypes = ::testing::Types<OnDevice<float>, OnDevice<double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, LanguageModelGradientGoldenSuite, GradientTypes);

}  // namespace ssm_test
