#include "ssm/ssm.hpp"
#include "train/training_step_suite.hpp"

namespace ssm_test {

using CpuTypes =
    ::testing::Types<On<ssm::Cpu, double>, On<ssm::Cpu, float>, On<ssm::Cpu, ssm::bf16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, TrainingStepSuite, CpuTypes);

}  // namespace ssm_test
