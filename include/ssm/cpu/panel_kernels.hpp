#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "ssm/core/view.hpp"
#include "ssm/cpu/simd.hpp"

// The innermost loops of the linear layer. A weight is cut into panels of kPanelVectors registers
// of outputs and blocks of kDepth inputs; a kernel multiplies one block of a panel by a tile of
// rows of x and adds to the tile's sums. Each storage format of the weight is one struct that says
//
//   Sum                              the type of the sums
//   kRows                            the most rows of a tile
//   Row                              kDepth inputs of one row of x, as the kernel reads them
//   fill(row, x, stride, depth)      makes a Row
//   bytes(depth, width)              the size of a block of `width` outputs; linear in width
//   pack(weight, first, k0, depth, width, block)   writes one
//   multiply<R, V>(rows, block, depth, sums, ld, add)
//                                    sums[r * ld + j] (+)= sum_k x[r, k] weight[j, k], r < R, j < V
//                                    registers
//
// Every output is one chain of sums over k within a block and one over blocks: its bits depend
// neither on R nor on how the work is spread over threads.

// Loops over a tile's registers must disappear, or the tile would live in memory.
#if defined(__clang__)
#define SSM_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define SSM_UNROLL _Pragma("GCC unroll 64")
#else
#define SSM_UNROLL
#endif

SSM_CPU_DETAIL_BEGIN

// A tile of kTileRows x kPanelVectors registers of sums fills the register file beside one row of a
// panel and one broadcast.
#if SSM_SIMD_AVX512 || SSM_SIMD_NEON
inline constexpr int kTileRows = 12;
inline constexpr int kPanelVectors = 2;
#elif SSM_SIMD_AVX2
inline constexpr int kTileRows = 6;
inline constexpr int kPanelVectors = 2;
#elif SSM_SIMD_SSE2
inline constexpr int kTileRows = 4;
inline constexpr int kPanelVectors = 2;
#else
inline constexpr int kTileRows = 2;
inline constexpr int kPanelVectors = 4;
#endif

template <class V, class Stored>
SSM_ALWAYS_INLINE V load_wide(const Stored* p) noexcept {
  if constexpr (std::is_same<typename V::Scalar, double>::value &&
                !std::is_same<Stored, double>::value) {
    return simd::load_lane_by_lane<V>(p);
  } else {
    return V::load(p);
  }
}

template <class Sum, class T>
SSM_ALWAYS_INLINE void widen_row(Sum* out, const T* x, index_t stride, int depth) noexcept {
  using V = Vec<Sum>;
  for (int k = 0; k < depth; k += V::kWidth) {
    const int n = depth - k < V::kWidth ? depth - k : V::kWidth;
    const T* p = x + k * stride;
    if constexpr (std::is_same<Sum, double>::value && !std::is_same<T, double>::value) {
      double lanes[V::kWidth] = {};
      for (int i = 0; i < n; ++i) lanes[i] = static_cast<double>(p[i * stride]);
      V::load(lanes).store(out + k);
    } else {
      load_strided<V>(p, stride, n).store(out + k);
    }
  }
}

template <class V, int R, int N>
SSM_ALWAYS_INLINE void clear_tile(V (&tile)[R][N]) noexcept {
  SSM_UNROLL
  for (int r = 0; r < R; ++r) {
    SSM_UNROLL
    for (int v = 0; v < N; ++v) tile[r][v] = V(typename V::Scalar(0));
  }
}

// The sums of a finished block to memory.
template <class V, int R, int N>
SSM_ALWAYS_INLINE void put_tile(const V (&tile)[R][N], typename V::Scalar* sums, index_t ld,
                                bool add) noexcept {
  SSM_UNROLL
  for (int r = 0; r < R; ++r) {
    SSM_UNROLL
    for (int v = 0; v < N; ++v) {
      typename V::Scalar* p = sums + r * ld + v * V::kWidth;
      (add ? V::load(p) + tile[r][v] : tile[r][v]).store(p);
    }
  }
}

