#pragma once

#include "ssm/cuda/detail/dependent_launch.cuh"
#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/detail/elements.cuh"

// Products of a weight with the vectors of a few tokens, for decoding: bound by reading the weight,
// which is read once for all tokens; its first part is asked for before the vectors are ready.
//
//   sums[row, b] = sum_i weight[row, i] x[b, i]
//
// A Source gives the vectors and a Sink takes the sums, so that what stands before and after a
// product in a block needs no kernels of its own.

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kGemvThreads = 256;
constexpr int kGemvWarps = kGemvThreads / 32;
constexpr int kGemvTokens = 4;                      // at most
constexpr std::size_t kGemvSharedBytes = 48 << 10;  // at most, for the vectors

// 16 bytes of a weight or of a vector.
template <class T>
struct Pack {
  static constexpr int kCount = 16 / static_cast<int>(sizeof(T));
  uint4 bits;

  // Weights are read once: they need no place in the L1.
  static __device__ __forceinline__ Pack load(const T* from) {
    Pack p;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(p.bits.x), "=r"(p.bits.y), "=r"(p.bits.z), "=r"(p.bits.w)
        : "l"(from));
    return p;
  }
  // What a kernel before this one may have written.
  static __device__ __forceinline__ Pack load_changing(const T* from) {
    return {*reinterpret_cast<const uint4*>(from)};
  }
  __device__ __forceinline__ void widen(float (&to)[kCount]) const {
    const unsigned words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (kCount == 4) {
        to[i] = __uint_as_float(words[i]);
      } else {
        T low, high;
        low.bits = static_cast<std::uint16_t>(words[i] & 0xffffu);
        high.bits = static_cast<std::uint16_t>(words[i] >> 16);
        to[2 * i] = load_float(low);
        to[2 * i + 1] = load_float(high);
      }
    }
  }
};

// Whether rows of a matrix are made of whole, aligned groups of kCount elements.
template <int kCount, class T>
bool has_groups(const View<const T, 2>& v) noexcept {
  constexpr std::size_t kBytes = kCount * sizeof(T);
  return reinterpret_cast<std::uintptr_t>(v.data()) % kBytes == 0 && v.stride(1) == 1 &&
         v.stride(0) % kCount == 0 && v.extent(1) % kCount == 0;
}
template <class T>
bool has_packs(const View<const T, 2>& v) noexcept {
  return has_groups<Pack<T>::kCount>(v);
}

template <class T>
struct GemvWeight {
  const T* data;
  index_t row_stride, column_stride;
  int rows, columns;
  bool packs;

  explicit GemvWeight(const View<const T, 2>& w) noexcept
      : data(w.data()),
        row_stride(w.stride(0)),
        column_stride(w.stride(1)),
        rows(static_cast<int>(w.extent(0))),
        columns(static_cast<int>(w.extent(1))),
        packs(has_packs(w)) {}
};

// Where element i of a vector lies in shared memory. The two halves of a pack of eight lie apart,
// so that neighbouring lanes read neighbouring groups of four.
template <class T>
__device__ __forceinline__ int gemv_slot(int i, int columns) {
  if constexpr (Pack<T>::kCount == 4) {
    return i;
  } else {
    const int half = (columns + 7) / 8 * 4;
    return i / 8 * 4 + i % 4 + (i % 8 < 4 ? 0 : half);
  }
}
template <class T>
constexpr std::size_t gemv_shared_bytes(index_t columns, int tokens) noexcept {
  return static_cast<std::size_t>((columns + 7) / 8 * 8 * tokens) * sizeof(float);
}

// x (batch, columns) as it is.
template <class T>
struct GemvInput {
  View<const T, 2> x;
  bool packs;

  explicit GemvInput(const View<const T, 2>& vectors) noexcept
      : x(vectors), packs(has_packs(vectors)) {}

  // The elements [i, i + kCount) of vector b, i a multiple of kCount.
  template <int kCount>
  __device__ void read(index_t b, int i, float (&to)[kCount]) const {
    if (packs) {
      Pack<T>::load_changing(x.data() + b * x.stride(0) + i).widen(to);
      return;
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) to[j] = load_float(x(b, i + j));
  }

