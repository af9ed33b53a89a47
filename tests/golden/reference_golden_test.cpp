#include "golden/keyword_spotting_suite.hpp"
#include "golden/language_model_golden_suite.hpp"
#include "ssm/reference/causal_conv1d.hpp"
#include "ssm/reference/embedding.hpp"
#include "ssm/reference/linear.hpp"
#include "ssm/reference/rms_norm.hpp"
#include "ssm/reference/selective_scan.hpp"
#include "ssm/reference/state_matrix.hpp"

namespace ssm_test {

using ReferenceTypes = ::testing::Types<On<ssm::Reference, float>, On<ssm::Reference, double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, KeywordSpottingSuite, ReferenceTypes);
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, LanguageModelGoldenSuite,
                               ::testing::Types<ssm::Reference>);

}  // namespace ssm_test
