#pragma once

#include <algorithm>
#include <utility>

#include "ssm/cpu/backend.hpp"
#include "ssm/cpu/blas_product.hpp"
#include "ssm/cpu/panel_kernels.hpp"
#include "ssm/ops/linear.hpp"

SSM_CPU_DETAIL_BEGIN

// What one task multiplies at most: rows of x by panels. Each byte of them that comes from beyond
// the second-level cache serves 9 products (AVX-512, f32); 96 rows measured no better.
inline constexpr int kTaskRows = 48;
inline constexpr int kTaskPanels = 4;

// Where the blocks of a packed weight lie. Panels come in groups; a group is stored block by block
// along the inputs, and within those, panel by panel: the order in which they are read, so that a
// thread reads one stream.
template <class Panel>
struct PanelLayout {
  static constexpr int kLanes = Vec<typename Panel::Sum>::kWidth;
  static constexpr int kWidth = kPanelVectors * kLanes;

  PanelLayout(index_t outputs, index_t inputs) noexcept
      : out_features(outputs), in_features(inputs), panels((outputs + kWidth - 1) / kWidth) {
    // Groups are the tasks of a matrix-vector product: few panels make small groups.
    group = panels >= 32 ? kTaskPanels : panels >= 16 ? 2 : 1;
    groups = (panels + group - 1) / group;
  }

  // The outputs of a panel, rounded up to whole registers.
  int width(index_t panel) const noexcept {
    const index_t left = out_features - panel * kWidth;
    return left >= kWidth ? kWidth : static_cast<int>((left + kLanes - 1) / kLanes) * kLanes;
  }
  int depth(index_t block) const noexcept {
    const index_t left = in_features - block * Panel::kDepth;
    return left >= Panel::kDepth ? Panel::kDepth : static_cast<int>(left);
  }
  index_t blocks() const noexcept { return (in_features + Panel::kDepth - 1) / Panel::kDepth; }

  // What the first `outputs` outputs take; a multiple of a register, or everything.
  index_t bytes(index_t outputs) const noexcept {
    const int rest = static_cast<int>(in_features % Panel::kDepth);
    return in_features / Panel::kDepth * Panel::bytes(Panel::kDepth, outputs) +
           (rest > 0 ? Panel::bytes(rest, outputs) : 0);
  }
  // Block b of a panel that is the first of its group.
  index_t offset(index_t panel, index_t b) const noexcept {
    const index_t last = panel + group < panels ? panel + group - 1 : panels - 1;
    const index_t width_of_group = (last - panel) * kWidth + width(last);
    return bytes(panel * kWidth) + b * Panel::bytes(Panel::kDepth, width_of_group);
  }
  index_t total_bytes() const noexcept {
    return panels == 0 ? 0 : bytes((panels - 1) * kWidth + width(panels - 1));
  }

  index_t out_features;
  index_t in_features;
  index_t panels;
  index_t group;
  index_t groups;
};

// multiply<R, N> of a panel for R = 1 … kRows, N = 1 … kPanelVectors.
template <class Panel>
struct TileKernels {
  using Sum = typename Panel::Sum;
  using Kernel = void (*)(const typename Panel::Row*, const void*, int, Sum*, index_t, bool);
  struct Table {
    Kernel kernel[kPanelVectors][Panel::kRows];
  };
  template <int N, int... R>
  static constexpr void fill(Table& table, std::integer_sequence<int, R...>) noexcept {
    ((table.kernel[N - 1][R] = &Panel::template multiply<R + 1, N>), ...);
  }
  template <int... N>
  static constexpr Table make(std::integer_sequence<int, N...>) noexcept {
    Table table{};
    (fill<N + 1>(table, std::make_integer_sequence<int, Panel::kRows>()), ...);
    return table;
  }
  static constexpr Table kTable = make(std::make_integer_sequence<int, kPanelVectors>());
};

