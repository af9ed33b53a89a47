#include <cuda_runtime_api.h>

#include <cstring>
#include <new>

#include "cuda/device_target.hpp"

// Replaces the aligned allocation functions, which ssm/owned.hpp uses, by memory that host and
// device reach under one address. It starts poisoned.

void* operator new(std::size_t bytes, std::align_val_t) {
  void* memory = nullptr;
  ssm_test::cuda_check(cudaMallocHost(&memory, bytes), "pinned memory");  // aligned to a page
  std::memset(memory, ssm_test::kPoison, bytes);
  return memory;
}
void operator delete(void* memory, std::align_val_t) noexcept {
  ssm_test::cuda_check(cudaFreeHost(memory), "free");
}
void operator delete(void* memory, std::size_t, std::align_val_t alignment) noexcept {
  operator delete(memory, alignment);
}