  // Puts the vectors into `to`, kTokens of `size` floats each, zeros beyond the batch. `scale` is
  // what the sums are to be multiplied by. Ends in a barrier.
  template <int kTokens>
  __device__ void stage(float* to, int columns, int size, float (&scale)[kTokens]) const {
    constexpr int kCount = Pack<T>::kCount;
    const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int b = 0; b < kTokens; ++b) {
      scale[b] = 1.0f;
      float* const vector = to + b * size;
      if (packs) {
#pragma unroll 4
        for (int i = thread * kCount; i < columns; i += kGemvThreads * kCount) {
          float v[kCount] = {};
          if (b < x.extent(0)) read(b, i, v);
#pragma unroll
          for (int j = 0; j < kCount; j += 4) {
            *reinterpret_cast<float4*>(&vector[gemv_slot<T>(i + j, columns)]) =
                make_float4(v[j], v[j + 1], v[j + 2], v[j + 3]);
          }
        }
      } else {
#pragma unroll 4
        for (int i = thread; i < columns; i += kGemvThreads) {
          vector[gemv_slot<T>(i, columns)] = b < x.extent(0) ? load_float(x(b, i)) : 0.0f;
        }
      }
    }
    __syncthreads();
  }
};

// rms_norm(residual) weight. The sum of squares is taken beside, and divided out of the sums.
template <class T>
struct GemvNormedInput {
  View<const float, 2> residual;
  View<const T, 1> weight;
  float eps;
  bool groups;  // of four

  GemvNormedInput(const View<const float, 2>& r, const View<const T, 1>& w, float e) noexcept
      : residual(r),
        weight(w),
        eps(e),
        groups(has_groups<4>(r) &&
               has_groups<4>(View<const T, 2>(w.data(), {1, w.extent(0)}, {0, w.stride(0)}))) {}

  template <int kTokens>
  __device__ void stage(float* to, int columns, int size, float (&scale)[kTokens]) const {
    __shared__ float squares[kTokens][kGemvWarps];
    const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
    for (int b = 0; b < kTokens; ++b) {
      const bool exists = b < residual.extent(0);
      float* const vector = to + b * size;
      float sum = 0.0f;
      if (groups) {
        const float* const from = residual.data() + b * residual.stride(0);
#pragma unroll 4
        for (int i = thread * 4; i < columns; i += kGemvThreads * 4) {
          float4 r = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
          if (exists) r = *reinterpret_cast<const float4*>(from + i);
          auto w = Elements<T, 4>::load(weight.data() + i);
          sum = fmaf(r.x, r.x, fmaf(r.y, r.y, fmaf(r.z, r.z, fmaf(r.w, r.w, sum))));
          *reinterpret_cast<float4*>(&vector[gemv_slot<T>(i, columns)]) =
              make_float4(r.x * load_float(w.v[0]), r.y * load_float(w.v[1]),
                          r.z * load_float(w.v[2]), r.w * load_float(w.v[3]));
        }
      } else {
#pragma unroll 4
        for (int i = thread; i < columns; i += kGemvThreads) {
          const float r = exists ? residual(b, i) : 0.0f;
          sum = fmaf(r, r, sum);
          vector[gemv_slot<T>(i, columns)] = r * load_float(weight(i));
        }
      }
#pragma unroll
      for (int m = 16; m >= 1; m /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, m);
      if (thread % 32 == 0) squares[b][thread / 32] = sum;
    }
    __syncthreads();
#pragma unroll
    for (int b = 0; b < kTokens; ++b) {
      float sum = 0.0f;
#pragma unroll
      for (int w = 0; w < kGemvWarps; ++w) sum += squares[b][w];
      scale[b] = 1.0f / sqrtf(sum / static_cast<float>(columns) + eps);
    }
  }
};

// A Sink's Prepared is what one lane fetches for a sum of its own before the sum is known.
struct NothingPrepared {};

// y = sums + bias.
template <class T, class TOut>
struct GemvOutput {
  View<TOut, 2> y;        // (batch, rows)
  View<const T, 1> bias;  // (rows), optional
  using Prepared = NothingPrepared;

  __device__ index_t batch() const { return y.extent(0); }
  __device__ Prepared prepare(int, int) const { return {}; }
  __device__ void put(int row, int b, float sum, const Prepared&) const {
    if (bias.data() != nullptr) sum += load_float(bias(row));
    y(b, row) = store_as<TOut>(sum);
  }
};

// residual += sums + bias.
template <class T>
struct GemvOntoResidual {
  View<float, 2> residual;  // (batch, rows)
  View<const T, 1> bias;    // (rows), optional
  struct Prepared {
    float residual;
  };

  __device__ index_t batch() const { return residual.extent(0); }
  __device__ Prepared prepare(int row, int b) const { return {residual(b, row)}; }
  __device__ void put(int row, int b, float sum, const Prepared& p) const {
    if (bias.data() != nullptr) sum += load_float(bias(row));
    residual(b, row) = p.residual + sum;
  }
};

