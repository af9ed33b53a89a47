#pragma once

#include <cstdint>

#include "ssm/core/config.hpp"

// Barriers in shared memory between threads that give something and threads that take it (sm_80 and
// newer; a kernel that uses them is not launched on older devices). A barrier passes from one phase
// to the next when as many arrivals have come as it was made for.

SSM_NAMESPACE_BEGIN
namespace detail {

struct SharedBarrier {
  std::uint64_t state;

  __device__ __forceinline__ unsigned address() const {
    return static_cast<unsigned>(__cvta_generic_to_shared(&state));
  }
  __device__ __forceinline__ void init([[maybe_unused]] unsigned arrivals) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(address()), "r"(arrivals) : "memory");
#endif
  }
  __device__ __forceinline__ void arrive() {
#if __CUDA_ARCH__ >= 800
    asm volatile("{\n.reg .b64 token;\nmbarrier.arrive.shared.b64 token, [%0];\n}" ::"r"(address())
                 : "memory");
#endif
  }
  // An arrival of this thread as soon as its async copies so far have landed.
  __device__ __forceinline__ void arrive_after_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(address()) : "memory");
#endif
  }
  // Whether the phase of this parity is over; phases count from 0.
  __device__ __forceinline__ bool passed([[maybe_unused]] unsigned parity) const {
    unsigned over = 1;
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.test_wait.parity.shared.b64 p, [%1], %2;\n"
        "selp.u32 %0, 1, 0, p;\n}"
        : "=r"(over)
        : "r"(address()), "r"(parity)
        : "memory");
#endif
    return over != 0;
  }
};

// A barrier of `threads` threads of the block alone, whole warps.
__device__ __forceinline__ void sync_some(int threads) {
  asm volatile("bar.sync 1, %0;" ::"r"(threads) : "memory");
}

}  // namespace detail
SSM_NAMESPACE_END
