#pragma once

#include <type_traits>

#include "ssm/cuda/detail/async_copy.cuh"
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

constexpr int kConvXProjOutputs = 8 * kConvXProjTiles * kConvXProjWarps;  // of a block at a time

template <class T, class H>
struct ConvXProjParams {
  ConvStep<T, H> conv;      // of width 4
  View<const T, 2> x;       // (batch, channels)
  View<const T, 2> weight;  // (outputs, channels)
  View<float, 3> parts;     // (slices, batch, outputs)
};

template <class T, int kRows>
struct ConvXProjShared {
  T x[kRows][kConvXProjPitch];
  T weight[kConvXProjOutputs][kConvXProjPitch];
};

// Asks for the weight of a slice, from the channel and output given on; zero beyond it.
template <class T>
__device__ void conv_x_proj_fetch(const View<const T, 2>& weight, index_t channel0, int output0,
                                  T (&to)[kConvXProjOutputs][kConvXProjPitch]) {
  constexpr int kPacks = kConvXProjSlice / 8;
  const int k = static_cast<int>(threadIdx.x) % kPacks * 8;
  const T* const from = weight.data() + channel0 + k;
#pragma unroll
  for (int i = 0; i < kConvXProjOutputs; i += kConvXProjThreads / kPacks) {
    const int row = i + static_cast<int>(threadIdx.x) / kPacks;
    const int output = output0 + row;
    const bool inside = output < weight.extent(0) && channel0 + k < weight.extent(1);
    async_copy_16(&to[row][k], inside ? from + output * weight.stride(0) : weight.data(),
                  inside ? 16 : 0);
  }
  async_commit();
}

// The product of the block's x with that weight, to the part (rows, outputs) of its slice. A warp
// has kConvXProjTiles tiles of eight outputs each.
//
// A lane's 16 bytes are its elements of two tiles: channels [8 t, 8 t + 8) of a run stand for
// [2 t, 2 t + 2) and [2 t + 8, 2 t + 10) of the one and then of the other, in x and weight alike.
template <class T, int kRows>
__device__ void conv_x_proj_multiply(const ConvXProjShared<T, kRows>& shared, int output0,
                                     index_t row0, const View<float, 2>& part) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  float sums[kRows / 16][kConvXProjTiles][4] = {};
#pragma unroll
  for (int k = 0; k < kConvXProjSlice; k += kConvXProjRun) {
    const auto sixteen = [&](const T* row) {
      return *reinterpret_cast<const uint4*>(row + k + lane % 4 * 8);
    };
    uint4 weight[kConvXProjTiles];
#pragma unroll
    for (int i = 0; i < kConvXProjTiles; ++i) {
      weight[i] = sixteen(shared.weight[(i * kConvXProjWarps + warp) * 8 + lane / 4]);
    }
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) {
      const uint4 upper = sixteen(shared.x[m * 16 + lane / 4]);
      const uint4 lower = sixteen(shared.x[m * 16 + 8 + lane / 4]);
#pragma unroll
      for (int i = 0; i < kConvXProjTiles; ++i) {
        const uint4 w = weight[i];
        multiply_tile<T>(sums[m][i], {upper.x, lower.x, upper.y, lower.y}, {w.x, w.y});
        multiply_tile<T>(sums[m][i], {upper.z, lower.z, upper.w, lower.w}, {w.z, w.w});
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kConvXProjTiles; ++i) {
    const int output = output0 + (i * kConvXProjWarps + warp) * 8 + lane % 4 * 2;
    if (output >= part.extent(1)) continue;
#pragma unroll
    for (int r = 0; r < kRows / 8; ++r) {
      const index_t row = row0 + r * 8 + lane / 4;
      if (row >= part.extent(0)) continue;
      const float* const pair = &sums[r / 2][i][r % 2 * 2];
      *reinterpret_cast<float2*>(&part(row, output)) = make_float2(pair[0], pair[1]);
    }
  }
}

