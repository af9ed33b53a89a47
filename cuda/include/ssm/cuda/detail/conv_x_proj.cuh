#pragma once

#include <algorithm>
#include <type_traits>

#include "ssm/cuda/detail/conv_step.cuh"
#include "ssm/cuda/detail/dependent_launch.cuh"
#include "ssm/cuda/detail/elements.cuh"
#include "ssm/cuda/detail/gemv.cuh"
#include "ssm/cuda/detail/matrix_tile.cuh"
#include "ssm/ops/mamba_step.hpp"

// The convolution of a decoding step and the product after it, for more rows than those of a few
// tokens and 16-bit T:
//
//   x     = silu(conv1d(x))      from and to the state
//   dt_BC = W_x x                rounded once, from sums in float
//
// A block takes some rows and a slice of the channels. It computes their x, which stays in shared
// memory, and the product with its slice of W_x on the tensor cores. A second kernel adds the
// slices' parts, always in the same order.

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kConvXProjWarps = 8;
constexpr int kConvXProjThreads = 32 * kConvXProjWarps;
constexpr int kConvXProjSlice = static_cast<int>(kMambaStepSlice);  // four channels a lane
static_assert(kConvXProjSlice == 4 * 32, "a warp has one row of a slice at a time");
constexpr int kConvXProjRun = 32;   // channels of two products of tiles, 16 bytes a lane
constexpr int kConvXProjTiles = 3;  // of eight outputs, of a warp at a time
// Elements from row to row of x: eight lanes that read 16 bytes each meet every bank once.
constexpr int kConvXProjPitch = kConvXProjSlice + 32;

template <class T, class H>
struct ConvXProjParams {
  ConvStep<T, H> conv;      // of width 4
  View<const T, 2> x;       // (batch, channels)
  View<const T, 2> weight;  // (outputs, channels)
  View<float, 3> parts;     // (slices, batch, outputs)
};

// A warp's products: the block's x with kConvXProjTiles tiles of outputs, the tiles
// kConvXProjWarps apart.
template <class T, int kRows>
class ConvXProjProduct {
 public:
  // Asks for the slice of the weight from channel0 on, of the warp's tiles from `tile` on.
  __device__ ConvXProjProduct(const View<const T, 2>& weight, index_t channel0, int tile)
      : output0_(tile * 8) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < kConvXProjTiles; ++i) {
      const int output = output0_ + i * kApart + lane / 4;
#pragma unroll
      for (int k = 0; k < kRuns; ++k) {
        const index_t d = channel0 + k * kConvXProjRun + lane % 4 * 8;
        weight_[i][k] = {};
        if (output < weight.extent(0) && d < weight.extent(1)) {
          weight_[i][k] = Pack<T>::load(weight.data() + output * weight.stride(0) + d);
        }
      }
    }
  }
  // A lane's 16 bytes are its elements of two tiles: channels [8 t, 8 t + 8) of a run stand for
  // [2 t, 2 t + 2) and [2 t + 8, 2 t + 10) of the one and then of the other, in x and weight alike.
  __device__ void multiply(const T (&x)[kRows][kConvXProjPitch]) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int k = 0; k < kRuns; ++k) {
#pragma unroll
      for (int m = 0; m < kRows / 16; ++m) {
        const T* const from = &x[m * 16 + lane / 4][k * kConvXProjRun + lane % 4 * 8];
        const uint4 upper = Pack<T>::load_changing(from).bits;
        const uint4 lower = Pack<T>::load_changing(from + 8 * kConvXProjPitch).bits;
#pragma unroll
        for (int i = 0; i < kConvXProjTiles; ++i) {
          const uint4 w = weight_[i][k].bits;
          multiply_tile<T>(sums_[m][i], {upper.x, lower.x, upper.y, lower.y}, {w.x, w.y});
          multiply_tile<T>(sums_[m][i], {upper.z, lower.z, upper.w, lower.w}, {w.z, w.w});
        }
      }
    }
  }
  // To the part (rows, outputs) of the rows from row0 on.
  __device__ void store(const View<float, 2>& part, index_t row0) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int i = 0; i < kConvXProjTiles; ++i) {
      const int output = output0_ + i * kApart + lane % 4 * 2;
      if (output >= part.extent(1)) continue;
#pragma unroll
      for (int r = 0; r < kRows / 8; ++r) {
        const index_t row = row0 + r * 8 + lane / 4;
        if (row >= part.extent(0)) continue;
        const float* const sums = &sums_[r / 2][i][r % 2 * 2];
        *reinterpret_cast<float2*>(&part(row, output)) = make_float2(sums[0], sums[1]);
      }
    }
  }

 private:
  static constexpr int kRuns = kConvXProjSlice / kConvXProjRun;
  static constexpr int kApart = 8 * kConvXProjWarps;

  int output0_;
  Pack<T> weight_[kConvXProjTiles][kRuns];
  float sums_[kRows / 16][kConvXProjTiles][4] = {};
};