// y[rows, panels] = x[rows] W[panels]^T + bias for at most kMaxRows rows and the `groups` groups of
// panels from g on, at most kTaskPanels panels. Not packed: each block is packed on the stack
// before its use.
template <class Panel, bool kPacked, int kMaxRows, class T, class TOut>
void multiply_groups(const LinearArgs<T, TOut>& a, const PanelLayout<Panel>& layout, index_t g,
                     index_t groups, index_t first_row, int rows) noexcept {
  using Sum = typename Panel::Sum;
  using V = Vec<Sum>;
  constexpr int kWidth = PanelLayout<Panel>::kWidth;
  constexpr index_t kSumStride = kTaskPanels * kWidth;

  typename Panel::Row x_rows[kMaxRows];
  alignas(64) Sum sums[kMaxRows * kSumStride];
  alignas(64) unsigned char block[kPacked ? 64 : Panel::bytes(Panel::kDepth, kWidth)];

  const index_t length = a.x.extent(1);
  const index_t first_panel = g * layout.group;
  const index_t left = layout.panels - first_panel;
  const int panels = static_cast<int>(left < groups * layout.group ? left : groups * layout.group);
  const int tiles = (rows + Panel::kRows - 1) / Panel::kRows;

  for (index_t b = 0; b < layout.blocks(); ++b) {
    const index_t k0 = b * Panel::kDepth;
    const int depth = layout.depth(b);
    for (int r = 0; r < rows; ++r) {
      const index_t row = first_row + r;
      Panel::fill(x_rows[r], &a.x(row / length, row % length, k0), a.x.stride(2), depth);
    }
    const unsigned char* w = nullptr;
    for (int p = 0; p < panels; ++p) {
      const index_t panel = first_panel + p;
      const int width = layout.width(panel);
      if (!kPacked) {
        Panel::pack(a.weight, panel * kWidth, k0, depth, width, block);
        w = block;
      } else if (p % layout.group == 0) {
        w = static_cast<const unsigned char*>(a.packed.data) + layout.offset(panel, b);
      }
      for (int t = 0; t < tiles; ++t) {
        const int begin = rows * t / tiles;
        const int count = rows * (t + 1) / tiles - begin;
        TileKernels<Panel>::kTable.kernel[width / V::kWidth - 1][count - 1](
            x_rows + begin, w, depth, sums + begin * kSumStride + p * kWidth, kSumStride, b > 0);
      }
      w += Panel::bytes(depth, width);
    }
  }

  const index_t first_output = first_panel * kWidth;
  const index_t outputs = layout.out_features - first_output;
  const int count = static_cast<int>(outputs < panels * kWidth ? outputs : panels * kWidth);
  for (int r = 0; r < rows; ++r) {
    const index_t row = first_row + r;
    Sum* s = sums + r * kSumStride;
    if (layout.in_features == 0) std::fill(s, s + count, Sum(0));
    TOut* y = &a.y(row / length, row % length, first_output);
    const T* bias = a.bias.present() ? &a.bias(first_output) : nullptr;
    for (int j = 0; j < count; j += V::kWidth) {
      const int n = count - j < V::kWidth ? count - j : V::kWidth;
      if constexpr (std::is_same<Sum, accum_t<T>>::value) {
        V v = V::load(s + j);
        if (bias != nullptr) {
          v = v + load_strided<V>(bias + j * a.bias.stride(0), a.bias.stride(0), n);
        }
        store_strided(v, y + j * a.y.stride(2), a.y.stride(2), n);
      } else {  // 8-bit weights times double
        for (int i = j; i < j + n; ++i) {
          const T added = bias != nullptr ? bias[i * a.bias.stride(0)] : T(0);
          y[i * a.y.stride(2)] = static_cast<TOut>(static_cast<T>(s[i]) + added);
        }
      }
    }
  }
}