// kRows rows of a block, a multiple of 16.
template <class T, class H, int kRows>
__global__ void __launch_bounds__(kConvXProjThreads, 2)
    conv_x_proj_kernel(const ConvXProjParams<T, H> p) {
  using Shared = ConvXProjShared<T, kRows>;
  extern __shared__ float4 conv_x_proj_memory[];
  Shared& shared = *reinterpret_cast<Shared*>(conv_x_proj_memory);
  constexpr int kEach = kRows / kConvXProjWarps;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const auto slices = static_cast<unsigned>(p.parts.extent(0));
  const index_t slice = blockIdx.x % slices;
  const index_t channel0 = slice * kConvXProjSlice;
  const index_t row0 = static_cast<index_t>(blockIdx.x / slices) * kRows;
  conv_x_proj_fetch(p.weight, channel0, 0, shared.weight);
  const index_t d = channel0 + lane * 4;
  const bool channel = d < p.x.extent(1);  // a multiple of eight
  const ConvFours<T, H> fours(p.conv, channel ? d : 0);
  wait_for_kernel_before();
  // So late, for the kernels after to know that those before this one have ended.
  allow_kernel_after();

  index_t slots[kEach];
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    const index_t b = row0 + r * kConvXProjWarps + warp;
    slots[r] = -1;
    if (!channel || b >= p.x.extent(0)) continue;
    slots[r] = p.conv.slots.data() == nullptr ? b : p.conv.slots(b);
  }
  typename ConvFours<T, H>::Row rows[kEach];
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    const index_t b = row0 + r * kConvXProjWarps + warp;
    if (slots[r] >= 0) {
      rows[r] = fours.fetch(p.conv, slots[r], p.x.data() + b * p.x.stride(0) + d);
    }
  }
#pragma unroll
  for (int r = 0; r < kEach; ++r) {
    const int row = r * kConvXProjWarps + warp;
    Elements<T, 4> y = {};
    if (slots[r] >= 0) y = fours.put(p.conv, row0 + row, slots[r], rows[r]);
    y.store(&shared.x[row][lane * 4]);
  }
  async_wait_all();
  __syncthreads();
  const View<float, 2> part = p.parts.select(0, slice);
  for (int output0 = 0;;) {
    conv_x_proj_multiply(shared, output0, row0, part);
    output0 += kConvXProjOutputs;
    if (output0 >= part.extent(1)) break;
    __syncthreads();
    conv_x_proj_fetch(p.weight, channel0, output0, shared.weight);
    async_wait_all();
    __syncthreads();
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
  Status status;
  const auto run = [&](auto kernel, index_t rows, std::size_t bytes) {
    const index_t blocks = saturating_mul(p.parts.extent(0), (p.x.extent(0) + rows - 1) / rows);
    status = check_grid(operation, blocks);
    if (!status) return;
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             static_cast<int>(bytes));
    if (error == cudaSuccess) {
      error = launch_dependent(cuda, kernel, blocks, kConvXProjThreads, bytes, p);
    }
    status = cuda_status(operation, error);
  };
  if (p.x.extent(0) > kManyRows) {
    run(conv_x_proj_kernel<T, H, 32>, 32, sizeof(ConvXProjShared<T, 32>));
  } else {
    run(conv_x_proj_kernel<T, H, 16>, 16, sizeof(ConvXProjShared<T, 16>));
  }
  if (!status) return status;
  const index_t blocks = (dt_BC.size() + 4 * 32 - 1) / (4 * 32);
  status = check_grid(operation, blocks);
  if (!status) return status;
  return cuda_status(operation,
                     launch_dependent(cuda, sum_parts_kernel<T>, blocks, kConvXProjThreads, 0,
                                      View<const float, 3>(p.parts), dt_BC.data()));
}

}  // namespace detail
SSM_NAMESPACE_END
