#pragma once

#include <algorithm>
#include <cmath>

#include "ssm/cpu/backend.hpp"
#include "ssm/cpu/math.hpp"
#include "ssm/ops/rms_norm.hpp"

SSM_CPU_DETAIL_BEGIN

// Rows of the normalisation, a few to a task. Lanes are features; four partial sums of squares.
template <class T>
class VectorRmsNorm {
 public:
  using Accum = accum_t<T>;
  using V = Vec<Accum>;
  using Args = RmsNormArgs<T>;
  static constexpr int kWidth = V::kWidth;
  static constexpr index_t kTaskElements = 8192;

  explicit VectorRmsNorm(const Args& args) noexcept
      : a_(args), rows_per_task_(std::max<index_t>(kTaskElements / a_.y.extent(2), 1)) {}

  index_t rows() const noexcept { return a_.y.extent(0) * a_.y.extent(1); }
  index_t tasks() const noexcept { return (rows() + rows_per_task_ - 1) / rows_per_task_; }

  void operator()(index_t task) const noexcept {
    const index_t end = std::min((task + 1) * rows_per_task_, rows());
    for (index_t i = task * rows_per_task_; i < end; ++i) {
      run_row(i / a_.y.extent(1), i % a_.y.extent(1));
    }
  }

 private:
  template <class E>
  static E* row(const View<E, 3>& v, index_t b, index_t t) noexcept {
    return v.present() ? v.data() + b * v.stride(0) + t * v.stride(1) : nullptr;
  }

  // The features [i, i + lanes) of one row, as the equation names them.
  struct Row {
    const T* x;
    Accum* residual;
    const T* z;
    T* y;
  };

  V gate(const Row& row, index_t i, int lanes) const noexcept {
    return silu(load_strided<V>(row.z + i * a_.z.stride(2), a_.z.stride(2), lanes));
  }

  // r, or g(r) where the gate comes first; `update` writes r back to the residual stream.
  template <bool Update>
  V value(const Row& row, index_t i, int lanes) const noexcept {
    V r;
    if (row.residual == nullptr) {
      r = load_strided<V>(row.x + i * a_.x.stride(2), a_.x.stride(2), lanes);
    } else {
      Accum* const residual = row.residual + i * a_.residual.stride(2);
      r = load_strided<V>(residual, a_.residual.stride(2), lanes);
      if constexpr (Update) {
        if (row.x != nullptr) {
          r = load_strided<V>(row.x + i * a_.x.stride(2), a_.x.stride(2), lanes) + r;
          store_strided(r, residual, a_.residual.stride(2), lanes);
        }
      }
    }
    if (row.z != nullptr && !a_.norm_before_gate) r = r * gate(row, i, lanes);
    return r;
  }

  static int lanes_from(index_t i, index_t features) noexcept {
    return static_cast<int>(std::min<index_t>(kWidth, features - i));
  }

  void run_row(index_t b, index_t t) const noexcept {
    const index_t features = a_.y.extent(2);
    const Row r{row(a_.x, b, t), row(a_.residual, b, t), row(a_.z, b, t), row(a_.y, b, t)};

    V squares[4] = {V(Accum(0)), V(Accum(0)), V(Accum(0)), V(Accum(0))};
    for (index_t i = 0; i < features; i += 4 * kWidth) {
      for (int k = 0; k < 4; ++k) {
        const index_t at = i + k * kWidth;
        if (at >= features) break;
        const V v = value<true>(r, at, lanes_from(at, features));
        squares[k] = fma(v, v, squares[k]);
      }
    }
    const Accum mean =
        sum((squares[0] + squares[1]) + (squares[2] + squares[3])) / static_cast<Accum>(features);
    const V scale(Accum(1) / std::sqrt(mean + a_.eps));

    for (index_t i = 0; i < features; i += kWidth) {
      const int lanes = lanes_from(i, features);
      V y = value<false>(r, i, lanes) * scale;
      if (a_.weight.present()) {
        y = y *
            load_strided<V>(a_.weight.data() + i * a_.weight.stride(0), a_.weight.stride(0), lanes);
      }
      if (r.z != nullptr && a_.norm_before_gate) y = y * gate(r, i, lanes);
      store_strided(y, r.y + i * a_.y.stride(2), a_.y.stride(2), lanes);
    }
  }

  const Args& a_;
  const index_t rows_per_task_;
};

SSM_CPU_DETAIL_END

SSM_CPU_NAMESPACE_BEGIN

// RMS normalisation on the CPU; see RmsNormArgs for the equation. Every option and any strides;
// features contiguous is fastest. No allocation. On a bad argument it returns a Status and writes
// nothing.
template <class T>
Status rms_norm(const Cpu& cpu, const RmsNormArgs<T>& a) noexcept {
  const Status status = check_shapes(a);
  if (!status.is_ok()) return status;
  const detail::VectorRmsNorm<T> norm(a);
  cpu.parallel.for_each(norm.tasks(), norm);
  return status;
}

SSM_CPU_NAMESPACE_END
