#pragma once

#include "ssm/cuda/detail/blas.cuh"
#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/detail/gemv.cuh"
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
  const BlasTokens x = blas_tokens(a.x);
  const BlasTokens y = blas_tokens(a.y);
  const index_t ldw = outputs == 1 ? inputs : a.weight.stride(0);
  if (!x.possible || !y.possible || a.weight.stride(1) != 1 || ldw < inputs) return false;
  const bool joined = x.joined && y.joined;
  if (!joined && (a.x.stride(0) < 0 || a.y.stride(0) < length * y.leading)) return false;
  const index_t columns = joined ? batch * length : length;
  const int count = static_cast<int>(joined ? 1 : batch);

  // cuBLASLt may round a product before it adds to it. With a bias and a narrow y, the product goes
  // to workspace unrounded instead.
  Arena arena = cuda.workspace;
  const bool apart = a.bias.present() && !std::is_same<TOut, Accum>::value;
  Accum* sums = nullptr;
  if (apart) {
    sums = arena.allocate<Accum>(saturating_mul(saturating_mul(batch, length), outputs));
    if (!arena.status("linear")) return false;
  }
  const index_t bias_blocks = a.bias.present() ? (a.y.size() + 255) / 256 : 0;
  if (bias_blocks > 0x7fffffff) return false;
  const auto add_bias = [&] {
    bias_kernel<<<static_cast<unsigned>(bias_blocks), 256, 0, cuda.stream>>>(a, sums);
  };

  const BlasMatrix weight = blas_matrix(a.weight.data(), inputs, outputs, ldw, 0, true);
  const BlasMatrix tokens = blas_matrix(a.x.data(), inputs, columns, x.leading, a.x.stride(0));
  const BlasMatrix to = apart ? blas_matrix(sums, outputs, columns, outputs, length * outputs)
                              : blas_matrix(a.y.data(), outputs, columns, y.leading, a.y.stride(0));
  // A wide y takes the bias first and the product is added to it. Should cuBLASLt refuse, the
  // library's own kernel writes y anew.
  const bool onto = a.bias.present() && !apart;
  if (onto) add_bias();
  if (!blas_multiply(cuda, weight, tokens, to, onto ? Accum(1) : Accum(0), count, arena)) {
    return false;
  }
  if (apart) add_bias();
  return true;
}

// y += x W^T for x (batch, inputs) and y (batch, outputs). False, and nothing queued, if cuBLASLt
// does not take these arguments.
template <class T>
bool blas_linear_onto(const Cuda& cuda, const View<const T, 2>& x, const View<const T, 2>& weight,
                      const View<accum_t<T>, 2>& y) {
  using Accum = accum_t<T>;
  const auto rows = [](const auto& v) { return v.stride(1) == 1 && v.stride(0) >= v.extent(1); };
  if (!rows(x) || !rows(weight) || !rows(y)) return false;
  const auto columns = [](const auto& v, bool transposed) {
    return blas_matrix(v.data(), v.extent(1), v.extent(0), v.stride(0), 0, transposed);
  };
  return blas_multiply(cuda, columns(weight, true), columns(x, false), columns(y, false), Accum(1),
                       1, cuda.workspace);
}

// The vectors of a (batch, length, features) view, if its tokens are one below another.
template <class T>
View<T, 2> token_rows(const View<T, 3>& v) noexcept {
  return v.extent(1) == 1 ? v.select(1, 0) : v.select(0, 0);
}

// Few tokens: true if the weight was put to them without cuBLASLt, whose kernels are made for many.
template <class T, class TOut>
bool linear_of_few(const Cuda& cuda, const LinearArgs<T, TOut>& a, index_t tokens, Status* status) {
  if constexpr (!std::is_same<T, double>::value) {
    if ((a.x.extent(0) != 1 && a.x.extent(1) != 1) || !gemv_takes<T>(tokens, a.x.extent(2)) ||
        a.weight.extent(0) > 0x7fffffff) {
      return false;
    }
    const GemvOutput<T, TOut> sink{token_rows(a.y), a.bias};
    *status = cuda_status("linear", launch_gemv(cuda, a.weight, token_rows(a.x), sink));
    return true;
  }
  return false;
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
  Status status;
  if (detail::linear_of_few(cuda, a, tokens, &status)) return status;
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
