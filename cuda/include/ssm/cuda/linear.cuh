#pragma once

#include <cublasLt.h>

#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/detail/launch.cuh"
#include "ssm/cuda/linear.hpp"

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kLinearTile = 16;

// Any strides: a block computes a square of tokens and outputs from tiles in shared memory.
template <class T, class TOut>
__global__ void __launch_bounds__(kLinearTile* kLinearTile)
    linear_kernel(const LinearArgs<T, TOut> a, index_t output_blocks) {
  using Accum = accum_t<T>;
  __shared__ Accum x_tile[kLinearTile][kLinearTile + 1];
  __shared__ Accum weight_tile[kLinearTile][kLinearTile + 1];
  const int i = static_cast<int>(threadIdx.x) % kLinearTile;
  const int r = static_cast<int>(threadIdx.x) / kLinearTile;
  const index_t length = a.x.extent(1);
  const index_t tokens = a.x.extent(0) * length;
  const index_t inputs = a.x.extent(2);
  const index_t outputs = a.weight.extent(0);
  const index_t token0 = blockIdx.x / output_blocks * kLinearTile;
  const index_t output0 = blockIdx.x % output_blocks * kLinearTile;
  Accum sum = 0;
  for (index_t k = 0; k < inputs; k += kLinearTile) {
    const index_t token = token0 + r;
    const index_t output = output0 + r;
    x_tile[r][i] = token < tokens && k + i < inputs
                       ? load_float(a.x(token / length, token % length, k + i))
                       : Accum(0);
    weight_tile[r][i] =
        output < outputs && k + i < inputs ? load_float(a.weight(output, k + i)) : Accum(0);
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kLinearTile; ++m) sum += x_tile[r][m] * weight_tile[i][m];
    __syncthreads();
  }
  const index_t token = token0 + r;
  const index_t output = output0 + i;
  if (token >= tokens || output >= outputs) return;
  if (a.bias.data() != nullptr) sum += load_float(a.bias(output));
  a.y(token / length, token % length, output) = store_as<TOut>(sum);
}

// y[b, t, o] = bias[o] + sums[b length + t, o]; absent sums count as zero.
template <class T, class TOut>
__global__ void __launch_bounds__(256)
    bias_kernel(const LinearArgs<T, TOut> a, const accum_t<T>* sums) {
  const index_t index = static_cast<index_t>(blockIdx.x) * 256 + threadIdx.x;
  if (index >= a.y.size()) return;
  const index_t outputs = a.y.extent(2);
  const index_t length = a.y.extent(1);
  const index_t token = index / outputs;
  const index_t o = index % outputs;
  accum_t<T> value = load_float(a.bias(o));
  if (sums != nullptr) value += sums[index];
  a.y(token / length, token % length, o) = store_as<TOut>(value);
}

template <class T>
constexpr cudaDataType_t blas_type() {
  if constexpr (std::is_same<T, bf16>::value) return CUDA_R_16BF;
  if constexpr (std::is_same<T, f16>::value) return CUDA_R_16F;
  if constexpr (std::is_same<T, double>::value) return CUDA_R_64F;
  return CUDA_R_32F;
}

// The descriptors of one product, destroyed with it.
class BlasProduct {
 public:
  BlasProduct() = default;
  BlasProduct(const BlasProduct&) = delete;
  BlasProduct& operator=(const BlasProduct&) = delete;
  ~BlasProduct() {
    if (preference != nullptr) cublasLtMatmulPreferenceDestroy(preference);
    for (const cublasLtMatrixLayout_t layout : {weight, x, y}) {
      if (layout != nullptr) cublasLtMatrixLayoutDestroy(layout);
    }
    if (operation != nullptr) cublasLtMatmulDescDestroy(operation);
  }
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t weight = nullptr, x = nullptr, y = nullptr;
  cublasLtMatmulPreference_t preference = nullptr;
};

