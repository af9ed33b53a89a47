#include "ops/users_threads_suite.hpp"
#include "ssm/reference/causal_conv1d.hpp"
#include "ssm/reference/selective_scan.hpp"

namespace ssm_test {

using Types = testing::Types<ThreadTypes<HostTarget<ssm::Reference>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Reference, UsersThreads, Types, TypeNames);

}  // namespace ssm_test
