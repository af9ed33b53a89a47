#pragma once

#include <cmath>

#include "ssm/cpu/gradient.hpp"
#include "ssm/cpu/math.hpp"
#include "ssm/ops/rms_norm_backward.hpp"

SSM_CPU_DETAIL_BEGIN

// Rows of the gradient, a few to a task; dweight in one partial sum per task. Lanes are features.
template <class T, class TGrad>
class VectorRmsNormBackward {
 public:
  using Accum = accum_t<T>;
  using V = Vec<Accum>;
  using Args = RmsNormGradArgs<T, TGrad>;
  static constexpr index_t kTaskElements = 8192;
  static constexpr index_t kMaxTasks = 128;  // and so as many partial sums

  explicit VectorRmsNormBackward(const Args& args) noexcept
      : a_(args),
        features_(args.dy.extent(2)),
        rows_(saturating_mul(args.dy.extent(0), args.dy.extent(1))),
        rows_per_task_(
            std::max({kTaskElements / std::max<index_t>(features_, 1), rows_ / kMaxTasks + 1})) {}

  index_t tasks() const noexcept { return (rows_ + rows_per_task_ - 1) / rows_per_task_; }

  Accum* carve(Arena& arena) const noexcept {
    if (!wanted(a_.dweight, a_.parameters)) return nullptr;
    return arena.allocate<Accum>(saturating_mul(tasks(), features_));
  }

  // `partial` is what carve gave, or null when dweight is not wanted.
  void operator()(index_t task, Accum* partial) const noexcept {
    Accum* const dweight = partial == nullptr ? nullptr : partial + task * features_;
    if (dweight != nullptr) std::fill(dweight, dweight + features_, Accum(0));
    const index_t end = std::min((task + 1) * rows_per_task_, rows_);
    for (index_t i = task * rows_per_task_; i < end; ++i) run_row(i, dweight);
  }

 private:
  template <class E>
  static E* row(const View<E, 3>& v, index_t i) noexcept {
    return v.present() ? row_of_tokens(v, i) : nullptr;
  }
  template <class E, int Rank>
  static SSM_ALWAYS_INLINE V load(E* p, const View<E, Rank>& v, index_t i, int n) noexcept {
    const index_t stride = v.stride(Rank - 1);
    return load_strided<V>(p + i * stride, stride, n);
  }

  // The features [i, i + n) of one row, in the symbols of the equations; q is the gradient that
  // reaches n.
  struct Values {
    V r, gate, v, scaled_dy, q;
  };
  struct Row {
    const T* x;
    const Accum* residual;
    const T* z;
    const TGrad* dy;
  };
  SSM_ALWAYS_INLINE Values values(const Row& row, index_t i, int n) const noexcept {
    Values f;
    f.r = row.residual != nullptr ? load(row.residual, a_.residual, i, n) : load(row.x, a_.x, i, n);
    f.gate = row.z != nullptr ? silu(load(row.z, a_.z, i, n)) : V(Accum(1));
    f.scaled_dy = load(row.dy, a_.dy, i, n);
    if (a_.weight.present()) {
      f.scaled_dy = f.scaled_dy * load(a_.weight.data(), a_.weight, i, n);
    }
    f.v = a_.norm_before_gate ? f.r : f.r * f.gate;
    f.q = a_.norm_before_gate ? f.scaled_dy * f.gate : f.scaled_dy;
    return f;
  }

  void run_row(index_t index, Accum* dweight) const noexcept {
    const Row in{row(a_.x, index), row(a_.residual, index), row(a_.z, index), row(a_.dy, index)};
    V squares[2] = {V(Accum(0)), V(Accum(0))};
    V projections[2] = {V(Accum(0)), V(Accum(0))};
    int chain = 0;
    for (index_t i = 0; i < features_; i += V::kWidth, chain ^= 1) {
      const Values f = values(in, i, lanes_within<V>(i, features_));
      squares[chain] = fma(f.v, f.v, squares[chain]);
      projections[chain] = fma(f.q, f.v, projections[chain]);
    }
    const Accum count = static_cast<Accum>(features_);
    const Accum root = std::sqrt(sum(squares[0] + squares[1]) / count + a_.eps);
    const V mean(sum(projections[0] + projections[1]) / root / count);  // mean_j(q_j n_j)
    const V inverse(Accum(1) / root);

    const Accum* const later = row(a_.dr_later, index);
    Accum* const dresidual = row(a_.dresidual, index);
    TGrad* const dx = row(a_.dx, index);
    TGrad* const dz = in.z != nullptr ? row(a_.dz, index) : nullptr;
    for (index_t i = 0; i < features_; i += V::kWidth) {
      const int lanes = lanes_within<V>(i, features_);
      const Values f = values(in, i, lanes);
      const V n = f.v * inverse;
      const V dv = fnma(n, mean, f.q) * inverse;
      if (dweight != nullptr) {
        V term = load(in.dy, a_.dy, i, lanes) * n;
        if (a_.norm_before_gate) term = term * f.gate;
        store_first(load_first<V>(dweight + i, lanes) + term, dweight + i, lanes);
      }
      if (a_.inputs == GradMode::ignore) continue;
      V dr = a_.norm_before_gate ? dv : dv * f.gate;
      if (dz != nullptr) {
        const V dgate = a_.norm_before_gate ? f.scaled_dy * n : dv * f.r;
        put_gradient(dgate * silu_derivative(load(in.z, a_.z, i, lanes)), dz + i * a_.dz.stride(2),
                     a_.dz.stride(2), lanes, a_.inputs);
      }
      if (later != nullptr) dr = dr + load(later, a_.dr_later, i, lanes);
      if (dresidual != nullptr) {
        put_gradient(dr, dresidual + i * a_.dresidual.stride(2), a_.dresidual.stride(2), lanes,
                     a_.inputs);
      }
      if (dx != nullptr) {
        put_gradient(dr, dx + i * a_.dx.stride(2), a_.dx.stride(2), lanes, a_.inputs);
      }
    }
  }

  const Args& a_;
  const index_t features_;
  const index_t rows_;
  const index_t rows_per_task_;
};

SSM_CPU_DETAIL_END

SSM_CPU_NAMESPACE_BEGIN

// Bytes of the Arena for rms_norm_backward: the partial sums of dweight, at most 128.
template <class T, class TGrad>
std::size_t scratch_bytes(const Cpu&, const RmsNormGradArgs<T, TGrad>& a) noexcept {
  Arena counter;
  detail::VectorRmsNormBackward<T, TGrad>(a).carve(counter);
  return counter.bytes_needed();
}

// The gradient of RMS normalisation on the CPU; see RmsNormGradArgs for the equations. Every option
// and any strides; features contiguous is fastest. No allocation. On a bad argument it returns a
// Status and writes nothing.
template <class T, class TGrad>
Status rms_norm_backward(const Cpu& cpu, const RmsNormGradArgs<T, TGrad>& a,
                         Arena workspace) noexcept {
  Status status = check_shapes(a);
  if (!status.is_ok()) return status;
  const detail::VectorRmsNormBackward<T, TGrad> norm(a);
  accum_t<T>* const partial = norm.carve(workspace);
  status = workspace.status("rms_norm_backward");
  if (!status.is_ok()) return status;
  cpu.parallel.for_each(norm.tasks(), [&](index_t task) noexcept { norm(task, partial); });
  if (wanted(a.dweight, a.parameters)) {
    detail::sum_parts(cpu.parallel, partial, norm.tasks(), a.dweight, a.parameters);
  }
  return status;
}

SSM_CPU_NAMESPACE_END
