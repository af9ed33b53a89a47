#include "ssm/cpu/thread_pool.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

namespace {

using ssm::index_t;

// A pool whose workers sleep at once and one whose workers spin reach both halves of the hand-over.
class ThreadPoolSpin : public testing::TestWithParam<int> {
 protected:
  std::chrono::microseconds spin() const { return std::chrono::microseconds(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(Microseconds, ThreadPoolSpin, testing::Values(0, 1, 50, 2000));

TEST_P(ThreadPoolSpin, RunsEveryTaskOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ssm::ThreadPool pool(threads, spin());
    EXPECT_EQ(pool.threads(), threads);
    const ssm::Parallel parallel = pool.parallel();
    EXPECT_EQ(parallel.threads, threads);
    for (const index_t tasks : {0, 1, 2, 3, 7, 100, 1000}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
      parallel.for_each(tasks, [&](index_t i) { ++runs[static_cast<std::size_t>(i)]; });
      for (const auto& n : runs) ASSERT_EQ(n.load(), 1);
    }
  }
}

// The fields of one job must not be read by a worker that is late from another: unequal, very short
// jobs in quick succession, with a plain (unsynchronised) result that every call must have filled.
TEST_P(ThreadPoolSpin, BackToBackCallsDoNotMix) {
  ssm::ThreadPool pool(4, spin());
  const ssm::Parallel parallel = pool.parallel();
  std::vector<index_t> out(37);
  for (index_t call = 0; call < 3000; ++call) {
    const index_t tasks = 2 + call % 36;
    parallel.for_each(tasks, [&](index_t i) { out[static_cast<std::size_t>(i)] = call * 64 + i; });
    for (index_t i = 0; i < tasks; ++i) ASSERT_EQ(out[static_cast<std::size_t>(i)], call * 64 + i);
  }
}

TEST_P(ThreadPoolSpin, CallsFromSeveralThreadsTakeTurns) {
  ssm::ThreadPool pool(3, spin());
  const ssm::Parallel parallel = pool.parallel();
  std::atomic<int> running{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&] {
      for (int call = 0; call < 200; ++call) {
        std::atomic<int> done{0};
        parallel.for_each(5, [&](index_t) {
          EXPECT_LE(++running, 3);
          ++done;
          --running;
        });
        EXPECT_EQ(done.load(), 5);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
}

TEST_P(ThreadPoolSpin, ACallFromATaskRunsInline) {
  ssm::ThreadPool pool(3, spin());
  ssm::ThreadPool other(2, spin());
  const ssm::Parallel parallel = pool.parallel();
  std::atomic<int> inner{0};
  parallel.for_each(8, [&](index_t) {
    const std::thread::id outer = std::this_thread::get_id();
    parallel.for_each(4, [&](index_t) {
      EXPECT_EQ(std::this_thread::get_id(), outer);
      ++inner;
    });
    other.parallel().for_each(4, [&](index_t) {
      EXPECT_EQ(std::this_thread::get_id(), outer);
      ++inner;
    });
  });
  EXPECT_EQ(inner.load(), 64);
}

// Every worker must take part: as many tasks as threads, each waiting for all the others.
TEST_P(ThreadPoolSpin, TasksRunAtTheSameTime) {
  ssm::ThreadPool pool(3, spin());
  for (int call = 0; call < 20; ++call) {
    std::atomic<int> arrived{0};
    pool.parallel().for_each(3, [&](index_t) {
      ++arrived;
      const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
      while (arrived.load() < 3) {
        ASSERT_LT(std::chrono::steady_clock::now(), limit);
        std::this_thread::yield();
      }
    });
  }
}

TEST(ThreadPool, WorkersThatFellAsleepWakeUp) {
  ssm::ThreadPool pool(2, std::chrono::microseconds(0));
  for (int call = 0; call < 5; ++call) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::atomic<int> arrived{0};
    pool.parallel().for_each(2, [&](index_t) {
      ++arrived;
      const auto limit = std::chrono::steady_clock::now() + std::chrono::seconds(60);
      while (arrived.load() < 2) {
        ASSERT_LT(std::chrono::steady_clock::now(), limit);
        std::this_thread::yield();
      }
    });
  }
}

TEST(ThreadPool, OneThreadIsSerial) {
  ssm::ThreadPool pool(1);
  EXPECT_EQ(pool.parallel().run, nullptr);
  EXPECT_EQ(pool.parallel().threads, 1);
}

TEST(ThreadPool, ZeroMeansTheHardware) {
  ssm::ThreadPool pool;
  const unsigned n = std::thread::hardware_concurrency();
  EXPECT_EQ(pool.threads(), n == 0 ? 1 : static_cast<int>(n));
}

}  // namespace
