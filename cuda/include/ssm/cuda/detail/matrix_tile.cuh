#pragma once

#include <type_traits>

#include "ssm/core/config.hpp"
#include "ssm/core/dtype.hpp"

// Products of tiles on the tensor cores (sm_80 and newer), a warp at a time.

SSM_NAMESPACE_BEGIN
namespace detail {

// c (16 x 8) += a (16 x 16) b (16 x 8), T being bf16 or f16, two elements a register. With
// g = lane / 4 and t = 2 (lane % 4), a lane has
//   a[g, t], a[g + 8, t], a[g, t + 8], a[g + 8, t + 8]   and the elements right of them,
//   b[t, g], b[t + 8, g]                                 and the elements below them,
//   c[g, t], c[g, t + 1], c[g + 8, t], c[g + 8, t + 1].
template <class T>
__device__ __forceinline__ void multiply_tile(float (&c)[4], const unsigned (&a)[4],
                                              const unsigned (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  if constexpr (std::is_same<T, bf16>::value) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
#endif
}

}  // namespace detail
SSM_NAMESPACE_END