template <class Panel, bool kPacked, class T, class TOut>
void multiply_all(const Parallel& parallel, const LinearArgs<T, TOut>& a) noexcept {
  const index_t rows = a.x.extent(0) * a.x.extent(1);
  const PanelLayout<Panel> layout(a.weight.extent(0), a.weight.extent(1));
  // Handing a call to other threads takes about a microsecond, and so does this much work.
  constexpr index_t kSerialProducts = 1 << 16;
  const bool small = rows * layout.out_features * layout.in_features < kSerialProducts;
  const Parallel executor = small ? Parallel() : parallel;

  if (rows <= Panel::kRows) {
    executor.for_each(layout.groups, [&](index_t g) noexcept {
      multiply_groups<Panel, kPacked, Panel::kRows>(a, layout, g, 1, 0, static_cast<int>(rows));
    });
    return;
  }
  const index_t span = kTaskPanels / layout.group;
  const index_t group_tasks = (layout.groups + span - 1) / span;
  // Narrow layers have few panels: fewer rows to a task then, so that a thread gets four.
  index_t row_tasks = (rows + kTaskRows - 1) / kTaskRows;
  if (kPacked && executor.threads > 1) {
    row_tasks = std::max(row_tasks, 4 * executor.threads / group_tasks);
  }
  const index_t even = (rows + row_tasks - 1) / row_tasks;
  const index_t step = (even + Panel::kRows - 1) / Panel::kRows * Panel::kRows;
  row_tasks = (rows + step - 1) / step;
  // Rows innermost: the panels come from memory once and then from a cache.
  executor.for_each(group_tasks * row_tasks, [&](index_t i) noexcept {
    const index_t first = i % row_tasks * step;
    const index_t left = rows - first;
    multiply_groups<Panel, kPacked, kTaskRows>(a, layout, i / row_tasks * span, span, first,
                                               static_cast<int>(left < step ? left : step));
  });
}

// By the backend's BLAS; false, and nothing is written, where it does not apply.
template <class T, class TOut>
bool multiply_by_blas(const Cpu& backend, const LinearArgs<T, TOut>& a) noexcept {
  if constexpr (std::is_same<T, TOut>::value && std::is_same<T, accum_t<T>>::value) {
    const bool exact = a.packed.data == nullptr || a.packed.format == WeightFormat::native;
    if (!exact || a.x.extent(0) * a.x.extent(1) < kBlasTokens ||
        !blas_product<T>(backend, false, a.x, true, a.weight, T(0), a.y)) {
      return false;
    }
    if (a.bias.present()) {
      for (index_t row = 0; row < a.y.extent(0) * a.y.extent(1); ++row) {
        T* const y = &a.y(row / a.y.extent(1), row % a.y.extent(1), 0);
        for (index_t o = 0; o < a.y.extent(2); ++o) y[o] += a.bias(o);
      }
    }
    return true;
  }
  return false;
}

template <class Panel>
struct PanelTag {
  using type = Panel;
};

// The panel that holds weights of type T as they are, times activations of type T.
template <class T>
struct NativePanel : PanelTag<DensePanel<accum_t<T>, T>> {
  static_assert(std::is_same<T, float>::value || std::is_same<T, double>::value ||
                    std::is_same<T, f16>::value,
                "the CPU backend takes float, double, bf16 and f16");
};
template <>
struct NativePanel<bf16> {
#if SSM_SIMD_AVX512_BF16
  using type = Bf16DotPanel;
#else
  using type = Bf16Panel;
#endif
};

// Calls f with the PanelTag that `format` means for activations of type T.
template <class T, class F>
void with_panel(WeightFormat format, F f) noexcept {
  using Sum = accum_t<T>;
  using Native = typename NativePanel<T>::type;
  using Bf16 = std::conditional_t<
      std::is_same<T, bf16>::value, Native,
      std::conditional_t<std::is_same<T, double>::value, DensePanel<double, bf16>, Bf16Panel>>;
  switch (format) {
    case WeightFormat::native:
      return f(PanelTag<Native>());
    case WeightFormat::f32:
      return f(PanelTag<DensePanel<Sum, float>>());
    case WeightFormat::bf16:
      return f(PanelTag<Bf16>());
    case WeightFormat::f16:
      return f(PanelTag<DensePanel<Sum, f16>>());
    case WeightFormat::int8:
      return f(PanelTag<Int8Panel>());
  }
}

