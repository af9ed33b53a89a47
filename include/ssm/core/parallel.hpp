#pragma once

#include <type_traits>

#include "ssm/core/config.hpp"

SSM_NAMESPACE_BEGIN

// How a backend spreads independent tasks over threads: two pointers to a function of the caller's
// choosing, so that any executor fits and a call costs no allocation and no std::function. Default-
// constructed it runs the tasks in order on the calling thread, without a lock or a system call.
//
// run(context, tasks, task, argument) must call task(argument, i) exactly once for each i in
// [0, tasks), in any order and on any thread, and return when all have returned. Which thread runs
// a task never changes a result: work is cut into tasks by its shape alone.
struct Parallel {
  using Task = void (*)(void* argument, index_t i);
  using Run = void (*)(void* context, index_t tasks, Task task, void* argument);

  Run run = nullptr;        // null: serial
  void* context = nullptr;  // handed to run
  int threads = 1;          // how many tasks can make progress at once; a hint for cutting work

  // for_each(n, f) calls f(i) for each i in [0, n). f must be noexcept and safe to call at once
  // from several threads for different i.
  template <class F>
  void for_each(index_t tasks, F&& f) const {
    if (run == nullptr || tasks <= 1) {
      for (index_t i = 0; i < tasks; ++i) f(i);
      return;
    }
    using Function = std::remove_reference_t<F>;
    Function* function = &f;
    run(
        context, tasks, [](void* argument, index_t i) { (**static_cast<Function**>(argument))(i); },
        &function);
  }
};

SSM_NAMESPACE_END
