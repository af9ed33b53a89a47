#include "ssm/reference/adamw.hpp"
#include "ssm/reference/causal_conv1d.hpp"
#include "ssm/reference/causal_conv1d_backward.hpp"
#include "ssm/reference/cross_entropy.hpp"
#include "ssm/reference/embedding.hpp"
#include "ssm/reference/embedding_backward.hpp"
#include "ssm/reference/linear.hpp"
#include "ssm/reference/linear_backward.hpp"
#include "ssm/reference/residual_add.hpp"
#include "ssm/reference/rms_norm.hpp"
#include "ssm/reference/rms_norm_backward.hpp"
#include "ssm/reference/selective_scan.hpp"
#include "ssm/reference/selective_scan_backward.hpp"
#include "ssm/reference/state_matrix.hpp"
#include "ssm/reference/sum_of_squares.hpp"
#include "train/training_step_suite.hpp"

namespace ssm_test {

using ReferenceTypes = ::testing::Types<On<ssm::Reference, double>, On<ssm::Reference, float>,
                                        On<ssm::Reference, ssm::bf16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, TrainingStepSuite, ReferenceTypes);

}  // namespace ssm_test
