#include "golden/keyword_spotting_suite.hpp"
#include "golden/language_model_golden_suite.hpp"
#include "ssm/ssm.hpp"

namespace ssm_test {

using CpuTypes = ::testing::Types<On<ssm::Cpu, float>, On<ssm::Cpu, double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, KeywordSpottingSuite, CpuTypes);
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, LanguageModelGoldenSuite, ::testing::Types<ssm::Cpu>);

}  // namespace ssm_test
