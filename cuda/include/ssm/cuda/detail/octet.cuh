#pragma once

#include <cstdint>

#include "ssm/core/view.hpp"
#include "ssm/cuda/detail/device_math.cuh"

// Eight neighbouring elements at a time, in accesses of 16 bytes.

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kOctet = 8;

template <class T>
struct alignas(16) Octet {
  T v[kOctet];

  __device__ __forceinline__ static Octet load(const T* from) {
    return *reinterpret_cast<const Octet*>(from);
  }
  __device__ __forceinline__ void store(T* to) const { *reinterpret_cast<Octet*>(to) = *this; }
  __device__ __forceinline__ float operator[](int i) const { return load_float(v[i]); }
  __device__ __forceinline__ void set(int i, float value) { v[i] = store_as<T>(value); }
};

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
