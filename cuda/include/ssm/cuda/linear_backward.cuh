#pragma once

#include "ssm/cuda/detail/blas.cuh"
#include "ssm/cuda/detail/column_sum.cuh"
#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/linear_backward.hpp"

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kGradTile = 16;

// store(i, j, sum over k of left(i, k) right(k, j)) for any strides: a block computes a square from
// tiles in shared memory.
template <class Accum, class Left, class Right, class Store>
__global__ void __launch_bounds__(kGradTile* kGradTile)
    gradient_product_kernel(const Left left, const Right right, const Store store, index_t rows,
                            index_t columns, index_t inner, index_t column_blocks) {
  __shared__ Accum left_tile[kGradTile][kGradTile + 1];
  __shared__ Accum right_tile[kGradTile][kGradTile + 1];
  const int c = static_cast<int>(threadIdx.x) % kGradTile;
  const int r = static_cast<int>(threadIdx.x) / kGradTile;
  const index_t i = blockIdx.x / column_blocks * kGradTile + r;
  const index_t j = blockIdx.x % column_blocks * kGradTile + c;
  Accum sum = 0;
  for (index_t k = 0; k < inner; k += kGradTile) {
    left_tile[r][c] = i < rows && k + c < inner ? left(i, k + c) : Accum(0);
    right_tile[r][c] = k + r < inner && j < columns ? right(k + r, j) : Accum(0);
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kGradTile; ++m) sum += left_tile[r][m] * right_tile[m][c];
    __syncthreads();
  }
  if (i < rows && j < columns) store(i, j, sum);
}

// (token, feature) and (feature, token) of a (batch, length, features) view; a matrix; their
// gradients.
template <class E>
struct TokenFeature {
  View<const E, 3> v;
  __device__ auto operator()(index_t b, index_t t, index_t i) const {
    return load_float(v(b, t, i));
  }
  __device__ auto operator()(index_t token, index_t i) const {
    return (*this)(token / v.extent(1), token % v.extent(1), i);
  }
};
template <class E>
struct FeatureToken {
  View<const E, 3> v;
  __device__ auto operator()(index_t i, index_t token) const {
    return load_float(v(token / v.extent(1), token % v.extent(1), i));
  }
};
template <class E>
struct MatrixElement {
  View<const E, 2> m;
  __device__ auto operator()(index_t i, index_t j) const { return load_float(m(i, j)); }
};
template <class E>
struct StoreTokenFeature {
  View<E, 3> to;
  bool accumulate;
  __device__ void operator()(index_t token, index_t i, accum_t<E> sum) const {
    E& v = to(token / to.extent(1), token % to.extent(1), i);
    v = store_as<E>(accumulate ? load_float(v) + sum : sum);
  }
};
template <class R>
struct StoreMatrix {
  View<R, 2> to;
  bool accumulate;
  __device__ void operator()(index_t i, index_t j, R sum) const {
    to(i, j) = accumulate ? to(i, j) + sum : sum;
  }
};

template <class Accum, class Left, class Right, class Store>
Status queue_gradient_product(const Cuda& cuda, const Left& left, const Right& right,
                              const Store& store, index_t rows, index_t columns, index_t inner) {
  const char* const op = "linear_backward";
  const index_t column_blocks = (columns + kGradTile - 1) / kGradTile;
  const index_t blocks = saturating_mul((rows + kGradTile - 1) / kGradTile, column_blocks);
  const Status status = check_grid(op, blocks);
  if (!status || blocks == 0) return status;
  gradient_product_kernel<Accum>
      <<<static_cast<unsigned>(blocks), kGradTile * kGradTile, 0, cuda.stream>>>(
          left, right, store, rows, columns, inner, column_blocks);
  return cuda_status(op, cudaGetLastError());
}