// A block of the weight, each element at out[place(j, k)]; elements beyond the weight are zero.
template <class Sum, class S, class T, class Place>
void gather_block(const View<const T, 2>& weight, index_t first, index_t k0, int depth, int padded,
                  int width, S* out, Place place) noexcept {
  const index_t left = weight.extent(0) - first;
  const int inside = left < width ? static_cast<int>(left) : width;
  const auto convert = [](T value) {
    if constexpr (std::is_same<S, T>::value) {
      return value;
    } else {
      using Through = std::conditional_t<sizeof(S) == 2, float, Sum>;
      return static_cast<S>(static_cast<Through>(value));
    }
  };
  const T* const w = &weight(first, k0);
  const index_t across = weight.stride(0);
  const index_t along = weight.stride(1);
  int j = 0;
  // Four outputs at a time: four streams to read, whole 16-byte pieces to write.
  for (; along == 1 && j + 4 <= inside; j += 4) {
    const T* const w0 = w + j * across;
    const T* const w1 = w0 + across;
    const T* const w2 = w1 + across;
    const T* const w3 = w2 + across;
    for (int k = 0; k < depth; ++k) {
      out[place(j, k)] = convert(w0[k]);
      out[place(j + 1, k)] = convert(w1[k]);
      out[place(j + 2, k)] = convert(w2[k]);
      out[place(j + 3, k)] = convert(w3[k]);
    }
  }
  for (int k = 0; k < depth; ++k) {
    for (int i = j; i < inside; ++i) out[place(i, k)] = convert(w[i * across + k * along]);
    for (int i = inside; i < width; ++i) out[place(i, k)] = S{};
  }
  for (int k = depth; k < padded; ++k) {
    for (int i = 0; i < width; ++i) out[place(i, k)] = S{};
  }
}

// Weights stored as S, one input after another across the panel: [k][width].
template <class SumType, class S>
struct DensePanel {
  using Sum = SumType;
  using V = Vec<Sum>;
  // Weights that a scalar loop must widen to double are not worth a kernel of every height.
  static constexpr bool kWidensInRegisters =
      std::is_same<Sum, float>::value || std::is_same<S, Sum>::value;
  static constexpr int kRows = kWidensInRegisters || kTileRows < 4 ? kTileRows : 4;
  // A block of x takes 1 KB a row, a block of a panel 32 KB with AVX-512: the first-level cache.
  static constexpr int kDepth = 1024 / static_cast<int>(sizeof(Sum));
  // Padded, so that the rows of a tile do not start in the same cache set.
  struct Row {
    Sum x[kDepth + 64 / static_cast<int>(sizeof(Sum))];
  };

  template <class T>
  static void fill(Row& row, const T* x, index_t stride, int depth) noexcept {
    widen_row(row.x, x, stride, depth);
  }

  static constexpr index_t bytes(int depth, index_t width) noexcept {
    return depth * width * static_cast<index_t>(sizeof(S));
  }

  template <class T>
  static void pack(const View<const T, 2>& weight, index_t first, index_t k0, int depth, int width,
                   void* block) noexcept {
    gather_block<Sum>(weight, first, k0, depth, depth, width, static_cast<S*>(block),
                      [width](int j, int k) { return k * width + j; });
  }

  template <int R, int N>
  static void multiply(const Row* rows, const void* block, int depth, Sum* sums, index_t ld,
                       bool add) noexcept {
    constexpr int kRowStride = static_cast<int>(sizeof(Row) / sizeof(Sum));
    const S* w = static_cast<const S*>(block);
    const Sum* x = rows->x;
    V tile[R][N];
    clear_tile(tile);
    for (int k = 0; k < depth; ++k) {
      V panel[N];
      SSM_UNROLL
      for (int v = 0; v < N; ++v) panel[v] = load_wide<V>(w + v * V::kWidth);
      SSM_UNROLL
      for (int r = 0; r < R; ++r) {
        const V xr(x[r * kRowStride]);
        SSM_UNROLL
        for (int v = 0; v < N; ++v) tile[r][v] = fma(xr, panel[v], tile[r][v]);
      }
      w += N * V::kWidth;
      ++x;
    }
    put_tile(tile, sums, ld, add);
  }
};