// A warp computes one row after another, as a stream of steps of kDeep packs a lane: while it
// multiplies one, the next two are on their way. The first two are asked for before the kernel
// before has ended.
template <class T, int kTokens, class Source, class Sink>
__global__ void __launch_bounds__(kGemvThreads, kTokens == 1 ? 3 : 2)
    gemv_kernel(const GemvWeight<T> w, const Source source, const Sink sink) {
  constexpr int kCount = Pack<T>::kCount;
  constexpr int kDeep = 2;
  constexpr int kStep = kDeep * 32 * kCount;  // elements
  extern __shared__ float vectors[];
  allow_kernel_after();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warps = static_cast<int>(gridDim.x) * kGemvWarps;
  struct Place {
    int row, column;
  };
  const auto after = [&](Place p) {
    p.column += kStep;
    return p.column < w.columns ? p : Place{p.row + warps, 0};
  };
  const auto load = [&](Place p, Pack<T>(&to)[kDeep]) {
    const T* const from = w.data + p.row * w.row_stride + p.column + lane * kCount;
#pragma unroll
    for (int u = 0; u < kDeep; ++u) {
      const int ahead = u * 32 * kCount;
      to[u] = {};
      if (p.row < w.rows && p.column + lane * kCount + ahead < w.columns) {
        to[u] = Pack<T>::load(from + ahead);
      }
    }
  };

  Place now{static_cast<int>(blockIdx.x) * kGemvWarps + static_cast<int>(threadIdx.x) / 32, 0};
  Place third = now;
  Pack<T> first_packs[kDeep], second_packs[kDeep], third_packs[kDeep];
  if (w.packs) {
    load(now, first_packs);
    load(after(now), second_packs);
    third = after(after(now));
  }
  wait_for_kernel_before();
  // Lane b takes the sum of token b.
  const bool owns = lane < kTokens && lane < sink.batch();
  typename Sink::Prepared prepared = {};
  if (owns && now.row < w.rows) prepared = sink.prepare(now.row, lane);
  float scale[kTokens];
  const int size = (w.columns + 7) / 8 * 8;
  source.stage(vectors, w.columns, size, scale);

  float sums[kTokens] = {};
  while (now.row < w.rows) {
    Place next{now.row + warps, 0};
    if (w.packs) {
      load(third, third_packs);
#pragma unroll
      for (int u = 0; u < kDeep; ++u) {
        const int i = now.column + (u * 32 + lane) * kCount;
        if (i >= w.columns) break;
        float weight[kCount];
        first_packs[u].widen(weight);
#pragma unroll
        for (int b = 0; b < kTokens; ++b) {
#pragma unroll
          for (int j = 0; j < kCount; j += 4) {
            const float4 x = *reinterpret_cast<const float4*>(
                &vectors[b * size + gemv_slot<T>(i + j, w.columns)]);
            sums[b] = fmaf(weight[j], x.x, sums[b]);
            sums[b] = fmaf(weight[j + 1], x.y, sums[b]);
            sums[b] = fmaf(weight[j + 2], x.z, sums[b]);
            sums[b] = fmaf(weight[j + 3], x.w, sums[b]);
          }
        }
      }
#pragma unroll
      for (int u = 0; u < kDeep; ++u) {
        first_packs[u] = second_packs[u];
        second_packs[u] = third_packs[u];
      }
      next = after(now);
      third = after(third);
    } else {
      const T* const from = w.data + now.row * w.row_stride;
      for (int i = lane; i < w.columns; i += 32) {
        const float weight = load_float(from[i * w.column_stride]);
#pragma unroll
        for (int b = 0; b < kTokens; ++b) {
          sums[b] = fmaf(weight, vectors[b * size + gemv_slot<T>(i, w.columns)], sums[b]);
        }
      }
    }
    if (next.row != now.row) {
      float own = 0.0f;
#pragma unroll
      for (int b = 0; b < kTokens; ++b) {
#pragma unroll
        for (int m = 16; m >= 1; m /= 2) sums[b] += __shfl_xor_sync(0xffffffffu, sums[b], m);
        if (lane == b) own = sums[b] * scale[b];
        sums[b] = 0.0f;
      }
      if (owns) sink.put(now.row, lane, own, prepared);
      if (owns && next.row < w.rows) prepared = sink.prepare(next.row, lane);
    }
    now = next;
  }
}

