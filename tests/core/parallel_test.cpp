#include "ssm/core/parallel.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

namespace {

using ssm::index_t;
using ssm::Parallel;

TEST(Parallel, IsSerialAndInOrderByDefault) {
  std::vector<index_t> seen;
  Parallel().for_each(5, [&seen](index_t i) { seen.push_back(i); });
  EXPECT_EQ(seen, (std::vector<index_t>{0, 1, 2, 3, 4}));
  Parallel().for_each(0, [&seen](index_t) { seen.clear(); });
  EXPECT_EQ(seen.size(), 5u);
}

// An executor that runs the tasks backwards and counts its calls.
void run_backwards(void* context, index_t tasks, Parallel::Task task, void* argument) {
  ++*static_cast<int*>(context);
  for (index_t i = tasks; i-- > 0;) task(argument, i);
}

TEST(Parallel, HandsEachTaskToTheExecutorOnce) {
  int calls = 0;
  Parallel parallel;
  parallel.run = run_backwards;
  parallel.context = &calls;
  std::vector<index_t> seen;
  parallel.for_each(4, [&seen](index_t i) { seen.push_back(i); });
  EXPECT_EQ(seen, (std::vector<index_t>{3, 2, 1, 0}));
  EXPECT_EQ(calls, 1);
  parallel.for_each(1, [&seen](index_t i) { seen.push_back(i); });  // not worth a hand-over
  parallel.for_each(0, [&seen](index_t i) { seen.push_back(i); });
  EXPECT_EQ(seen.size(), 5u);
  EXPECT_EQ(calls, 1);
}

TEST(Parallel, TasksMayRunAtOnce) {
  Parallel parallel;
  parallel.run = [](void*, index_t tasks, Parallel::Task task, void* argument) {
    std::vector<std::thread> threads;
    for (index_t i = 0; i < tasks; ++i) threads.emplace_back(task, argument, i);
    for (std::thread& thread : threads) thread.join();
  };
  std::atomic<index_t> sum{0};
  const auto add = [&sum](index_t i) { sum += i; };  // a const callable
  parallel.for_each(8, add);
  EXPECT_EQ(sum, 28);
}

}  // namespace