// True if the product was queued; false if cuBLASLt does not take these arguments.
//
// Row-major y = x W^T is column-major y^T = W x^T: W enters transposed with its row as the leading
// dimension. Tokens of all batch rows are one matrix where their strides allow, else a batch each.
template <class T, class TOut>
bool blas_linear(const Cuda& cuda, const LinearArgs<T, TOut>& a) {
  using Accum = accum_t<T>;
  const index_t batch = a.x.extent(0);
  const index_t length = a.x.extent(1);
  const index_t inputs = a.x.extent(2);
  const index_t outputs = a.weight.extent(0);
  if (cuda.blas == nullptr || inputs == 0) return false;
  if (a.x.stride(2) != 1 || a.weight.stride(1) != 1 || a.y.stride(2) != 1) return false;
  const index_t ldw = outputs == 1 ? inputs : a.weight.stride(0);
  // A token's stride within a row, or between rows of one token each.
  const bool single = length == 1;
  const index_t ldx = single && batch > 1 ? a.x.stride(0) : (single ? inputs : a.x.stride(1));
  const index_t ldy = single && batch > 1 ? a.y.stride(0) : (single ? outputs : a.y.stride(1));
  if (ldw < inputs || ldx < inputs || ldy < outputs) return false;
  const bool joined =
      single || batch == 1 || (a.x.stride(0) == length * ldx && a.y.stride(0) == length * ldy);
  if (!joined && (a.x.stride(0) < 0 || a.y.stride(0) < length * ldy)) return false;
  const index_t columns = joined ? batch * length : length;
  const int count = static_cast<int>(joined ? 1 : batch);

  // cuBLASLt may round a product before it adds to it. With a bias and a narrow y, the product goes
  // to workspace unrounded instead.
  Arena arena = cuda.workspace;
  const bool apart = a.bias.present() && !std::is_same<TOut, Accum>::value;
  Accum* sums = nullptr;
  if (apart) {
    sums = arena.allocate<Accum>(saturating_mul(saturating_mul(batch, length), outputs));
    if (arena.exhausted()) return false;
  }
  const index_t bias_blocks = a.bias.present() ? (a.y.size() + 255) / 256 : 0;
  if (bias_blocks > 0x7fffffff) return false;

  BlasProduct product;
  const cublasComputeType_t compute =
      std::is_same<T, double>::value ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F;
  const auto ok = [](cublasStatus_t s) { return s == CUBLAS_STATUS_SUCCESS; };
  const cublasOperation_t transpose = CUBLAS_OP_T;
  if (!ok(cublasLtMatmulDescCreate(&product.operation, compute, blas_type<Accum>())) ||
      !ok(cublasLtMatmulDescSetAttribute(product.operation, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                         sizeof(transpose)))) {
    return false;
  }
  const auto layout = [&](cublasLtMatrixLayout_t* made, cudaDataType_t type, index_t rows,
                          index_t cols, index_t leading, index_t stride) {
    if (!ok(cublasLtMatrixLayoutCreate(made, type, static_cast<std::uint64_t>(rows),
                                       static_cast<std::uint64_t>(cols), leading))) {
      return false;
    }
    const std::int64_t step = stride;
    return ok(cublasLtMatrixLayoutSetAttribute(*made, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count,
                                               sizeof(count))) &&
           ok(cublasLtMatrixLayoutSetAttribute(*made, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                               &step, sizeof(step)));
  };
  if (!layout(&product.weight, blas_type<T>(), inputs, outputs, ldw, 0) ||
      !layout(&product.x, blas_type<T>(), inputs, columns, ldx, a.x.stride(0)) ||
      !layout(&product.y, apart ? blas_type<Accum>() : blas_type<TOut>(), outputs, columns,
              apart ? outputs : ldy, apart ? length * outputs : a.y.stride(0))) {
    return false;
  }
  constexpr std::size_t kMost = std::size_t{32} << 20;
  const std::size_t left = arena.capacity() - arena.used();
  const std::size_t bytes = (left < kMost ? left : kMost) / Arena::kAlignment * Arena::kAlignment;
  void* const workspace = arena.allocate<unsigned char>(static_cast<index_t>(bytes));
  const std::size_t usable = workspace == nullptr ? 0 : bytes;
  // What the heuristic may assume of the addresses: the divisors that they have.
  const auto alignment = [](const void* data) {
    const auto address = reinterpret_cast<std::uintptr_t>(data);
    std::uint32_t divisor = 256;
    while (address % divisor != 0) divisor /= 2;
    return divisor;
  };
  // Partial sums meet in accum_t: the result is rounded once.
  const std::uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
  const std::uint32_t aligned[] = {alignment(a.weight.data()), alignment(a.x.data()),
                                   apart ? 64 : alignment(a.y.data())};
  if (!ok(cublasLtMatmulPreferenceCreate(&product.preference)) ||
      !ok(cublasLtMatmulPreferenceSetAttribute(
          product.preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &usable, sizeof(usable))) ||
      !ok(cublasLtMatmulPreferenceSetAttribute(product.preference,
                                               CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                                               &reductions, sizeof(reductions))) ||
      !ok(cublasLtMatmulPreferenceSetAttribute(product.preference,
                                               CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                                               &aligned[0], sizeof(aligned[0]))) ||
      !ok(cublasLtMatmulPreferenceSetAttribute(product.preference,
                                               CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                                               &aligned[1], sizeof(aligned[1]))) ||
      !ok(cublasLtMatmulPreferenceSetAttribute(product.preference,
                                               CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                                               &aligned[2], sizeof(aligned[2]))) ||
      !ok(cublasLtMatmulPreferenceSetAttribute(product.preference,
                                               CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
                                               &aligned[2], sizeof(aligned[2])))) {
    return false;
  }
  cublasLtMatmulHeuristicResult_t found = {};
  int results = 0;
  if (!ok(cublasLtMatmulAlgoGetHeuristic(cuda.blas, product.operation, product.weight, product.x,
                                         product.y, product.y, product.preference, 1, &found,
                                         &results)) ||
      results == 0) {
    return false;
  }
  // A wide y takes the bias first and the product is added to it.
  const bool onto = a.bias.present() && !apart;
  const auto add_bias = [&] {
    bias_kernel<<<static_cast<unsigned>(bias_blocks), 256, 0, cuda.stream>>>(a, sums);
  };
  if (onto) add_bias();
  const Accum one = 1;
  const Accum beta = onto ? Accum(1) : Accum(0);
  void* const to = apart ? static_cast<void*>(sums) : static_cast<void*>(a.y.data());
  if (!ok(cublasLtMatmul(cuda.blas, product.operation, &one, a.weight.data(), product.weight,
                         a.x.data(), product.x, &beta, to, product.y, to, product.y, &found.algo,
                         workspace, usable, cuda.stream))) {
    return false;
  }
  if (apart) add_bias();
  return true;
}

}  // namespace detail

