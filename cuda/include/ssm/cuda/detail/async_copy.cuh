#pragma once

#include "ssm/core/config.hpp"

// Copies from global to shared memory that pass by no register (sm_80 and newer; older devices copy
// through one). Both addresses are aligned to the size of the copy.

SSM_NAMESPACE_BEGIN
namespace detail {

// 16 bytes, of which the first `bytes` are read and the rest are zero.
__device__ __forceinline__ void async_copy_16(void* to, const void* from, int bytes) {
#if __CUDA_ARCH__ >= 800
  const unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(bytes)
               : "memory");
#else
  if (bytes == 16) {
    *static_cast<uint4*>(to) = *static_cast<const uint4*>(from);
  } else {
    for (int i = 0; i < 16; ++i) {
      static_cast<unsigned char*>(to)[i] =
          i < bytes ? static_cast<const unsigned char*>(from)[i] : static_cast<unsigned char>(0);
    }
  }
#endif
}

// kBytes, 8 or 16.
template <int kBytes>
__device__ __forceinline__ void async_copy(void* to, const void* from) {
  if constexpr (kBytes == 16) {
    async_copy_16(to, from, 16);
  } else {
    static_assert(kBytes == 8, "8 or 16 bytes");
#if __CUDA_ARCH__ >= 800
    const unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared), "l"(from) : "memory");
#else
    *static_cast<uint2*>(to) = *static_cast<const uint2*>(from);
#endif
  }
}

__device__ __forceinline__ void async_commit() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// All copies of this thread but those of its last kGroups commits have landed; other threads see
// them after a barrier.
template <int kGroups>
__device__ __forceinline__ void async_wait() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
#endif
}
__device__ __forceinline__ void async_wait_all() { async_wait<0>(); }

}  // namespace detail
SSM_NAMESPACE_END
