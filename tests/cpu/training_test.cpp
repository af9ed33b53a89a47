#include "block/mamba_block_training_suite.hpp"
#include "model/language_model_training_suite.hpp"
#include "ssm/ssm.hpp"
#include "train/optimizer_suite.hpp"
#include "train/training_step_suite.hpp"

namespace ssm_test {

using BlockTypes = ::testing::Types<On<ssm::Cpu, double>, On<ssm::Cpu, float>,
                                    On<ssm::Cpu, ssm::bf16>, On<ssm::Cpu, ssm::f16>>;
using ModelTypes =
    ::testing::Types<On<ssm::Cpu, double>, On<ssm::Cpu, float>, On<ssm::Cpu, ssm::bf16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, MambaBlockTrainingSuite, BlockTypes);
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, LanguageModelTrainingSuite, ModelTypes);
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, OptimizerSuite, ModelTypes);
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, TrainingStepSuite, ModelTypes);

}  // namespace ssm_test