// to, contiguous, is a converted copy of `from`. A block has one row, or a piece of it.
constexpr index_t kConvertPiece = 4096;
template <class From, class To>
__global__ void __launch_bounds__(256)
    convert_kernel(const From from, To* to, index_t columns, index_t pieces) {
  const index_t row = blockIdx.x / pieces;
  const index_t begin = blockIdx.x % pieces * kConvertPiece;
  const index_t end = begin + kConvertPiece < columns ? begin + kConvertPiece : columns;
#pragma unroll 4
  for (index_t i = begin + threadIdx.x; i < end; i += 256) {
    to[row * columns + i] = store_as<To>(from(row, i));
  }
}

// What cuBLASLt multiplies: both operands of one type.
template <class T, class TOut>
using blas_operand_t =
    std::conditional_t<std::is_same<T, TOut>::value, T,
                       std::conditional_t<std::is_same<T, bf16>::value, bf16, accum_t<T>>>;

// Copies of operands that are of another type; null where the operand serves as it is.
template <class T, class TOut, class TIn>
struct LinearGradScratch {
  using Operand = blas_operand_t<T, TOut>;
  Operand* dy = nullptr;
  Operand* weight = nullptr;
  Operand* x = nullptr;
  accum_t<T>* bias_shares = nullptr;

  static LinearGradScratch carve(const LinearGradArgs<T, TOut, TIn>& a, Arena& arena) noexcept {
    LinearGradScratch s;
    const index_t tokens = saturating_mul(a.dy.extent(0), a.dy.extent(1));
    if (wanted(a.dbias, a.parameters)) {
      s.bias_shares = carve_column_shares<accum_t<T>>(tokens, a.weight.extent(0), arena);
    }
    const bool dx = wanted(a.dx, a.inputs);
    const bool dweight = wanted(a.dweight, a.parameters);
    if (!std::is_same<TOut, Operand>::value && (dx || dweight)) {
      s.dy = arena.allocate<Operand>(saturating_mul(tokens, a.weight.extent(0)));
    }
    if (!std::is_same<T, Operand>::value && dx) {
      s.weight = arena.allocate<Operand>(a.weight.size());
    }
    if (!std::is_same<T, Operand>::value && dweight) s.x = arena.allocate<Operand>(a.x.size());
    return s;
  }
};

// The gradients that cuBLASLt takes; what it took is struck from `left`.
template <class T, class TOut, class TIn>
void blas_linear_backward(const Cuda& cuda, const LinearGradArgs<T, TOut, TIn>& a,
                          const LinearGradScratch<T, TOut, TIn>& scratch, bool* dx_left,
                          bool* dweight_left) {
  using Accum = accum_t<T>;
  using Operand = blas_operand_t<T, TOut>;
  const index_t outputs = a.weight.extent(0);
  const index_t inputs = a.weight.extent(1);
  const index_t tokens = a.dy.extent(0) * a.dy.extent(1);
  if (cuda.blas == nullptr || (!*dx_left && !*dweight_left)) return;
  const auto convert = [&](const auto& from, Operand* to, index_t rows, index_t columns) {
    const index_t pieces = (columns + kConvertPiece - 1) / kConvertPiece;
    const index_t blocks = rows * pieces;
    if (blocks > 0x7fffffff) return false;
    convert_kernel<<<static_cast<unsigned>(blocks), 256, 0, cuda.stream>>>(from, to, columns,
                                                                           pieces);
    return true;
  };
  BlasTokens dy = blas_tokens(a.dy);
  const void* dy_data = a.dy.data();
  if (scratch.dy != nullptr) {
    if (!convert(TokenFeature<TOut>{a.dy}, scratch.dy, tokens, outputs)) return;
    dy = {true, true, outputs};
    dy_data = scratch.dy;
  }
  if (!dy.possible || !dy.joined) return;
  const BlasMatrix dy_matrix =
      blas_matrix(static_cast<const Operand*>(dy_data), outputs, tokens, dy.leading);
  if (*dx_left) {  // column-major dx^T = W^T dy^T, and row-major W is column-major W^T
    const BlasTokens dx = blas_tokens(a.dx);
    index_t leading = outputs == 1 ? inputs : a.weight.stride(0);
    bool possible = dx.possible && dx.joined && a.weight.stride(1) == 1 && leading >= inputs;
    const void* weight = a.weight.data();
    if (scratch.weight != nullptr) {
      possible = dx.possible && dx.joined &&
                 convert(MatrixElement<T>{a.weight}, scratch.weight, outputs, inputs);
      weight = scratch.weight;
      leading = inputs;
    }
    if (possible) {
      *dx_left = !blas_multiply(
          cuda, blas_matrix(static_cast<const Operand*>(weight), inputs, outputs, leading),
          dy_matrix, blas_matrix(a.dx.data(), inputs, tokens, dx.leading),
          a.inputs == GradMode::accumulate ? Accum(1) : Accum(0), 1, cuda.workspace);
    }
  }
  if (*dweight_left) {  // column-major dW^T = x^T dy
    BlasTokens x = blas_tokens(a.x);
    const void* x_data = a.x.data();
    bool possible = x.possible && x.joined;
    if (scratch.x != nullptr) {
      possible = convert(TokenFeature<T>{a.x}, scratch.x, tokens, inputs);
      x = {true, true, inputs};
      x_data = scratch.x;
    }
    const index_t leading = outputs == 1 ? inputs : a.dweight.stride(0);
    if (possible && a.dweight.stride(1) == 1 && leading >= inputs) {
      BlasMatrix right = dy_matrix;
      right.transposed = true;
      *dweight_left = !blas_multiply(
          cuda, blas_matrix(static_cast<const Operand*>(x_data), inputs, tokens, x.leading), right,
          blas_matrix(a.dweight.data(), inputs, outputs, leading),
          a.parameters == GradMode::accumulate ? Accum(1) : Accum(0), 1, cuda.workspace);
    }
  }
}

}  // namespace detail

