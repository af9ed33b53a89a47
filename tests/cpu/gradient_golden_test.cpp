#include "golden/language_model_gradient_golden_suite.hpp"
#include "ssm/ssm.hpp"

namespace ssm_test {

using GradientTypes = ::testing::Types<On<ssm::Cpu, float>, On<ssm::Cpu, double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, LanguageModelGradientGoldenSuite, GradientTypes);

}  // namespace ssm_test
