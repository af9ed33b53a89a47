#pragma once

#include <algorithm>

#include "ssm/cpu/gradient.hpp"
#include "ssm/cpu/math.hpp"
#include "ssm/ops/causal_conv1d_backward.hpp"

SSM_CPU_DETAIL_BEGIN

// What a task of the convolution's gradient keeps, `width` registers each: the taps and their
// gradients, the latest u and e (oldest first), and dstate_last. In registers or on the stack for a
// constant width N, in the workspace for any other (N = 0).
template <class V, int N>
struct ConvWindows {
  ConvWindows(V*, index_t) noexcept {}
  V taps[N], dtaps[N], u[N], e[N], last[N];
};
template <class V>
struct ConvWindows<V, 0> {
  ConvWindows(V* memory, index_t width) noexcept
      : taps(memory),
        dtaps(memory + width),
        u(memory + 2 * width),
        e(memory + 3 * width),
        last(memory + 4 * width) {}
  V *taps, *dtaps, *u, *e, *last;
};

// The convolution's gradient, a register of adjacent channels to a task. It runs through every
// sequence once, forwards: du_k needs e_t of the last `width` tokens only.
template <class T>
class VectorConv1dBackward {
 public:
  using Accum = accum_t<T>;
  using V = Vec<Accum>;
  using Args = CausalConv1dGradArgs<T>;
  static constexpr index_t kAhead = 8;

  explicit VectorConv1dBackward(const Args& args) noexcept
      : a_(args),
        f_(args.forward),
        width_(args.forward.weight.extent(1)),
        channels_(args.forward.x.extent(2)) {}

  index_t tasks() const noexcept { return (channels_ + V::kWidth - 1) / V::kWidth; }

  // The windows of every task, null for the common widths.
  V* carve(Arena& arena) const noexcept {
    if (width_ >= 2 && width_ <= 4) return nullptr;
    return arena.allocate<V>(saturating_mul(tasks(), saturating_mul(width_, 5)));
  }

  void operator()(index_t task, V* windows) const noexcept {
    const index_t d = task * V::kWidth;
    switch (width_) {
      case 2:
        return run(d, ConvWindows<V, 2>(nullptr, 2));
      case 3:
        return run(d, ConvWindows<V, 3>(nullptr, 3));
      case 4:
        return run(d, ConvWindows<V, 4>(nullptr, 4));
      default:
        return run(d, ConvWindows<V, 0>(windows + task * width_ * 5, width_));
    }
  }

 private:
  template <int N>
  void run(index_t d, ConvWindows<V, N> w) const noexcept {
    const index_t width = N > 0 ? N : width_;
    const int n = lanes_within<V>(d, channels_);
    for (index_t j = 0; j < width; ++j) {
      w.taps[j] =
          load_strided<V>(f_.weight.data() + d * f_.weight.stride(0) + j * f_.weight.stride(1),
                          f_.weight.stride(0), n);
      w.dtaps[j] = V(Accum(0));
    }
    V bias(Accum(0));
    if (f_.bias.present()) {
      bias = load_strided<V>(f_.bias.data() + d * f_.bias.stride(0), f_.bias.stride(0), n);
    }
    V dbias(Accum(0));
    for (index_t i = 0; i < f_.sequences.count(f_.x.extent(0)); ++i) {
      run_sequence<N>(i, d, n, bias, dbias, w);
    }
    if (wanted(a_.dbias, a_.parameters)) {
      put_gradient(dbias, a_.dbias.data() + d * a_.dbias.stride(0), a_.dbias.stride(0), n,
                   a_.parameters);
    }
    if (!wanted(a_.dweight, a_.parameters)) return;
    for (index_t j = 0; j < width; ++j) {
      put_gradient(w.dtaps[j],
                   a_.dweight.data() + d * a_.dweight.stride(0) + j * a_.dweight.stride(1),
                   a_.dweight.stride(0), n, a_.parameters);
    }
  }

  // Element (i, k) of an array of states, or zero.
  static V load_state(const View<const Accum, 3>& state, index_t i, index_t k, index_t d,
                      int n) noexcept {
    if (!state.present()) return V(Accum(0));
    return load_strided<V>(
        state.data() + i * state.stride(0) + k * state.stride(1) + d * state.stride(2),
        state.stride(2), n);
  }

