#include "model/language_model_training_suite.hpp"
#include "ssm/ssm.hpp"

namespace ssm_test {

using CpuTypes =
    ::testing::Types<On<ssm::Cpu, double>, On<ssm::Cpu, float>, On<ssm::Cpu, ssm::bf16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, LanguageModelTrainingSuite, CpuTypes);

}  // namespace ssm_test
