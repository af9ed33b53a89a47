#include "support/allocations.hpp"

#include <cstdlib>
#include <new>

namespace ssm_test {
namespace {

thread_local bool counting = false;
thread_local int allocations = 0;

void* allocate(std::size_t size) {
  if (counting) ++allocations;
  void* const memory = std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) std::abort();
  return memory;
}

}  // namespace

AllocationCounter::AllocationCounter() noexcept {
  allocations = 0;
  counting = true;
}
AllocationCounter::~AllocationCounter() { counting = false; }
int AllocationCounter::count() const noexcept { return allocations; }

}  // namespace ssm_test

void* operator new(std::size_t size) { return ssm_test::allocate(size); }
void* operator new[](std::size_t size) { return ssm_test::allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