template <class T, class TOut>
Status linear(const Cuda& cuda, const LinearArgs<T, TOut>& a) {
  Check check("linear");
  check.also(check_shapes(a))
      .require(a.packed.data == nullptr, ErrorCode::unsupported, "packed",
               "must be absent: this backend reads weights as stored");
  if (!check.passed()) return check.status();
  const index_t tokens = saturating_mul(a.x.extent(0), a.x.extent(1));
  const index_t outputs = a.weight.extent(0);
  if (tokens == 0 || outputs == 0) return Status::ok();
  if (detail::blas_linear(cuda, a)) return Status::ok();
  constexpr index_t kTile = detail::kLinearTile;
  const index_t output_blocks = (outputs + kTile - 1) / kTile;
  const index_t blocks = saturating_mul((tokens + kTile - 1) / kTile, output_blocks);
  if (blocks > 0x7fffffff) {
    return Status::error(ErrorCode::size_overflow, "linear", "grid", static_cast<double>(blocks),
                         Relation::at_most, 0x7fffffff);
  }
  detail::linear_kernel<<<static_cast<unsigned>(blocks), kTile * kTile, 0, cuda.stream>>>(
      a, output_blocks);
  return detail::cuda_status("linear", cudaGetLastError());
}

SSM_NAMESPACE_END