// kWidth pairs of bf16, the first of each pair in the low half of a 32-bit lane: one shift or one
// mask widens kWidth weights, where [k][width] would need a shuffle and a shift.
struct Bf16Pairs {
  using V = Vec<float>;
#if SSM_SIMD_AVX512
  __m512i v;
  static SSM_ALWAYS_INLINE Bf16Pairs load(const bf16* p) noexcept {
    return {_mm512_loadu_si512(p)};
  }
  SSM_ALWAYS_INLINE V first() const noexcept {
    return V(_mm512_castsi512_ps(_mm512_maskz_slli_epi32(V::kAll, v, 16)));
  }
  SSM_ALWAYS_INLINE V second() const noexcept {
    return V(_mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32(-65536))));
  }
#elif SSM_SIMD_AVX2
  __m256i v;
  static SSM_ALWAYS_INLINE Bf16Pairs load(const bf16* p) noexcept {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
  }
  SSM_ALWAYS_INLINE V first() const noexcept {
    return V(_mm256_castsi256_ps(_mm256_slli_epi32(v, 16)));
  }
  SSM_ALWAYS_INLINE V second() const noexcept {
    return V(_mm256_castsi256_ps(_mm256_and_si256(v, _mm256_set1_epi32(-65536))));
  }
#elif SSM_SIMD_SSE2
  __m128i v;
  static SSM_ALWAYS_INLINE Bf16Pairs load(const bf16* p) noexcept {
    return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))};
  }
  SSM_ALWAYS_INLINE V first() const noexcept { return V(_mm_castsi128_ps(_mm_slli_epi32(v, 16))); }
  SSM_ALWAYS_INLINE V second() const noexcept {
    return V(_mm_castsi128_ps(_mm_and_si128(v, _mm_set1_epi32(-65536))));
  }
#elif SSM_SIMD_NEON
  uint32x4_t v;
  static SSM_ALWAYS_INLINE Bf16Pairs load(const bf16* p) noexcept {
    return {vreinterpretq_u32_u16(vld1q_u16(reinterpret_cast<const std::uint16_t*>(p)))};
  }
  SSM_ALWAYS_INLINE V first() const noexcept {
    return V(vreinterpretq_f32_u32(vshlq_n_u32(v, 16)));
  }
  SSM_ALWAYS_INLINE V second() const noexcept {
    return V(vreinterpretq_f32_u32(vandq_u32(v, vdupq_n_u32(0xffff0000u))));
  }
#else
  bf16 pair[2];
  static SSM_ALWAYS_INLINE Bf16Pairs load(const bf16* p) noexcept { return {{p[0], p[1]}}; }
  SSM_ALWAYS_INLINE V first() const noexcept { return V(static_cast<float>(pair[0])); }
  SSM_ALWAYS_INLINE V second() const noexcept { return V(static_cast<float>(pair[1])); }
#endif
};

// Weights stored as bf16, [k / 2][width][2], times f32.
struct Bf16Panel {
  using Sum = float;
  using V = Vec<float>;
  static constexpr int kRows = kTileRows;
  static constexpr int kDepth = 256;
  using Row = DensePanel<float, float>::Row;

  template <class T>
  static void fill(Row& row, const T* x, index_t stride, int depth) noexcept {
    widen_row(row.x, x, stride, depth);
    if (depth % 2 != 0) row.x[depth] = 0.0f;
  }

  static constexpr index_t bytes(int depth, index_t width) noexcept {
    return (depth + depth % 2) * width * 2;
  }

