#include "ssm/owned.hpp"

#include <gtest/gtest.h>

#include <complex>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

#include "ssm/core/dtype.hpp"

namespace {

using ssm::index_t;
using ssm::Owned;
using ssm::OwnedWorkspace;

template <class T>
class OwnedOf : public testing::Test {};
using Types = testing::Types<float, double, ssm::bf16, ssm::f16, std::complex<double>, index_t>;
TYPED_TEST_SUITE(OwnedOf, Types);

TYPED_TEST(OwnedOf, IsAlignedZeroAndContiguous) {
  for (int repeat = 0; repeat < 4; ++repeat) {  // reused memory is dirty
    Owned<TypeParam, 3> a({3, 5, 7});
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(a.data()) % 64, 0u);
    EXPECT_EQ(a.size(), 105u);
    EXPECT_TRUE(a.view().contiguous());
    const unsigned char zeros[105 * sizeof(TypeParam)] = {};
    EXPECT_EQ(std::memcmp(a.data(), zeros, sizeof(zeros)), 0);
    std::memset(static_cast<void*>(a.data()), 0x5a, sizeof(zeros));
  }
}

TEST(Owned, CopyIsASnapshotAndAssignmentARollback) {
  Owned<float, 2> state({2, 3});
  state.view()(1, 2) = 4.0f;
  const Owned<float, 2> snapshot = state;
  state.view()(1, 2) = 5.0f;
  EXPECT_EQ(snapshot.view()(1, 2), 4.0f);
  EXPECT_NE(snapshot.data(), state.data());
  state = snapshot;
  EXPECT_EQ(state.view()(1, 2), 4.0f);
  state = static_cast<const Owned<float, 2>&>(state);
  EXPECT_EQ(state.view()(1, 2), 4.0f);
}

TEST(Owned, MovedFromIsAbsent) {
  Owned<float, 2> a({2, 3});
  const float* const data = a.data();
  Owned<float, 2> b = std::move(a);
  EXPECT_EQ(b.data(), data);
  EXPECT_FALSE(a.view().present());  // NOLINT(bugprone-use-after-move): the state is documented
  a = std::move(b);
  EXPECT_EQ(a.data(), data);
  EXPECT_EQ(a.extent(1), 3);
}

TEST(Owned, EmptyIsPresentAndDefaultIsAbsent) {
  const Owned<float, 2> empty({0, 3});
  EXPECT_TRUE(empty.view().present());
  EXPECT_EQ(empty.size(), 0u);
  const Owned<float, 2> absent;
  EXPECT_FALSE(absent.view().present());
  EXPECT_FALSE((Owned<float, 2>(absent).view().present()));
}

#if defined(__cpp_exceptions)
TEST(Owned, RefusesSizesThatAreNegativeOrOverflow) {
  constexpr index_t kMax = std::numeric_limits<index_t>::max();
  EXPECT_THROW((Owned<float, 2>({-1, 3})), std::bad_array_new_length);
  EXPECT_THROW((Owned<float, 2>({0, -3})), std::bad_array_new_length);
  EXPECT_THROW((Owned<float, 2>({kMax, 2})), std::bad_array_new_length);
  EXPECT_THROW((Owned<float, 2>({kMax / 4 + 1, 1})), std::bad_array_new_length);
  EXPECT_THROW((Owned<float, 3>({index_t{1} << 32, index_t{1} << 32, 4})),
               std::bad_array_new_length);
}
#endif

TEST(OwnedWorkspace, HoldsExactlyWhatACountingArenaAskedFor) {
  const auto carve = [](ssm::Arena& arena) {
    float* const a = arena.allocate<float>(17);
    double* const b = arena.allocate<double>(3);
    if (a != nullptr) a[16] = 1.0f;
    if (b != nullptr) b[2] = 1.0;
    return a != nullptr && b != nullptr;
  };
  ssm::Arena counter;
  carve(counter);
  OwnedWorkspace workspace(counter.bytes_needed());
  ssm::Arena arena = workspace.arena();
  EXPECT_TRUE(carve(arena));
  EXPECT_TRUE(arena.status("test").is_ok());
  EXPECT_EQ(workspace.arena().used(), 0u);

  OwnedWorkspace small(64);
  ssm::Arena short_arena = small.arena();
  EXPECT_FALSE(carve(short_arena));
  EXPECT_TRUE(short_arena.exhausted());
  small.reserve(counter.bytes_needed());
  ssm::Arena enough = small.arena();
  EXPECT_TRUE(carve(enough));
  const std::size_t size = small.size();
  small.reserve(1);
  EXPECT_EQ(small.size(), size);
}

TEST(OwnedWorkspace, EmptyIsAnExhaustedArenaNotACountingOne) {
  ssm::Arena arena = OwnedWorkspace().arena();
  EXPECT_FALSE(arena.counting());
  EXPECT_EQ(arena.allocate<float>(1), nullptr);
  EXPECT_TRUE(arena.exhausted());
}

TEST(OwnedWorkspace, CarvesExactlyWhatItCounts) {
  ssm::OwnedWorkspace memory;
  const auto views = memory.carve([](ssm::Arena& arena) {
    const auto a = arena.view<float, 2>({3, 5});
    return std::make_pair(a, arena.view<double, 1>({7}));
  });
  ASSERT_NE(views.first.data(), nullptr);
  ASSERT_NE(views.second.data(), nullptr);
  views.first(2, 4) = 1;
  views.second(6) = 2;
  EXPECT_EQ(memory.size(), 64u + 64u + 63u);
}

}  // namespace