SSM_CPU_DETAIL_END

SSM_CPU_NAMESPACE_BEGIN

// Copies `weight` into the layout that `linear` reads forwards, as `format`, each weight rounded to
// nearest even:
//
//   native   T                        4, 8 or 2 bytes a weight
//   f32      4 bytes; rounds double
//   bf16     2 bytes; |rounding| <= 2^-9 |weight|
//   f16      2 bytes; |rounding| <= 2^-12 max(|weight|, 2^-14), infinity from 65520 up
//   int8     1.06 bytes; |rounding| <= max |weight| / 254 over 64 inputs of one output, and
//            activations are rounded to 16 bits relative to their largest over the same 64
//
// The memory (out_features rounded up to whole registers) is `arena`'s and must outlive the result.
// An arena that counts is only counted on; where the memory does not fit, nothing is packed and
// arena.status() says so.
template <class T>
PackedWeight pack_linear(const Cpu& backend, const View<const T, 2>& weight, WeightFormat format,
                         Arena& arena) noexcept {
  PackedWeight packed;
  packed.format = format;
  detail::with_panel<T>(format, [&](auto tag) noexcept {
    using Panel = typename decltype(tag)::type;
    const detail::PanelLayout<Panel> layout(weight.extent(0), weight.extent(1));
    unsigned char* const data = arena.allocate<unsigned char>(layout.total_bytes());
    if (data == nullptr) return;
    packed.data = data;
    backend.parallel.for_each(layout.groups, [&](index_t g) noexcept {
      const index_t begin = g * layout.group;
      unsigned char* w = data + layout.offset(begin, 0);
      const index_t end =
          begin + layout.group < layout.panels ? begin + layout.group : layout.panels;
      for (index_t b = 0; b < layout.blocks(); ++b) {
        const int depth = layout.depth(b);
        for (index_t p = begin; p < end; ++p) {
          Panel::pack(weight, p * layout.kWidth, b * Panel::kDepth, depth, layout.width(p), w);
          w += Panel::bytes(depth, layout.width(p));
        }
      }
    });
  });
  return packed;
}

// y = x W^T + bias; see LinearArgs. `packed` must come from pack_linear for the same T, shape and
// instruction set; without it the weight is read as it is, with any strides, to the same bits as
// packed as WeightFormat::native.
//
// Sums are in float (double for T = double, unless the weight is int8), as a chain of fused
// multiply-adds over 1 KB of inputs and one of additions over those. They depend on neither the
// number of threads nor the number of rows: a token alone and in a batch gives the same bits. With
// AVX512-BF16, products of bf16 weights and bf16 activations take subnormals as zero.
//
// With a Cpu::blas, 16 tokens or more of float or double are its to multiply; see Blas.
//
// Allocates nothing; takes at most 20 KB of stack for the rows of one tile (12 or fewer, by
// instruction set), 90 KB for more, and 32 KB on top for a weight that is not packed.
// On a bad argument it returns a Status and writes nothing.
template <class T, class TOut>
Status linear(const Cpu& backend, const LinearArgs<T, TOut>& a) noexcept {
  const Status status = check_shapes(a);
  if (!status.is_ok()) return status;
  if (a.y.size() == 0 || detail::multiply_by_blas(backend, a)) return Status::ok();
  if (a.packed.data != nullptr) {
    detail::with_panel<T>(a.packed.format, [&](auto tag) noexcept {
      detail::multiply_all<typename decltype(tag)::type, true>(backend.parallel, a);
    });
  } else {
    detail::multiply_all<typename detail::NativePanel<T>::type, false>(backend.parallel, a);
  }
  return Status::ok();
}

SSM_CPU_NAMESPACE_END
