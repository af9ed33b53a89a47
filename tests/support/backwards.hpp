#pragma once

#include <thread>
#include <vector>

#include "ssm/core/parallel.hpp"

namespace ssm_test {

// Runs tasks backwards, from several threads, to be as unlike the serial order as can be.
struct Backwards {
  int threads;
  ssm::Parallel parallel() {
    ssm::Parallel p;
    p.context = this;
    p.threads = threads;
    p.run = [](void* context, ssm::index_t tasks, ssm::Parallel::Task task, void* argument) {
      const int count = static_cast<Backwards*>(context)->threads;
      std::vector<std::thread> workers;
      for (int k = 0; k < count; ++k) {
        workers.emplace_back([=] {
          for (ssm::index_t i = tasks - 1 - k; i >= 0; i -= count) task(argument, i);
        });
      }
      for (std::thread& worker : workers) worker.join();
    };
    return p;
  }
};

}  // namespace ssm_test
