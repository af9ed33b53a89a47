#pragma once

#include <algorithm>

#include "ssm/cpu/gradient.hpp"
#include "ssm/cpu/linear.hpp"
#include "ssm/ops/linear_backward.hpp"

SSM_CPU_DETAIL_BEGIN

// C = A B in the sums' type, by the kernels of the forward layer: B goes through panels packed on
// the stack, a tile of rows of A at a time. A product says
//
//   rows, depth, columns                      C is (rows, columns), sums run over depth
//   fill(rows of the panel, row, count, k0, n)   A[row …, k0 …], n values of each
//   line(k)                                   row k of B, `B_stride` from column to column
//   put(row, column, value, n)                n values of C
//
// Every element of C is one chain of fused multiply-adds over 1 KB of inputs and one of additions
// over those: the cut into tasks is by shape and changes no bit.
template <class Sum, class Product>
void multiply_tile(const Product& p, index_t first_row, int rows, index_t first_panel,
                   int panels) noexcept {
  using Panel = DensePanel<Sum, Sum>;
  using V = Vec<Sum>;
  using Layout = PanelLayout<Panel>;
  constexpr int kWidth = Layout::kWidth;
  constexpr index_t kSumStride = kTaskPanels * kWidth;

  typename Panel::Row a_rows[kTaskRows];
  alignas(64) Sum sums[kTaskRows * kSumStride];
  alignas(64) Sum block[Panel::kDepth * kWidth];

  const Layout layout(p.columns, p.depth);
  const int tiles = (rows + Panel::kRows - 1) / Panel::kRows;
  for (index_t b = 0; b < layout.blocks(); ++b) {
    const index_t k0 = b * Panel::kDepth;
    const int depth = layout.depth(b);
    p.fill(a_rows, first_row, rows, k0, depth);
    for (int i = 0; i < panels; ++i) {
      const index_t column = (first_panel + i) * kWidth;
      const int width = layout.width(first_panel + i);
      for (int k = 0; k < depth; ++k) {
        const auto* const line = p.line(k0 + k) + column * p.B_stride;
        for (int j = 0; j < width; j += V::kWidth) {
          const int n = lanes_within<V>(column + j, p.columns);
          load_strided<V>(line + j * p.B_stride, p.B_stride, n).store(block + k * width + j);
        }
      }
      for (int t = 0; t < tiles; ++t) {
        const int begin = rows * t / tiles;
        const int count = rows * (t + 1) / tiles - begin;
        TileKernels<Panel>::kTable.kernel[width / V::kWidth - 1][count - 1](
            a_rows + begin, block, depth, sums + begin * kSumStride + i * kWidth, kSumStride,
            b > 0);
      }
    }
  }
  const index_t first_column = first_panel * kWidth;
  const index_t last_column = std::min(first_column + panels * kWidth, p.columns);
  for (int r = 0; r < rows; ++r) {
    for (index_t c = first_column; c < last_column; c += V::kWidth) {
      const Sum* const s = sums + r * kSumStride + (c - first_column);
      p.put(first_row + r, c, p.depth > 0 ? V::load(s) : V(Sum(0)),
            lanes_within<V>(c, last_column));
    }
  }
}

template <class Sum, class Product>
void multiply_tiles(const Parallel& parallel, const Product& p) noexcept {
  using Layout = PanelLayout<DensePanel<Sum, Sum>>;
  if (p.rows == 0 || p.columns == 0) return;
  const index_t panels = (p.columns + Layout::kWidth - 1) / Layout::kWidth;
  const index_t row_tasks = (p.rows + kTaskRows - 1) / kTaskRows;
  const index_t step = (p.rows + row_tasks - 1) / row_tasks;
  const index_t panel_tasks = (panels + kTaskPanels - 1) / kTaskPanels;
  // Handing a call to other threads takes about a microsecond, and so does this much work.
  constexpr index_t kSerialProducts = 1 << 16;
  const bool small = saturating_mul(saturating_mul(p.rows, p.columns), p.depth) < kSerialProducts;
  const Parallel executor = small ? Parallel() : parallel;
  executor.for_each(panel_tasks * row_tasks, [&](index_t i) noexcept {
    const index_t first = i % row_tasks * step;
    const index_t panel = i / row_tasks * kTaskPanels;
    if (first >= p.rows) return;
    multiply_tile<Sum>(p, first, static_cast<int>(std::min(step, p.rows - first)), panel,
                       static_cast<int>(std::min<index_t>(kTaskPanels, panels - panel)));
  });
}

// dx = dy W
template <class T, class TOut, class TIn>
struct InputGradient {
  using Accum = accum_t<T>;
  using PanelRow = typename DensePanel<Accum, Accum>::Row;

  explicit InputGradient(const LinearGradArgs<T, TOut, TIn>& args) noexcept
      : a(args),
        rows(args.dy.extent(0) * args.dy.extent(1)),
        depth(args.weight.extent(0)),
        columns(args.weight.extent(1)),
        B_stride(args.weight.stride(1)) {}

  void fill(PanelRow* out, index_t first, int count, index_t k0, int n) const noexcept {
    for (int r = 0; r < count; ++r) {
      widen_row(out[r].x, row_of_tokens(a.dy, first + r) + k0 * a.dy.stride(2), a.dy.stride(2), n);
    }
  }
  const T* line(index_t k) const noexcept { return a.weight.data() + k * a.weight.stride(0); }
  void put(index_t row, index_t column, Vec<Accum> value, int n) const noexcept {
    put_gradient(value, row_of_tokens(a.dx, row) + column * a.dx.stride(2), a.dx.stride(2), n,
                 a.inputs);
  }