  template <class T>
  static void pack(const View<const T, 2>& weight, index_t first, index_t k0, int depth, int width,
                   void* block) noexcept {
    gather_block<float>(weight, first, k0, depth, depth + depth % 2, width,
                        static_cast<bf16*>(block),
                        [width](int j, int k) { return (k / 2 * width + j) * 2 + k % 2; });
  }

  template <int R, int N>
  static void multiply(const Row* rows, const void* block, int depth, float* sums, index_t ld,
                       bool add) noexcept {
    constexpr int kRowStride = static_cast<int>(sizeof(Row) / sizeof(float));
    const bf16* w = static_cast<const bf16*>(block);
    const float* x = rows->x;
    V tile[R][N];
    clear_tile(tile);
    for (int k = 0; k < depth; k += 2) {
      V even[N];
      V odd[N];
      SSM_UNROLL
      for (int v = 0; v < N; ++v) {
        const Bf16Pairs pairs = Bf16Pairs::load(w + v * 2 * V::kWidth);
        even[v] = pairs.first();
        odd[v] = pairs.second();
      }
      SSM_UNROLL
      for (int r = 0; r < R; ++r) {
        const V x0(x[r * kRowStride]);
        const V x1(x[r * kRowStride + 1]);
        SSM_UNROLL
        for (int v = 0; v < N; ++v) {
          tile[r][v] = fma(x1, odd[v], fma(x0, even[v], tile[r][v]));
        }
      }
      w += N * 2 * V::kWidth;
      x += 2;
    }
    put_tile(tile, sums, ld, add);
  }
};

#if SSM_SIMD_AVX512_BF16
// The same weights times bf16: vdpbf16ps, twice the rate of an f32 product. Products are exact,
// sums are rounded to f32; the instruction takes and leaves subnormals as zero.
struct Bf16DotPanel {
  using Sum = float;
  using V = Vec<float>;
  static constexpr int kRows = kTileRows;
  static constexpr int kDepth = 512;
  struct Row {
    bf16 x[kDepth + 32];
  };

  static void fill(Row& row, const bf16* x, index_t stride, int depth) noexcept {
    if (stride == 1) {
      std::memcpy(row.x, x, static_cast<std::size_t>(depth) * sizeof(bf16));
    } else {
      for (int k = 0; k < depth; ++k) row.x[k] = x[k * stride];
    }
    if (depth % 2 != 0) row.x[depth] = bf16(0.0f);
  }

  static constexpr index_t bytes(int depth, index_t width) noexcept {
    return Bf16Panel::bytes(depth, width);
  }

  template <class T>
  static void pack(const View<const T, 2>& weight, index_t first, index_t k0, int depth, int width,
                   void* block) noexcept {
    Bf16Panel::pack(weight, first, k0, depth, width, block);
  }

  template <int R, int N>
  static void multiply(const Row* rows, const void* block, int depth, float* sums, index_t ld,
                       bool add) noexcept {
    constexpr int kRowStride = static_cast<int>(sizeof(Row) / sizeof(bf16));
    const bf16* w = static_cast<const bf16*>(block);
    const bf16* x = rows->x;
    V tile[R][N];
    clear_tile(tile);
    for (int k = 0; k < depth; k += 2) {
      __m512bh panel[N];
      SSM_UNROLL
      for (int v = 0; v < N; ++v) {
        panel[v] = detail::bit_cast<__m512bh>(_mm512_loadu_si512(w + v * 2 * V::kWidth));
      }
      SSM_UNROLL
      for (int r = 0; r < R; ++r) {
        std::int32_t pair;
        std::memcpy(&pair, x + r * kRowStride, sizeof(pair));
        const __m512bh xr = detail::bit_cast<__m512bh>(_mm512_set1_epi32(pair));
        SSM_UNROLL
        for (int v = 0; v < N; ++v) tile[r][v].v = _mm512_dpbf16_ps(tile[r][v].v, xr, panel[v]);
      }
      w += N * 2 * V::kWidth;
      x += 2;
    }
    put_tile(tile, sums, ld, add);
  }
};
#endif

