#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>

#include "block/block_under_test.hpp"
#include "model/model_under_test.hpp"
#include "ssm/cpu/fixed_mamba_block.hpp"
#include "ssm/ssm.hpp"
#include "support/allocations.hpp"
#include "support/system_calls.hpp"

// step() and forward() on the CPU backend, serial: no allocation, no lock that can wait, no system
// call.
namespace ssm_test {

// Runs f once under each watch.
template <class F>
void expect_realtime(F&& f) {
  f();  // page faults and lazy binding belong to set-up
  {
    const AllocationCounter allocations;
    f();
    EXPECT_EQ(allocations.count(), 0);
  }
  if (can_forbid_system_calls()) {
    EXPECT_TRUE(runs_without_system_calls(f));
  }
}

TEST(Realtime, TheWatchesSeeWhatTheyWatchFor) {
  {
    const AllocationCounter allocations;
    void* volatile memory = std::malloc(10);
    std::free(memory);
    int* volatile value = new int(1);
    delete value;
    EXPECT_EQ(allocations.count(), 2);
  }
  if (!can_forbid_system_calls()) GTEST_SKIP() << "no system call filter in this build";
  EXPECT_TRUE(runs_without_system_calls([] {}));
  EXPECT_FALSE(runs_without_system_calls([] { static_cast<void>(getppid()); }));
}

template <class T>
class Realtime : public ::testing::Test {};
using StorageTypes = ::testing::Types<float, double, ssm::bf16, ssm::f16>;
TYPED_TEST_SUITE(Realtime, StorageTypes);

TYPED_TEST(Realtime, BlockStepAndForward) {
  for (const ssm::index_t d_model : {16, 33}) {
    const BlockUnderTest<On<ssm::Cpu, TypeParam>> test(ssm::mamba_config(d_model));
    auto x = test.random_input(2, 70);
    auto state = test.zero_state(2);
    ssm::OwnedWorkspace scratch(test.block.workspace_bytes(test.backend, 2, 70));
    expect_realtime([&] {
      const ssm::Status status = test.block.step(
          test.backend, x.view().select(1, 0), x.view().select(1, 0), state.state, scratch.arena());
      if (!status) std::abort();
    });
    expect_realtime([&] {
      const ssm::Status status =
          test.block.forward(test.backend, x.view(), x.view(), state.state, scratch.arena());
      if (!status) std::abort();
    });
  }
}

TEST(Realtime, LanguageModelStep) {
  const ModelUnderTest<On<ssm::Cpu, float>> test;
  const auto ids = test.random_ids(2, 1);
  auto state = test.zero_state(2);
  ssm::Owned<float, 2> logits({2, test.config.vocab_size});
  ssm::OwnedWorkspace scratch(test.model.workspace_bytes(test.backend, 2, 1));
  expect_realtime([&] {
    const ssm::Status status = test.model.step(test.backend, ids.view().select(1, 0), logits.view(),
                                               state.state, scratch.arena());
    if (!status) std::abort();
  });
}

TEST(Realtime, BlockOfCompileTimeSize) {
  static ssm::FixedMambaBlock<16> block;
  static ssm::FixedMambaBlock<16>::State state;
  float x[16] = {1};
  expect_realtime([&] { block.step(x, x, state); });
}

static_assert(noexcept(std::declval<ssm::MambaBlock<float>>().step(
                  ssm::Cpu(), ssm::View<const float, 2>(), ssm::View<float, 2>(),
                  ssm::MambaState<float>(), ssm::Arena())),
              "step does not throw");

}  // namespace ssm_test
