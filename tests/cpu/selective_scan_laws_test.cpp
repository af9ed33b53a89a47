#include "ops/selective_scan_laws_suite.hpp"
#include "ops/users_threads_suite.hpp"
#include "ssm/cpu/causal_conv1d.hpp"
#include "ssm/cpu/selective_scan.hpp"

namespace ssm_test {

using Target = HostTarget<ssm::Cpu>;
using Types = testing::Types<ScanTypes<Target, float>, ScanTypes<Target, double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, SelectiveScanLaws, Types, TypeNames);

using UserTypes = testing::Types<ThreadTypes<Target>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, UsersThreads, UserTypes, TypeNames);

}  // namespace ssm_test