// Vec<float>::kWidth sums of 32-bit integers, and as many pairs of 16-bit ones.
struct IntSums {
  using V = Vec<float>;
#if SSM_SIMD_AVX512
  using Lanes = __m512i;
  Lanes v;
  static SSM_ALWAYS_INLINE Lanes load_pairs(const std::int8_t* p) noexcept {
    return _mm512_maskz_cvtepi8_epi16(static_cast<__mmask32>(-1),
                                      _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static SSM_ALWAYS_INLINE Lanes broadcast_pair(std::int32_t pair) noexcept {
    return _mm512_set1_epi32(pair);
  }
  static SSM_ALWAYS_INLINE IntSums zero() noexcept { return {_mm512_setzero_si512()}; }
  SSM_ALWAYS_INLINE void add_dot(Lanes a, Lanes b) noexcept {
#if SSM_SIMD_AVX512_VNNI
    v = _mm512_dpwssd_epi32(v, a, b);
#else
    v = _mm512_add_epi32(v, _mm512_madd_epi16(a, b));
#endif
  }
  SSM_ALWAYS_INLINE V to_float() const noexcept { return V(_mm512_maskz_cvtepi32_ps(V::kAll, v)); }
#elif SSM_SIMD_AVX2
  using Lanes = __m256i;
  Lanes v;
  static SSM_ALWAYS_INLINE Lanes load_pairs(const std::int8_t* p) noexcept {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static SSM_ALWAYS_INLINE Lanes broadcast_pair(std::int32_t pair) noexcept {
    return _mm256_set1_epi32(pair);
  }
  static SSM_ALWAYS_INLINE IntSums zero() noexcept { return {_mm256_setzero_si256()}; }
  SSM_ALWAYS_INLINE void add_dot(Lanes a, Lanes b) noexcept {
    v = _mm256_add_epi32(v, _mm256_madd_epi16(a, b));
  }
  SSM_ALWAYS_INLINE V to_float() const noexcept { return V(_mm256_cvtepi32_ps(v)); }
#elif SSM_SIMD_SSE2
  using Lanes = __m128i;
  Lanes v;
  static SSM_ALWAYS_INLINE Lanes load_pairs(const std::int8_t* p) noexcept {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    return _mm_srai_epi16(_mm_unpacklo_epi8(bytes, bytes), 8);
  }
  static SSM_ALWAYS_INLINE Lanes broadcast_pair(std::int32_t pair) noexcept {
    return _mm_set1_epi32(pair);
  }
  static SSM_ALWAYS_INLINE IntSums zero() noexcept { return {_mm_setzero_si128()}; }
  SSM_ALWAYS_INLINE void add_dot(Lanes a, Lanes b) noexcept {
    v = _mm_add_epi32(v, _mm_madd_epi16(a, b));
  }
  SSM_ALWAYS_INLINE V to_float() const noexcept { return V(_mm_cvtepi32_ps(v)); }
#elif SSM_SIMD_NEON
  using Lanes = int16x8_t;
  int32x4_t v;
  static SSM_ALWAYS_INLINE Lanes load_pairs(const std::int8_t* p) noexcept {
    return vmovl_s8(vld1_s8(p));
  }
  static SSM_ALWAYS_INLINE Lanes broadcast_pair(std::int32_t pair) noexcept {
    return vreinterpretq_s16_s32(vdupq_n_s32(pair));
  }
  static SSM_ALWAYS_INLINE IntSums zero() noexcept { return {vdupq_n_s32(0)}; }
  SSM_ALWAYS_INLINE void add_dot(Lanes a, Lanes b) noexcept {
    const int32x4_t low = vmull_s16(vget_low_s16(a), vget_low_s16(b));
    const int32x4_t high = vmull_s16(vget_high_s16(a), vget_high_s16(b));
    v = vaddq_s32(v, vpaddq_s32(low, high));
  }
  SSM_ALWAYS_INLINE V to_float() const noexcept { return V(vcvtq_f32_s32(v)); }
#else
  struct Lanes {
    std::int16_t pair[2];
  };
  std::int32_t v;
  static SSM_ALWAYS_INLINE Lanes load_pairs(const std::int8_t* p) noexcept {
    return {{p[0], p[1]}};
  }
  static SSM_ALWAYS_INLINE Lanes broadcast_pair(std::int32_t pair) noexcept {
    return detail::bit_cast<Lanes>(pair);
  }
  static SSM_ALWAYS_INLINE IntSums zero() noexcept { return {0}; }
  SSM_ALWAYS_INLINE void add_dot(Lanes a, Lanes b) noexcept {
    v += a.pair[0] * b.pair[0] + a.pair[1] * b.pair[1];
  }
  SSM_ALWAYS_INLINE V to_float() const noexcept { return V(static_cast<float>(v)); }
#endif
};

// Weights as 8-bit integers with one f32 scale per output and kScaleDepth inputs:
//   weight ~ scale q, scale = max |weight| / 127, q = round(weight / scale);
// x as 16-bit integers with one scale per row and kScaleDepth inputs. Products and their sums
// within kScaleDepth inputs are exact integers; only the sums over them are rounded. A block is,
// for every kScaleDepth inputs, [width] scales and then [k / 2][width][2] integers.
//
// Rounding x to 16 bits adds at most 2^-16 of its largest value per kScaleDepth inputs, 1/256 of
// what rounding the weight to 8 bits costs, and makes 32 products out of one instruction. A value
// that is not finite makes the scale, and so every output that depends on it, NaN.
struct Int8Panel {
  using Sum = float;
  using V = Vec<float>;
  // GCC gives every broadcast a register of its own: twelve rows spill.
  static constexpr int kRows = kTileRows < 8 ? kTileRows : 8;
  static constexpr int kDepth = 256;
  static constexpr int kScaleDepth = 64;
  static constexpr int kScales = kDepth / kScaleDepth;
  struct Row {
    std::int16_t x[kDepth];
    float scale[kScales];
    float padding[12];
  };

  // Below this, 32767 / max would overflow; the values count as zero.
  static constexpr float kSmallest = 1e-30f;

  template <class T>
  static void fill(Row& row, const T* x, index_t stride, int depth) noexcept {
    for (int k0 = 0; k0 < depth; k0 += kScaleDepth) {
      const int n = depth - k0 < kScaleDepth ? depth - k0 : kScaleDepth;
      float values[kScaleDepth] = {};
      for (int k = 0; k < n; ++k) values[k] = static_cast<float>(x[(k0 + k) * stride]);
      V largest(0.0f);
      V poison(0.0f);
      for (int k = 0; k < kScaleDepth; k += V::kWidth) {
        const V v = V::load(values + k);
        largest = max(abs(v), largest);
        poison = fma(v, V(0.0f), poison);
      }
      const float top = max_lane(largest);
      const float inverse = top >= kSmallest ? 32767.0f / top : 0.0f;
      row.scale[k0 / kScaleDepth] = (top >= kSmallest ? top / 32767.0f : 0.0f) + sum(poison);
      // 1.5 2^23 + i has the integer i in its low 16 bits, rounded to nearest even.
      for (int k = 0; k < kScaleDepth; ++k) {
        const float shifted = values[k] * inverse + 12582912.0f;
        row.x[k0 + k] = static_cast<std::int16_t>(detail::bit_cast<std::uint32_t>(shifted));
      }
    }
  }

  static constexpr index_t bytes(int depth, index_t width) noexcept {
    return ((depth + kScaleDepth - 1) / kScaleDepth * 4 + padded(depth)) * width;
  }

  template <class T>
  static void pack(const View<const T, 2>& weight, index_t first, index_t k0, int depth, int width,
                   void* block) noexcept {
    unsigned char* out = static_cast<unsigned char*>(block);
    for (int begin = 0; begin < depth; begin += kScaleDepth) {
      const int n = depth - begin < kScaleDepth ? depth - begin : kScaleDepth;
      unsigned char* const integers = out + index_t{width} * 4;
      for (int j = 0; j < width; ++j) {
        float values[kScaleDepth] = {};
        if (first + j < weight.extent(0)) {
          for (int k = 0; k < n; ++k) {
            values[k] = static_cast<float>(weight(first + j, k0 + begin + k));
          }
        }
        float top = 0.0f;
        float poison = 0.0f;
        for (const float v : values) {
          top = std::fabs(v) > top ? std::fabs(v) : top;
          poison += v * 0.0f;
        }
        const float inverse = top >= kSmallest ? 127.0f / top : 0.0f;
        const float scale = (top >= kSmallest ? top / 127.0f : 0.0f) + poison;
        std::memcpy(out + index_t{j} * 4, &scale, 4);
        for (int k = 0; k < padded(n); ++k) {
          const float shifted = values[k] * inverse + 12582912.0f;
          integers[(k / 2 * width + j) * 2 + k % 2] =
              static_cast<unsigned char>(detail::bit_cast<std::uint32_t>(shifted));
        }
      }
      out = integers + index_t{padded(n)} * width;
    }
  }

  template <int R, int N>
  static void multiply(const Row* rows, const void* block, int depth, float* sums, index_t ld,
                       bool add) noexcept {
    const unsigned char* w = static_cast<const unsigned char*>(block);
    for (int begin = 0; begin < depth; begin += kScaleDepth) {
      const int n = depth - begin < kScaleDepth ? depth - begin : kScaleDepth;
      const float* scales = reinterpret_cast<const float*>(w);
      w += N * V::kWidth * 4;
      IntSums integers[R][N];
      SSM_UNROLL
      for (int r = 0; r < R; ++r) {
        SSM_UNROLL
        for (int v = 0; v < N; ++v) integers[r][v] = IntSums::zero();
      }
      const std::int16_t* x = rows->x + begin;
      for (int k = 0; k < padded(n); k += 2) {
        IntSums::Lanes panel[N];
        SSM_UNROLL
        for (int v = 0; v < N; ++v) {
          panel[v] =
              IntSums::load_pairs(reinterpret_cast<const std::int8_t*>(w) + v * 2 * V::kWidth);
        }
        SSM_UNROLL
        for (int r = 0; r < R; ++r) {
          std::int32_t pair;
          std::memcpy(&pair, x + r * kRowStride, sizeof(pair));
          const IntSums::Lanes xr = IntSums::broadcast_pair(pair);
          SSM_UNROLL
          for (int v = 0; v < N; ++v) integers[r][v].add_dot(panel[v], xr);
        }
        w += N * 2 * V::kWidth;
        x += 2;
      }
      SSM_UNROLL
      for (int r = 0; r < R; ++r) {
        const V x_scale(rows[r].scale[begin / kScaleDepth]);
        SSM_UNROLL
        for (int v = 0; v < N; ++v) {
          float* p = sums + r * ld + v * V::kWidth;
          // Spelt out, or a compiler fuses it in the kernels of some heights and not of others.
          const V scale = V::load(scales + v * V::kWidth) * x_scale;
          const V before = add || begin > 0 ? V::load(p) : V(0.0f);
          fma(integers[r][v].to_float(), scale, before).store(p);
        }
      }
    }
  }

 private:
  static constexpr int kRowStride = static_cast<int>(sizeof(Row) / sizeof(std::int16_t));

  // Whole pairs, and scales that stay aligned behind a panel of one output.
  static constexpr int padded(int depth) noexcept { return (depth + 3) / 4 * 4; }
};

SSM_CPU_DETAIL_END