// Few rows: a block computes one, from vectors that are read where they lie.
template <class T, int kTokens, class TOut>
__global__ void __launch_bounds__(kGemvThreads)
    gemv_row_kernel(const GemvWeight<T> w, const GemvInput<T> source,
                    const GemvOutput<T, TOut> sink) {
  constexpr int kCount = Pack<T>::kCount;
  __shared__ float sums[kTokens][kGemvWarps];
  allow_kernel_after();
  const int thread = static_cast<int>(threadIdx.x);
  const int row = static_cast<int>(blockIdx.x);
  const T* const weight = w.data + row * w.row_stride;
  const index_t batch = sink.batch();
  float own[kTokens] = {};
  if (w.packs) {
    // The first pack comes before the vectors are there.
    const int first = thread * kCount;
    Pack<T> pack = {};
    if (first < w.columns) pack = Pack<T>::load(weight + first);
    wait_for_kernel_before();
    for (int i = first; i < w.columns; i += kGemvThreads * kCount) {
      if (i != first) pack = Pack<T>::load(weight + i);
      float values[kCount];
      pack.widen(values);
#pragma unroll
      for (int b = 0; b < kTokens; ++b) {
        if (b >= batch) break;
        float x[kCount];
        source.read(b, i, x);
#pragma unroll
        for (int j = 0; j < kCount; ++j) own[b] = fmaf(values[j], x[j], own[b]);
      }
    }
  } else {
    wait_for_kernel_before();
    for (int i = thread; i < w.columns; i += kGemvThreads) {
      const float value = load_float(weight[i * w.column_stride]);
#pragma unroll
      for (int b = 0; b < kTokens; ++b) {
        if (b < batch) own[b] = fmaf(value, load_float(source.x(b, i)), own[b]);
      }
    }
  }
#pragma unroll
  for (int b = 0; b < kTokens; ++b) {
    float sum = own[b];
#pragma unroll
    for (int m = 16; m >= 1; m /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, m);
    if (thread % 32 == 0) sums[b][thread / 32] = sum;
  }
  __syncthreads();
  if (thread >= batch) return;
  float sum = 0.0f;
#pragma unroll
  for (int k = 0; k < kGemvWarps; ++k) sum += sums[thread][k];
  sink.put(row, thread, sum, {});
}

// Whether these many vectors of that length are few enough.
template <class T>
bool gemv_takes(index_t tokens, index_t columns) noexcept {
  return tokens >= 1 && tokens <= kGemvTokens && columns >= 1 && columns <= (1 << 20) &&
         gemv_shared_bytes<T>(columns, tokens == 1 ? 1 : kGemvTokens) <= kGemvSharedBytes;
}

// Queues the product for `tokens` vectors, of which gemv_takes has approved.
template <class T, class Source, class Sink>
cudaError_t launch_gemv(const Cuda& cuda, const View<const T, 2>& weight, index_t tokens,
                        const Source& source, const Sink& sink) {
  const GemvWeight<T> w(weight);
  // Three blocks per multiprocessor have more in flight than two, and leave room for the kernel
  // after.
  const int most = 3 * device_attribute(cudaDevAttrMultiProcessorCount);
  const int needed = (w.rows + kGemvWarps - 1) / kGemvWarps;
  const auto run = [&](auto count) {
    constexpr int kTokens = decltype(count)::value;
    return launch_dependent(cuda, gemv_kernel<T, kTokens, Source, Sink>,
                            needed < most ? needed : most, kGemvThreads,
                            gemv_shared_bytes<T>(w.columns, kTokens), w, source, sink);
  };
  return tokens == 1 ? run(std::integral_constant<int, 1>{})
                     : run(std::integral_constant<int, kGemvTokens>{});
}

// The same for plain vectors, which a weight of few rows takes in a block per row.
template <class T, class TOut>
cudaError_t launch_gemv(const Cuda& cuda, const View<const T, 2>& weight, const View<const T, 2>& x,
                        const GemvOutput<T, TOut>& sink) {
  const index_t tokens = x.extent(0);
  const GemvInput<T> source(x);
  if (weight.extent(0) > 4 * device_attribute(cudaDevAttrMultiProcessorCount)) {
    return launch_gemv<T, GemvInput<T>, GemvOutput<T, TOut>>(cuda, weight, tokens, source, sink);
  }
  const GemvWeight<T> w(weight);
  const auto run = [&](auto count) {
    return launch_dependent(cuda, gemv_row_kernel<T, decltype(count)::value, TOut>, w.rows,
                            kGemvThreads, 0, w, source, sink);
  };
  return tokens == 1 ? run(std::integral_constant<int, 1>{})
                     : run(std::integral_constant<int, kGemvTokens>{});
}

}  // namespace detail
SSM_NAMESPACE_END
