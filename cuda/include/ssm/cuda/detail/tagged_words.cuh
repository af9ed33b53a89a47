#pragma once

#include <cstdint>
#include <type_traits>

#include "ssm/cuda/detail/device_math.cuh"

// Values passed between the blocks of a running kernel without barriers and fences. A word holds a
// value and a tag of as many bits, and is written and read as a whole: a reader that sees the tag
// it waits for has the value. 16-bit values lie in words of 4 bytes, floats in words of 8.

SSM_NAMESPACE_BEGIN
namespace detail {

template <class T>
struct TaggedWords {
  static constexpr bool kHalf = sizeof(T) == 2;
  using Word = std::conditional_t<kHalf, std::uint32_t, std::uint64_t>;
  static constexpr int kPerLoad = 16 / static_cast<int>(sizeof(Word));

  Word* data;

  __device__ __forceinline__ void put(int i, T value, unsigned tag) const {
    if constexpr (kHalf) {
      const unsigned word = value.bits | tag << 16;
      asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(data + i), "r"(word) : "memory");
    } else {
      const std::uint64_t word = __float_as_uint(value) | static_cast<std::uint64_t>(tag) << 32;
      asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(data + i), "l"(word) : "memory");
    }
  }

  // kPerLoad words, the first of which is at a multiple of 16 bytes.
  struct Loaded {
    unsigned bits[4];

    __device__ __forceinline__ bool ready(unsigned tag) const {
      if constexpr (kHalf) {
        const unsigned t = tag << 16;
        return ((bits[0] ^ t) | (bits[1] ^ t) | (bits[2] ^ t) | (bits[3] ^ t)) < 0x10000u;
      } else {
        return bits[1] == tag && bits[3] == tag;
      }
    }
    __device__ __forceinline__ float operator[](int i) const {
      if constexpr (kHalf) {
        T value;
        value.bits = static_cast<std::uint16_t>(bits[i] & 0xffffu);
        return load_float(value);
      } else {
        return __uint_as_float(bits[2 * i]);
      }
    }
    // The values alone, to kPerLoad elements at a multiple of 8 bytes.
    __device__ __forceinline__ void store(T* to) const {
      uint2 values;
      if constexpr (kHalf) {
        values.x = __byte_perm(bits[0], bits[1], 0x5410);
        values.y = __byte_perm(bits[2], bits[3], 0x5410);
      } else {
        values = make_uint2(bits[0], bits[2]);
      }
      *reinterpret_cast<uint2*>(to) = values;
    }
  };
  __device__ __forceinline__ Loaded load(int i) const {
    Loaded l;
    if constexpr (kHalf) {
      asm volatile("ld.relaxed.gpu.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                   : "=r"(l.bits[0]), "=r"(l.bits[1]), "=r"(l.bits[2]), "=r"(l.bits[3])
                   : "l"(data + i)
                   : "memory");
    } else {
      std::uint64_t first, second;
      asm volatile("ld.relaxed.gpu.global.v2.u64 {%0, %1}, [%2];"
                   : "=l"(first), "=l"(second)
                   : "l"(data + i)
                   : "memory");
      l.bits[0] = static_cast<unsigned>(first);
      l.bits[1] = static_cast<unsigned>(first >> 32);
      l.bits[2] = static_cast<unsigned>(second);
      l.bits[3] = static_cast<unsigned>(second >> 32);
    }
    return l;
  }

  // A value that an earlier kernel has put there.
  __device__ __forceinline__ float value(int i) const {
    const unsigned bits = static_cast<unsigned>(data[i]);
    return Loaded{{bits, 0, 0, 0}}[0];
  }

  // Waits for the words [0, count), a multiple of kPerLoad, with the first `threads` threads of the
  // block. Each calls take(i, loaded, prepare(i)) for its part of them, prepare before it waits.
  // They look for the words after `nap` nanoseconds: what all blocks ask for in vain stands in the
  // way of the words themselves.
  template <class Prepare, class Take>
  __device__ __forceinline__ void receive(int threads, int count, unsigned tag, int nap,
                                          Prepare&& prepare, Take&& take) const {
    if (count <= 2 * threads * kPerLoad) {
      receive_ahead<2>(threads, count, tag, nap, prepare, take);
    } else {
      receive_ahead<4>(threads, count, tag, nap, prepare, take);
    }
  }

 private:
  // kAhead loads of a thread are on their way at once.
  template <int kAhead, class Prepare, class Take>
  __device__ __forceinline__ void receive_ahead(int threads, int count, unsigned tag, int nap,
                                                Prepare&& prepare, Take&& take) const {
    const int step = threads * kPerLoad;
    for (int first = static_cast<int>(threadIdx.x) * kPerLoad; first < count;
         first += kAhead * step) {
      Loaded loaded[kAhead];
      bool waiting[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a) waiting[a] = first + a * step < count;
      decltype(prepare(0)) prepared[kAhead];
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        if (waiting[a]) prepared[a] = prepare(first + a * step);
      }
      if (first < step) __nanosleep(static_cast<unsigned>(nap));
      bool again;
      do {
        again = false;
#pragma unroll
        for (int a = 0; a < kAhead; ++a) {
          if (waiting[a]) loaded[a] = load(first + a * step);
        }
#pragma unroll
        for (int a = 0; a < kAhead; ++a) {
          waiting[a] = waiting[a] && !loaded[a].ready(tag);
          again = again || waiting[a];
        }
      } while (again);
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const int i = first + a * step;
        if (i < count) take(i, loaded[a], prepared[a]);
      }
    }
  }
};

}  // namespace detail
SSM_NAMESPACE_END