template <class T, class TOut, class TIn>
std::size_t scratch_bytes(const Cuda&, const LinearGradArgs<T, TOut, TIn>& a) noexcept {
  Arena counter;
  detail::LinearGradScratch<T, TOut, TIn>::carve(a, counter);
  return counter.bytes_needed();
}

template <class T, class TOut, class TIn>
Status linear_backward(const Cuda& cuda, const LinearGradArgs<T, TOut, TIn>& a, Arena scratch) {
  using Accum = accum_t<T>;
  const char* const op = "linear_backward";
  Status status = check_shapes(a);
  if (!status) return status;
  const auto carved = detail::LinearGradScratch<T, TOut, TIn>::carve(a, scratch);
  status = scratch.status(op);
  if (!status) return status;
  const index_t tokens = saturating_mul(a.dy.extent(0), a.dy.extent(1));
  const index_t outputs = a.weight.extent(0);
  const index_t inputs = a.weight.extent(1);
  bool dx = wanted(a.dx, a.inputs) && a.dx.size() > 0;
  bool dweight = wanted(a.dweight, a.parameters) && a.dweight.size() > 0;
  if (tokens > 0 && outputs > 0) detail::blas_linear_backward(cuda, a, carved, &dx, &dweight);
  if (dx) {
    status = detail::queue_gradient_product<Accum>(
        cuda, detail::TokenFeature<TOut>{a.dy}, detail::MatrixElement<T>{a.weight},
        detail::StoreTokenFeature<TIn>{a.dx, a.inputs == GradMode::accumulate}, tokens, inputs,
        outputs);
  }
  if (status && dweight) {
    status = detail::queue_gradient_product<Accum>(
        cuda, detail::FeatureToken<TOut>{a.dy}, detail::TokenFeature<T>{a.x},
        detail::StoreMatrix<Accum>{a.dweight, a.parameters == GradMode::accumulate}, outputs,
        inputs, tokens);
  }
  if (status && wanted(a.dbias, a.parameters)) {
    const detail::StoreColumn<Accum> store{a.dbias.data(), a.dbias.stride(0),
                                           a.parameters == GradMode::accumulate};
    status = detail::queue_column_sum(cuda, op, detail::TokenFeature<TOut>{a.dy}, store,
                                      a.dy.extent(0), a.dy.extent(1), outputs, carved.bias_shares);
  }
  if (status) status = detail::cuda_status(op, cudaGetLastError());
  return status;
}

SSM_NAMESPACE_END
