#pragma once

namespace ssm_test {

// Counts the heap allocations of this thread while it lives, through operator new, malloc or any of
// its relatives. Needs allocations.cpp, which watches the whole program.
class AllocationCounter {
 public:
  AllocationCounter() noexcept;
  ~AllocationCounter();
  AllocationCounter(const AllocationCounter&) = delete;
  AllocationCounter& operator=(const AllocationCounter&) = delete;
  int count() const noexcept;
};

}  // namespace ssm_test
