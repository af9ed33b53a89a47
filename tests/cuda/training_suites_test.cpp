#include "block/mamba_block_training_suite.hpp"
#include "cuda/on_device.hpp"
#include "model/language_model_training_suite.hpp"
#include "ssm/cuda/adamw.hpp"
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
#include "ssm/cuda/sum_of_squares.hpp"
#include "train/optimizer_suite.hpp"
#include "train/training_step_suite.hpp"

// The suites of training that every backend runs, on the device.
namespace ssm_test {

using Blocks = ::testing::Types<OnDevice<double>, OnDevice<float>, OnDevice<ssm::bf16>,
                                OnDevice<ssm::f16>, OnDevice<float, Products::own>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, MambaBlockTrainingSuite, Blocks);

using Models = ::testing::Types<OnDevice<double>, OnDevice<float>, OnDevice<ssm::bf16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, LanguageModelTrainingSuite, Models);
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, OptimizerSuite, Models);
INSTANTIATE_TYPED_TEST_SUITE_P(Cuda, TrainingStepSuite, Models);

}  // namespace ssm_test
