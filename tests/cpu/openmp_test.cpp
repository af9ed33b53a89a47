#include "ssm/cpu/openmp.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace {

using ssm::index_t;

TEST(OpenMp, RunsEveryTaskOnce) {
  for (const int threads : {0, 1, 2, 5}) {
    const ssm::Parallel parallel = ssm::openmp_parallel(threads);
    EXPECT_EQ(parallel.threads, threads == 0 ? omp_get_max_threads() : threads);
    for (const index_t tasks : {0, 1, 2, 100}) {
      std::vector<std::atomic<int>> runs(static_cast<std::size_t>(tasks));
      parallel.for_each(tasks, [&](index_t i) { ++runs[static_cast<std::size_t>(i)]; });
      for (const auto& n : runs) ASSERT_EQ(n.load(), 1);
    }
  }
}

TEST(OpenMp, ACallFromATaskRunsInline) {
  const ssm::Parallel parallel = ssm::openmp_parallel(3);
  std::atomic<int> inner{0};
  parallel.for_each(6, [&](index_t) {
    const int outer = omp_get_thread_num();
    parallel.for_each(4, [&](index_t) {
      EXPECT_EQ(omp_get_thread_num(), outer);
      ++inner;
    });
  });
  EXPECT_EQ(inner.load(), 24);
}

}  // namespace
