#include "block/mamba_block_suite.hpp"
#include "model/language_model_suite.hpp"
#include "ssm/ssm.hpp"

namespace ssm_test {

using BlockTypes = ::testing::Types<On<ssm::Cpu, double>, On<ssm::Cpu, float>,
                                    On<ssm::Cpu, ssm::bf16>, On<ssm::Cpu, ssm::f16>>;
using ModelTypes =
    ::testing::Types<On<ssm::Cpu, double>, On<ssm::Cpu, float>, On<ssm::Cpu, ssm::bf16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, MambaBlockSuite, BlockTypes);
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, LanguageModelSuite, ModelTypes);

}  // namespace ssm_test