  const LinearGradArgs<T, TOut, TIn>& a;
  index_t rows, depth, columns, B_stride;
};

// dW = dy^T x
template <class T, class TOut, class TIn>
struct WeightGradient {
  using Accum = accum_t<T>;
  using PanelRow = typename DensePanel<Accum, Accum>::Row;

  explicit WeightGradient(const LinearGradArgs<T, TOut, TIn>& args) noexcept
      : a(args),
        rows(args.weight.extent(0)),
        depth(args.dy.extent(0) * args.dy.extent(1)),
        columns(args.weight.extent(1)),
        B_stride(args.x.stride(2)) {}

  // Token by token, as dy lies in memory.
  void fill(PanelRow* out, index_t first, int count, index_t k0, int n) const noexcept {
    for (int k = 0; k < n; ++k) {
      const TOut* const dy = row_of_tokens(a.dy, k0 + k) + first * a.dy.stride(2);
      for (int r = 0; r < count; ++r) {
        out[r].x[k] = static_cast<Accum>(widen(dy[r * a.dy.stride(2)]));
      }
    }
  }
  const T* line(index_t k) const noexcept { return row_of_tokens(a.x, k); }
  void put(index_t row, index_t column, Vec<Accum> value, int n) const noexcept {
    put_gradient(value, a.dweight.data() + row * a.dweight.stride(0) + column * a.dweight.stride(1),
                 a.dweight.stride(1), n, a.parameters);
  }

  const LinearGradArgs<T, TOut, TIn>& a;
  index_t rows, depth, columns, B_stride;
};

// dbias = sum of dy over the tokens, a few outputs to a task.
template <class T, class TOut, class TIn>
void sum_over_tokens(const Parallel& parallel, const LinearGradArgs<T, TOut, TIn>& a) noexcept {
  using V = Vec<accum_t<T>>;
  constexpr index_t kTask = 64;
  const index_t tokens = a.dy.extent(0) * a.dy.extent(1);
  const index_t outputs = a.dbias.extent(0);
  parallel.for_each((outputs + kTask - 1) / kTask, [&](index_t task) noexcept {
    const index_t end = std::min((task + 1) * kTask, outputs);
    for (index_t o = task * kTask; o < end; o += V::kWidth) {
      const int n = lanes_within<V>(o, end);
      V sum(accum_t<T>(0));
      for (index_t i = 0; i < tokens; ++i) {
        const TOut* const dy = row_of_tokens(a.dy, i) + o * a.dy.stride(2);
        sum = sum + load_strided<V>(dy, a.dy.stride(2), n);
      }
      put_gradient(sum, a.dbias.data() + o * a.dbias.stride(0), a.dbias.stride(0), n, a.parameters);
    }
  });
}

// gradient (+)= op(A) B by the backend's BLAS; false, and nothing is written, where it does not
// apply.
template <class A, class B, class C>
bool gradient_by_blas(const Cpu& cpu, index_t tokens, bool a_transposed, const A& a, const B& b,
                      const C& gradient, GradMode mode) noexcept {
  using R = typename C::element_type;
  if constexpr (std::is_same<R, accum_t<R>>::value &&
                std::is_same<typename A::element_type, const R>::value &&
                std::is_same<typename B::element_type, const R>::value) {
    return tokens >= kBlasTokens &&
           blas_product<R>(cpu, a_transposed, a, false, b,
                           mode == GradMode::accumulate ? R(1) : R(0), gradient);
  }
  return false;
}

SSM_CPU_DETAIL_END

SSM_CPU_NAMESPACE_BEGIN

// The gradient of the linear layer on the CPU; see LinearGradArgs for the equations. Both products
// run in accum_t<T>, whatever the weight is stored as, on tiles of the output. Any strides;
// features contiguous is fastest. A Cpu::blas computes them for 16 tokens or more; see Blas.
// Allocates nothing and needs no workspace; takes at most 130 KB of
// stack. On a bad argument it returns a Status and writes nothing.
template <class T, class TOut, class TIn>
Status linear_backward(const Cpu& cpu, const LinearGradArgs<T, TOut, TIn>& a, Arena) noexcept {
  const Status status = check_shapes(a);
  if (!status.is_ok()) return status;
  using Accum = accum_t<T>;
  const index_t tokens = a.dy.extent(0) * a.dy.extent(1);
  if (wanted(a.dx, a.inputs) &&
      !detail::gradient_by_blas(cpu, tokens, false, a.dy, a.weight, a.dx, a.inputs)) {
    detail::multiply_tiles<Accum>(cpu.parallel, detail::InputGradient<T, TOut, TIn>(a));
  }
  if (wanted(a.dweight, a.parameters) &&
      !detail::gradient_by_blas(cpu, tokens, true, a.dy, a.x, a.dweight, a.parameters)) {
    detail::multiply_tiles<Accum>(cpu.parallel, detail::WeightGradient<T, TOut, TIn>(a));
  }
  if (wanted(a.dbias, a.parameters)) detail::sum_over_tokens(cpu.parallel, a);
  return status;
}

SSM_CPU_NAMESPACE_END
