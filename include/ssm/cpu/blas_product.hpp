#pragma once

#include <algorithm>
#include <limits>

#include "ssm/core/dtype.hpp"
#include "ssm/core/view.hpp"
#include "ssm/cpu/backend.hpp"

SSM_CPU_DETAIL_BEGIN

// A row-major matrix as BLAS describes it.
template <class R>
struct BlasMatrix {
  R* data;
  index_t rows, columns, stride;

  BlasMatrix(const View<R, 2>& v) noexcept
      : data(v.data()), rows(v.extent(0)), columns(v.extent(1)), stride(v.stride(0)) {
    if (v.stride(1) != 1) stride = 0;
  }
  // The tokens of every batch row, one under another.
  BlasMatrix(const View<R, 3>& v) noexcept
      : data(v.data()),
        rows(v.extent(0) * v.extent(1)),
        columns(v.extent(2)),
        stride(v.extent(1) > 1 ? v.stride(1) : v.stride(0)) {
    const bool even = v.extent(0) <= 1 || v.stride(0) == v.extent(1) * stride;
    if (v.stride(2) != 1 || !even) stride = 0;
  }

  // Whether BLAS can: there, not empty, contiguous columns, every number an int.
  bool fits() const noexcept {
    constexpr index_t kLimit = std::numeric_limits<int>::max();
    return data != nullptr && rows > 0 && columns > 0 && stride >= columns && rows <= kLimit &&
           stride <= kLimit;
  }
};

// For fewer tokens the product is bound by reading the weight, and packed panels are read best.
inline constexpr index_t kBlasTokens = 16;

template <class R>
Blas::Gemm<R> gemm_of(const Blas& blas) noexcept {
  if constexpr (std::is_same<R, float>::value) {
    return blas.sgemm;
  } else {
    return blas.dgemm;
  }
}

// C = op(A) op(B) + beta C on tiles of C, cut by shape alone. False, and nothing is done, if there
// is no BLAS for R or it cannot read the matrices.
template <class R>
bool blas_product(const Cpu& cpu, bool a_transposed, const BlasMatrix<const R>& a,
                  bool b_transposed, const BlasMatrix<const R>& b, R beta,
                  const BlasMatrix<R>& c) noexcept {
  // Large enough for a product of its own, small enough to share 512 tokens among threads.
  constexpr index_t kTile = 256;
  const Blas::Gemm<R> gemm = gemm_of<R>(cpu.blas);
  if (gemm == nullptr || !a.fits() || !b.fits() || !c.fits()) return false;
  const auto to_int = [](index_t i) { return static_cast<int>(i); };
  const index_t across = (c.columns + kTile - 1) / kTile;
  const index_t down = (c.rows + kTile - 1) / kTile;
  cpu.parallel.for_each(across * down, [&](index_t i) noexcept {
    const index_t row = i % down * kTile;
    const index_t column = i / down * kTile;
    gemm(a_transposed, b_transposed, to_int(std::min(kTile, c.rows - row)),
         to_int(std::min(kTile, c.columns - column)), to_int(a_transposed ? a.rows : a.columns),
         a.data + row * (a_transposed ? 1 : a.stride), to_int(a.stride),
         b.data + column * (b_transposed ? b.stride : 1), to_int(b.stride), beta,
         c.data + row * c.stride + column, to_int(c.stride));
  });
  return true;
}

SSM_CPU_DETAIL_END
