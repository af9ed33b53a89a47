#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "ssm/core/view.hpp"
#include "ssm/cuda/detail/device_math.cuh"

// Neighbouring elements at a time, in accesses of up to 16 bytes.

SSM_NAMESPACE_BEGIN
namespace detail {

// Eight or sixteen bytes of global memory at once. Out of an ordinary store of a struct, the
// compiler may make one an element.
__device__ __forceinline__ void store_global(void* to, const uint2& v) {
  asm volatile("st.global.v2.u32 [%0], {%1, %2};" ::"l"(to), "r"(v.x), "r"(v.y) : "memory");
}
__device__ __forceinline__ void store_global(void* to, const uint4& v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
}

// kCount of them, at an address that is a multiple of their bytes, or of 16 if they are more.
template <class T, int kCount>
struct alignas(kCount * sizeof(T) < 16 ? kCount * sizeof(T) : 16) Elements {
  T v[kCount];

  __device__ __forceinline__ static Elements load(const T* from) {
    return *reinterpret_cast<const Elements*>(from);
  }
  __device__ __forceinline__ void store(T* to) const { *reinterpret_cast<Elements*>(to) = *this; }
  // Of eight bytes or sixteen, to global memory.
  __device__ __forceinline__ void store_at_once(T* to) const {
    std::conditional_t<sizeof(v) == 8, uint2, uint4> word;
    static_assert(sizeof(word) == sizeof(v), "8 or 16 bytes");
    memcpy(&word, v, sizeof(v));
    store_global(to, word);
  }
  __device__ __forceinline__ float operator[](int i) const { return load_float(v[i]); }
  __device__ __forceinline__ void set(int i, float value) { v[i] = store_as<T>(value); }
  // Elements i, even, and i + 1.
  __device__ __forceinline__ void set_pair(int i, float first, float second) {
    store_pair_as(v + i, first, second);
  }
};

constexpr int kOctet = 8;
template <class T>
using Octet = Elements<T, kOctet>;

// Whether octets can be read and written along the last dimension of a view, which is absent or has
// a whole number of them.
template <class T, int kRank>
bool has_octets(const View<T, kRank>& v) noexcept {
  if (!v.present()) return true;
  constexpr index_t kVector = 16 / static_cast<index_t>(sizeof(T));
  if (reinterpret_cast<std::uintptr_t>(v.data()) % 16 != 0 || v.stride(kRank - 1) != 1 ||
      v.extent(kRank - 1) % kOctet != 0) {
    return false;
  }
  for (int i = 0; i + 1 < kRank; ++i) {
    if (v.stride(i) % kVector != 0) return false;
  }
  return true;
}

}  // namespace detail
SSM_NAMESPACE_END
