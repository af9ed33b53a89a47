#pragma once

namespace ssm_test {

// Counts the calls of operator new on this thread while it lives. Needs allocations.cpp, which
// replaces the operators of the whole program.
class AllocationCounter {
 public:
  AllocationCounter() noexcept;
  ~AllocationCounter();
  AllocationCounter(const AllocationCounter&) = delete;
  AllocationCounter& operator=(const AllocationCounter&) = delete;
  int count() const noexcept;
};

}  // namespace ssm_test
