#pragma once

#include <cublasLt.h>

#include "ssm/core/arena.hpp"
#include "ssm/core/dtype.hpp"
#include "ssm/cuda/context.hpp"

// Products through cuBLASLt: column-major matrices, sums in accum_t and no tf32.

SSM_NAMESPACE_BEGIN
namespace detail {

template <class T>
constexpr cudaDataType_t blas_type() {
  if constexpr (std::is_same<std::remove_cv_t<T>, bf16>::value) return CUDA_R_16BF;
  if constexpr (std::is_same<std::remove_cv_t<T>, f16>::value) return CUDA_R_16F;
  if constexpr (std::is_same<std::remove_cv_t<T>, double>::value) return CUDA_R_64F;
  return CUDA_R_32F;
}

// One column-major operand: (rows, columns), `leading` elements from a column to the next and
// `step` from a batch to the next.
struct BlasMatrix {
  cudaDataType_t type;
  const void* data;
  index_t rows, columns, leading, step;
  bool transposed;

  // What the heuristic may assume of the address: the divisor that it has.
  std::uint32_t alignment() const noexcept {
    const auto address = reinterpret_cast<std::uintptr_t>(data);
    std::uint32_t divisor = 256;
    while (address % divisor != 0) divisor /= 2;
    return divisor;
  }
};
template <class T>
BlasMatrix blas_matrix(T* data, index_t rows, index_t columns, index_t leading, index_t step = 0,
                       bool transposed = false) noexcept {
  return {blas_type<T>(), data, rows, columns, leading, step, transposed};
}

// The descriptors of one product, destroyed with it.
class BlasProduct {
 public:
  BlasProduct() = default;
  BlasProduct(const BlasProduct&) = delete;
  BlasProduct& operator=(const BlasProduct&) = delete;
  ~BlasProduct() {
    if (preference != nullptr) cublasLtMatmulPreferenceDestroy(preference);
    for (const cublasLtMatrixLayout_t layout : {a, b, c}) {
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
    }
    if (operation != nullptr) cublasLtMatmulDescDestroy(operation);
  }
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t a = nullptr, b = nullptr, c = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
};

// c = op(a) op(b) + beta c, `count` times; Accum is the type of the sums. Whatever is left of
// `workspace`, up to 32 MiB, is cuBLASLt's. True if the product was queued; false if cuBLASLt does
// not take these operands.
template <class Accum>
bool blas_multiply(const Cuda& cuda, const BlasMatrix& a, const BlasMatrix& b, const BlasMatrix& c,
                   Accum beta, int count, Arena workspace) {
  if (cuda.blas == nullptr) return false;
  const auto ok = [](cublasStatus_t s) { return s == CUBLAS_STATUS_SUCCESS; };
  BlasProduct product;
  const cublasComputeType_t compute =
      std::is_same<Accum, double>::value ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
  if (!ok(cublasLtMatmulDescCreate(&product.operation, compute, blas_type<Accum>()))) return false;
  const auto describe = [&](cublasLtMatmulDescAttributes_t attribute, bool transposed) {
    const cublasOperation_t operation = transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    return ok(cublasLtMatmulDescSetAttribute(product.operation, attribute, &operation,
                                             sizeof(operation)));
  };
  if (!describe(CUBLASLT_MATMUL_DESC_TRANSA, a.transposed) ||
      !describe(CUBLASLT_MATMUL_DESC_TRANSB, b.transposed)) {
    return false;
  }
  const auto layout = [&](cublasLtMatrixLayout_t* made, const BlasMatrix& m) {
    if (!ok(cublasLtMatrixLayoutCreate(made, m.type, static_cast<std::uint64_t>(m.rows),
                                       static_cast<std::uint64_t>(m.columns), m.leading))) {
      return false;
    }
    const std::int64_t step = m.step;
    return ok(cublasLtMatrixLayoutSetAttribute(*made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                               sizeof(count))) &&
           ok(cublasLtMatrixLayoutSetAttribute(*made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                               &step, sizeof(step)));
  };
  if (!layout(&product.a, a) || !layout(&product.b, b) || !layout(&product.c, c)) return false;

  constexpr std::size_t kMost = std::size_t{32} << 20;
  const std::size_t left = workspace.capacity() - workspace.used();
  const std::size_t bytes = (left < kMost ? left : kMost) / Arena::kAlignment * Arena::kAlignment;
  void* const memory = workspace.allocate<unsigned char>(static_cast<index_t>(bytes));
  const std::size_t usable = memory == nullptr ? 0 : bytes;
  if (!ok(cublasLtMatmulPreferenceCreate(&product.preference))) return false;
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    return ok(
        cublasLtMatmulPreferenceSetAttribute(product.preference, attribute, &value, sizeof(value)));
  };
  // Partial sums meet in accum_t: the result is rounded once.
  const std::uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  if (!prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, usable) ||
      !prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, reductions) ||
      !prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, a.alignment()) ||
      !prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, b.alignment()) ||
      !prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c.alignment()) ||
      !prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c.alignment())) {
    return false;
  }
  cublasLtMatmulHeuristicResult_t found = {};
  int results = 0;
  if (!ok(cublasLtMatmulAlgoGetHeuristic(cuda.blas, product.operation, product.a, product.b,
                                         product.c, product.c, product.preference, 1, &found,
                                         &results)) ||
      results == 0) {
    return false;
  }
  const Accum one = 1;
  void* const to = const_cast<void*>(c.data);
  return ok(cublasLtMatmul(cuda.blas, product.operation, &one, a.data, product.a, b.data, product.b,
                           &beta, to, product.c, to, product.c, &found.algo, memory, usable,
                           cuda.stream));
}

// The tokens of a (batch, length, features) view as columns of one matrix, or of one per batch row.
struct BlasTokens {
  bool possible;  // features are contiguous and tokens do not overlap
  bool joined;    // all batch rows are one matrix
  index_t leading;
};
template <class T>
BlasTokens blas_tokens(const View<T, 3>& v) noexcept {
  const index_t length = v.extent(1);
  const index_t features = v.extent(2);
  const bool single = length == 1;
  const index_t leading = single ? (v.extent(0) > 1 ? v.stride(0) : features) : v.stride(1);
  const bool possible = (v.stride(2) == 1 || features == 1) && leading >= features;
  const bool joined = single || v.extent(0) == 1 || v.stride(0) == length * leading;
  return {possible, joined, leading};
}

}  // namespace detail
SSM_NAMESPACE_END