// kRows rows of a block, a multiple of 16.
template <class T, class H, int kRows>
__global__ void __launch_bounds__(kConvXProjThreads)
    conv_x_proj_kernel(const ConvXProjParams<T, H> p) {
  __shared__ alignas(16) T x[kRows][kConvXProjPitch];
  constexpr int kEach = kRows / kConvXProjWarps;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const auto slices = static_cast<unsigned>(p.parts.extent(0));
  const index_t slice = blockIdx.x % slices;
  const index_t channel0 = slice * kConvXProjSlice;
  const index_t row0 = static_cast<index_t>(blockIdx.x / slices) * kRows;
  using Product = ConvXProjProduct<T, kRows>;
  Product product(p.weight, channel0, warp);
  const index_t d = channel0 + lane * 4;
  const bool channel = d < p.x.extent(1);  // a multiple of eight
  const ConvFours<T, H> fours(p.conv, channel ? d : 0);
  wait_for_kernel_before();
  // So late, for the kernels after to know that those before this one have ended.
  allow_kernel_after();

  index_t slots[kEach];
  typename ConvFours<T, H>::Row rows[kEach];
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    const index_t b = row0 + r * kConvXProjWarps + warp;
    slots[r] = -1;
    if (!channel || b >= p.x.extent(0)) continue;
    slots[r] = p.conv.slots.data() == nullptr ? b : p.conv.slots(b);
    if (slots[r] < 0) continue;
    rows[r] = fours.fetch(p.conv, slots[r], p.x.data() + b * p.x.stride(0) + d);
  }
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    const int row = r * kConvXProjWarps + warp;
    Elements<T, 4> y = {};
    if (slots[r] >= 0) y = fours.put(p.conv, row0 + row, slots[r], rows[r]);
    y.store(&x[row][lane * 4]);
  }
  __syncthreads();
  const View<float, 2> part = p.parts.select(0, slice);
  const int tiles = static_cast<int>((part.extent(1) + 7) / 8);
  for (int tile = warp;;) {
    product.multiply(x);
    product.store(part, row0);
    tile += kConvXProjTiles * kConvXProjWarps;
    if (tile >= tiles) break;
    product = Product(p.weight, channel0, tile);
  }
}

// y = the parts' sum, both contiguous: a warp adds every eighth part of 32 groups of four.
template <class T>
__global__ void __launch_bounds__(kConvXProjThreads)
    sum_parts_kernel(const View<const float, 3> parts, T* y) {
  __shared__ float4 sums[kConvXProjWarps][32];
  allow_kernel_after();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const index_t at = 4 * (static_cast<index_t>(blockIdx.x) * 32 + lane);
  const bool exists = at < parts.stride(0);
  wait_for_kernel_before();
  float4 sum = {};
  const auto add = [&](const float4& v) {
    sum.x += v.x;
    sum.y += v.y;
    sum.z += v.z;
    sum.w += v.w;
  };
#pragma unroll 8
  for (index_t i = warp; i < parts.extent(0); i += kConvXProjWarps) {
    if (exists) add(*reinterpret_cast<const float4*>(parts.data() + i * parts.stride(0) + at));
  }
  sums[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || !exists) return;
  for (int w = 1; w < kConvXProjWarps; ++w) add(sums[w][lane]);
  Elements<T, 4> out;
  out.set_pair(0, sum.x, sum.y);
  out.set_pair(2, sum.z, sum.w);
  out.store_at_once(y + at);
}

// dt_BC (batch, outputs) and the parts are contiguous, as they are carved.
template <class T, class H>
bool conv_x_proj_takes(const ConvXProjParams<T, H>& p) noexcept {
  if constexpr (std::is_same<T, float>::value) {
    return false;
  } else {
    return p.x.extent(0) > kGemvTokens && p.weight.extent(0) % 4 == 0 && has_packs(p.weight) &&
           p.weight.extent(0) < (index_t{1} << 30) && conv_fours_take(p.conv, p.x) &&
           compiled_for(conv_x_proj_kernel<T, H, 16>, 80);
  }
}

// Of what conv_x_proj_takes has approved.
template <class T, class H>
Status launch_conv_x_proj(const char* operation, const Cuda& cuda, const ConvXProjParams<T, H>& p,
                          const View<T, 2>& dt_BC) {
  constexpr index_t kManyRows = 64;
  const bool many = p.x.extent(0) > kManyRows;
  const index_t rows = many ? 32 : 16;
  const index_t blocks = saturating_mul(p.parts.extent(0), (p.x.extent(0) + rows - 1) / rows);
  const index_t sum_blocks = (dt_BC.size() + 4 * 32 - 1) / (4 * 32);
  Status status = check_grid(operation, std::max(blocks, sum_blocks));
  if (!status) return status;
  const auto kernel = many ? conv_x_proj_kernel<T, H, 32> : conv_x_proj_kernel<T, H, 16>;
  status = cuda_status(operation, launch_dependent(cuda, kernel, blocks, kConvXProjThreads, 0, p));
  if (!status) return status;
  return cuda_status(operation,
                     launch_dependent(cuda, sum_parts_kernel<T>, sum_blocks, kConvXProjThreads, 0,
                                      View<const float, 3>(p.parts), dt_BC.data()));
}

}  // namespace detail
SSM_NAMESPACE_END
