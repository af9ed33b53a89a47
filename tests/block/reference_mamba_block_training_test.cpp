#include "block/mamba_block_training_suite.hpp"
#include "ssm/reference/causal_conv1d.hpp"
#include "ssm/reference/causal_conv1d_backward.hpp"
#include "ssm/reference/linear.hpp"
#include "ssm/reference/linear_backward.hpp"
#include "ssm/reference/rms_norm.hpp"
#include "ssm/reference/rms_norm_backward.hpp"
#include "ssm/reference/selective_scan.hpp"
#include "ssm/reference/selective_scan_backward.hpp"
#include "ssm/reference/state_matrix.hpp"

namespace ssm_test {

using ReferenceTypes =
    ::testing::Types<On<ssm::Reference, double>, On<ssm::Reference, float>,
                     On<ssm::Reference, ssm::bf16>, On<ssm::Reference, ssm::f16>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, MambaBlockTrainingSuite, ReferenceTypes);

}  // namespace ssm_test
