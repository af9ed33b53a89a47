#include "block/mamba_block_training_suite.hpp"
#include "ssm/ssm.hpp"

namespace ssm_test {

using CpuTypes = ::testing::Types<On<ssm::Cpu, double>, On<ssm::Cpu, float>,
                                  On<ssm::Cpu, ssm::bf16>, On<ssm::Cpu, ssm::f16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, MambaBlockTrainingSuite, CpuTypes);

}  // namespace ssm_test
