#pragma once

#include <type_traits>

namespace ssm_test {

// Whether this build can run code under a filter that kills it at the first system call (Linux,
// without ThreadSanitizer, which makes system calls of its own).
bool can_forbid_system_calls() noexcept;

// Runs f(argument) in a child process in which every system call but the final exit is fatal.
// Returns whether it came back.
bool runs_without_system_calls(void (*f)(void* argument), void* argument);

template <class F>
bool runs_without_system_calls(F&& f) {
  using Function = typename std::remove_reference<F>::type;
  return runs_without_system_calls([](void* argument) { (*static_cast<Function*>(argument))(); },
                                   &f);
}

}  // namespace ssm_test