  template <int N>
  void run_sequence(index_t i, index_t d, int n, V bias, V& dbias,
                    ConvWindows<V, N>& w) const noexcept {
    const index_t width = N > 0 ? N : width_;
    const Sequences::Range range = f_.sequences.range(i, f_.x.extent(1));
    const index_t length = range.end - range.begin;
    for (index_t j = 0; j < width; ++j) w.e[j] = V(Accum(0));
    // dstate_last is read before dstate0, which may be the same array, is written.
    for (index_t j = 0; j + 1 < width; ++j) {
      w.u[j] = load_state(f_.state0, i, j, d, n);
      w.last[j] = load_state(a_.dstate_last, i, j, d, n);
    }
    const T* x = token(f_.x, range, d);
    const T* dy = token(a_.dy, range, d);
    const bool wants_dx = wanted(a_.dx, a_.inputs);
    const T* dx = wants_dx ? token(a_.dx, range, d) : x;
    for (index_t t = 0; t < length; ++t) {
      // The rows are far apart: the hardware does not see the next ones coming.
      prefetch(x + kAhead * f_.x.stride(1));
      prefetch(dy + kAhead * a_.dy.stride(1));
      if (wants_dx) {
        prefetch(dx + kAhead * a_.dx.stride(1));
        dx += a_.dx.stride(1);
      }
      w.u[width - 1] = load_strided<V>(x, f_.x.stride(2), n);
      V e = load_strided<V>(dy, a_.dy.stride(2), n);
      if (f_.silu) {
        V s = bias;
        for (index_t j = 0; j < width; ++j) s = fma(w.u[j], w.taps[j], s);
        e = e * silu_derivative(s);
      }
      dbias = dbias + e;
      for (index_t j = 0; j < width; ++j) w.dtaps[j] = fma(e, w.u[j], w.dtaps[j]);
      push<N>(e, w);
      put_input(i, range, d, n, t, spread<N>(V(Accum(0)), w));
      for (index_t j = 0; j + 1 < width; ++j) w.u[j] = w.u[j + 1];
      x += f_.x.stride(1);
      dy += a_.dy.stride(1);
    }
    for (index_t j = 0; j + 1 < width; ++j) {
      push<N>(V(Accum(0)), w);
      put_input(i, range, d, n, length + j, spread<N>(w.last[j], w));
    }
  }

  // The first token of a sequence at channel d; null when the array is absent.
  template <class E>
  static E* token(const View<E, 3>& v, const Sequences::Range& r, index_t d) noexcept {
    if (!v.present()) return nullptr;
    return v.data() + r.row * v.stride(0) + r.begin * v.stride(1) + d * v.stride(2);
  }

  template <int N>
  SSM_ALWAYS_INLINE void push(V e, ConvWindows<V, N>& w) const noexcept {
    const index_t width = N > 0 ? N : width_;
    for (index_t j = 0; j + 1 < width; ++j) w.e[j] = w.e[j + 1];
    w.e[width - 1] = e;
  }

  // du of the latest token: later + sum_j weight[j] e_{k-j}
  template <int N>
  SSM_ALWAYS_INLINE V spread(V later, const ConvWindows<V, N>& w) const noexcept {
    const index_t width = N > 0 ? N : width_;
    for (index_t j = 0; j < width; ++j) later = fma(w.taps[j], w.e[width - 1 - j], later);
    return later;
  }

  // du_k, to dstate0 or dx.
  SSM_ALWAYS_INLINE void put_input(index_t i, const Sequences::Range& range, index_t d, int n,
                                   index_t k, V du) const noexcept {
    const index_t t = k - (width_ - 1);
    if (t < 0) {
      if (!wanted(a_.dstate0, a_.inputs)) return;
      put_gradient(du,
                   a_.dstate0.data() + i * a_.dstate0.stride(0) + k * a_.dstate0.stride(1) +
                       d * a_.dstate0.stride(2),
                   a_.dstate0.stride(2), n, a_.inputs);
    } else if (wanted(a_.dx, a_.inputs)) {
      put_gradient(du, token(a_.dx, range, d) + t * a_.dx.stride(1), a_.dx.stride(2), n, a_.inputs);
    }
  }

  const Args& a_;
  const CausalConv1dArgs<T>& f_;
  const index_t width_;
  const index_t channels_;
};

SSM_CPU_DETAIL_END

SSM_CPU_NAMESPACE_BEGIN

// Bytes of the Arena for causal_conv1d_backward: none for widths 2 to 4, else 5 width values for
// each channel.
template <class T>
std::size_t scratch_bytes(const Cpu&, const CausalConv1dGradArgs<T>& a) noexcept {
  Arena counter;
  detail::VectorConv1dBackward<T>(a).carve(counter);
  return counter.bytes_needed();
}

// The gradient of the causal convolution on the CPU; see CausalConv1dGradArgs for the equations.
// Every option and any width; widths 2 to 4 and channels contiguous are fastest. No allocation. On
// a bad argument it returns a Status and writes nothing.
template <class T>
Status causal_conv1d_backward(const Cpu& cpu, const CausalConv1dGradArgs<T>& a,
                              Arena workspace) noexcept {
  const char* const op = "causal_conv1d_backward";
  Status status = check_shapes(a);
  if (status.is_ok()) {
    status = check_values(a.forward.sequences, op, a.forward.x.extent(0), a.forward.x.extent(1));
  }
  if (!status.is_ok()) return status;
  const detail::VectorConv1dBackward<T> conv(a);
  auto* const windows = conv.carve(workspace);
  status = workspace.status(op);
  if (!status.is_ok()) return status;
  cpu.parallel.for_each(conv.tasks(), [&](index_t task) noexcept { conv(task, windows); });
  return status;
}

SSM_CPU_NAMESPACE_END
