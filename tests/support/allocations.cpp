#include "support/allocations.hpp"

#include <cstddef>
#include <cstdlib>

#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SSM_TEST_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SSM_TEST_SANITIZED 1
#endif

namespace ssm_test {
namespace {

thread_local bool counting = false;
thread_local int allocations = 0;

void note_allocation() noexcept {
  if (counting) ++allocations;
}

}  // namespace
}  // namespace ssm_test

#if defined(SSM_TEST_SANITIZED)
// The sanitizer owns malloc and calls back. GCC does not install the header that declares this.
extern "C" int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void*,
                                                                  std::size_t),
                                                         void (*)(const volatile void*));
static const int kInstalled = __sanitizer_install_malloc_and_free_hooks(
    [](const volatile void*, std::size_t) { ssm_test::note_allocation(); },
    [](const volatile void*) {});
#elif defined(__GLIBC__)
// Every way to the heap ends in one of these; operator new calls malloc or aligned_alloc.
extern "C" {
void* __libc_malloc(std::size_t);
void* __libc_calloc(std::size_t, std::size_t);
void* __libc_realloc(void*, std::size_t);
void* __libc_memalign(std::size_t, std::size_t);

void* malloc(std::size_t size) {
  ssm_test::note_allocation();
  return __libc_malloc(size);
}
void* calloc(std::size_t n, std::size_t size) {
  ssm_test::note_allocation();
  return __libc_calloc(n, size);
}
void* realloc(void* old, std::size_t size) {
  ssm_test::note_allocation();
  return __libc_realloc(old, size);
}
void* memalign(std::size_t alignment, std::size_t size) {
  ssm_test::note_allocation();
  return __libc_memalign(alignment, size);
}
void* aligned_alloc(std::size_t alignment, std::size_t size) { return memalign(alignment, size); }
int posix_memalign(void** out, std::size_t alignment, std::size_t size) {
  *out = memalign(alignment, size);
  return *out == nullptr ? 12 : 0;
}
}
#else
#error "no allocation hooks for this C library"
#endif

namespace ssm_test {

AllocationCounter::AllocationCounter() noexcept {
#if defined(SSM_TEST_SANITIZED)
  if (kInstalled == 0) std::abort();
#endif
  allocations = 0;
  counting = true;
}
AllocationCounter::~AllocationCounter() { counting = false; }
int AllocationCounter::count() const noexcept { return allocations; }

}  // namespace ssm_test
