#pragma once

#if !defined(_OPENMP)
#error "<ssm/cpu/openmp.hpp> needs OpenMP: compile with -fopenmp (/openmp), or use ssm::ThreadPool"
#endif

#include <omp.h>

#include <cstdint>

#include "ssm/core/parallel.hpp"

SSM_NAMESPACE_BEGIN

// Tasks on a team of OpenMP threads. `threads` <= 0 means omp_get_max_threads(). A call from inside
// a parallel region, a task included, runs inline on the calling thread.
//
//   ssm::Cpu backend{ssm::openmp_parallel()};
inline Parallel openmp_parallel(int threads = 0) noexcept {
  Parallel parallel;
  parallel.threads = threads > 0 ? threads : omp_get_max_threads();
  if (parallel.threads <= 1) {
    parallel.threads = 1;
    return parallel;
  }
  // The context carries the number itself: there is nothing to own.
  parallel.context = reinterpret_cast<void*>(static_cast<std::intptr_t>(parallel.threads));
  parallel.run = [](void* context, index_t tasks, Parallel::Task task, void* argument) {
    const int team = static_cast<int>(reinterpret_cast<std::intptr_t>(context));
    if (omp_in_parallel() != 0) {
      for (index_t i = 0; i < tasks; ++i) task(argument, i);
      return;
    }
#pragma omp parallel for num_threads(team) schedule(dynamic, 1)
    for (index_t i = 0; i < tasks; ++i) task(argument, i);
  };
  return parallel;
}

SSM_NAMESPACE_END
