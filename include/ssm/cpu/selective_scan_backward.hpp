#pragma once

#include <algorithm>
#include <complex>
#include <numeric>

#include "ssm/cpu/gradient.hpp"
#include "ssm/cpu/math.hpp"
#include "ssm/cpu/panel_kernels.hpp"
#include "ssm/cpu/selective_scan.hpp"
#include "ssm/ops/selective_scan_backward.hpp"

SSM_CPU_DETAIL_BEGIN
namespace simd {

// A register of complex numbers. Sums and products are vectors; functions go lane by lane.
template <class R>
struct ComplexVec {
  using V = Vec<R>;
  V re, im;

  ComplexVec() = default;
  SSM_ALWAYS_INLINE ComplexVec(V real) noexcept : re(real), im(R(0)) {}
  SSM_ALWAYS_INLINE ComplexVec(V real, V imaginary) noexcept : re(real), im(imaginary) {}
  SSM_ALWAYS_INLINE explicit ComplexVec(const std::complex<R>& s) noexcept
      : re(s.real()), im(s.imag()) {}

  friend SSM_ALWAYS_INLINE ComplexVec operator+(ComplexVec a, ComplexVec b) noexcept {
    return {a.re + b.re, a.im + b.im};
  }
  friend SSM_ALWAYS_INLINE ComplexVec operator*(ComplexVec a, ComplexVec b) noexcept {
    return {fnma(a.im, b.im, a.re * b.re), fma(a.im, b.re, a.re * b.im)};
  }
  friend SSM_ALWAYS_INLINE ComplexVec fma(ComplexVec a, ComplexVec b, ComplexVec c) noexcept {
    return {fnma(a.im, b.im, fma(a.re, b.re, c.re)), fma(a.im, b.re, fma(a.re, b.im, c.im))};
  }
};

// What the real and the complex register have in common: products with a real one, the conjugate
// (a real number itself), the real part, the sum over the lanes.
template <class R>
SSM_ALWAYS_INLINE Vec<R> scale(Vec<R> a, Vec<R> b) noexcept {
  return a * b;
}
template <class R>
SSM_ALWAYS_INLINE ComplexVec<R> scale(Vec<R> a, ComplexVec<R> b) noexcept {
  return {a * b.re, a * b.im};
}
template <class R>
SSM_ALWAYS_INLINE Vec<R> scale_add(Vec<R> a, Vec<R> b, Vec<R> c) noexcept {
  return fma(a, b, c);
}
template <class R>
SSM_ALWAYS_INLINE ComplexVec<R> scale_add(Vec<R> a, ComplexVec<R> b, ComplexVec<R> c) noexcept {
  return {fma(a, b.re, c.re), fma(a, b.im, c.im)};
}
template <class R>
SSM_ALWAYS_INLINE Vec<R> conjugate_lanes(Vec<R> a) noexcept {
  return a;
}
template <class R>
SSM_ALWAYS_INLINE ComplexVec<R> conjugate_lanes(ComplexVec<R> a) noexcept {
  return {a.re, Vec<R>(R(0)) - a.im};
}
// Re(conj(a) b) + c
template <class R>
SSM_ALWAYS_INLINE Vec<R> add_real_product(Vec<R> a, Vec<R> b, Vec<R> c) noexcept {
  return fma(a, b, c);
}
template <class R>
SSM_ALWAYS_INLINE Vec<R> add_real_product(ComplexVec<R> a, ComplexVec<R> b, Vec<R> c) noexcept {
  return fma(a.im, b.im, fma(a.re, b.re, c));
}
template <class R>
SSM_ALWAYS_INLINE std::complex<R> sum(ComplexVec<R> a) noexcept {
  return {sum(a.re), sum(a.im)};
}

// The first n lanes of a register of S in memory.
template <class R>
SSM_ALWAYS_INLINE Vec<R> load_lanes(const R* p, index_t stride, int n) noexcept {
  return load_strided<Vec<R>>(p, stride, n);
}
template <class R>
SSM_ALWAYS_INLINE ComplexVec<R> load_lanes(const std::complex<R>* p, index_t stride,
                                           int n) noexcept {
  R re[Vec<R>::kWidth] = {};
  R im[Vec<R>::kWidth] = {};
  for (int i = 0; i < n; ++i) {
    re[i] = p[i * stride].real();
    im[i] = p[i * stride].imag();
  }
  return {Vec<R>::load(re), Vec<R>::load(im)};
}
template <class R>
SSM_ALWAYS_INLINE void store_lanes(ComplexVec<R> v, std::complex<R>* p, index_t stride,
                                   int n) noexcept {
  R re[Vec<R>::kWidth];
  R im[Vec<R>::kWidth];
  v.re.store(re);
  v.im.store(im);
  for (int i = 0; i < n; ++i) p[i * stride] = {re[i], im[i]};
}
template <class R>
SSM_ALWAYS_INLINE void store_lanes(Vec<R> v, R* p, index_t stride, int n) noexcept {
  store_strided(v, p, stride, n);
}

// f of each lane.
template <class R, class F>
ComplexVec<R> map_lanes(ComplexVec<R> v, F f) noexcept {
  std::complex<R> lanes[Vec<R>::kWidth];
  store_lanes(v, lanes, 1, Vec<R>::kWidth);
  for (std::complex<R>& lane : lanes) lane = f(lane);
  return load_lanes(lanes, 1, Vec<R>::kWidth);
}
template <class R>
ComplexVec<R> exp(ComplexVec<R> v) noexcept {
  return map_lanes(v, [](const std::complex<R>& s) { return std::exp(s); });
}
template <class R>
ComplexVec<R> phi1(ComplexVec<R> v) noexcept {
  return map_lanes(v, [](const std::complex<R>& s) { return ssm::phi1(s); });
}
template <class R>
ComplexVec<R> phi1_derivative(ComplexVec<R> v) noexcept {
  return map_lanes(v, [](const std::complex<R>& s) { return ssm::phi1_derivative(s); });
}

}  // namespace simd

// accurate_step of a complex system.
template <class R>
void accurate_step(simd::ComplexVec<R> v, simd::ComplexVec<R> b, simd::ComplexVec<R>& h,
                   simd::ComplexVec<R>& r) noexcept {
  using S = std::complex<R>;
  constexpr int kWidth = Vec<R>::kWidth;
  S vs[kWidth], bs[kWidth], hs[kWidth], rs[kWidth];
  simd::store_lanes(v, vs, 1, kWidth);
  simd::store_lanes(b, bs, 1, kWidth);
  simd::store_lanes(h, hs, 1, kWidth);
  simd::store_lanes(r, rs, 1, kWidth);
  for (int i = 0; i < kWidth; ++i) {
    if (!(std::abs(vs[i]) < R(0.5))) {
      hs[i] = std::exp(vs[i]) * (hs[i] + rs[i]) + bs[i];
      rs[i] = S(0);
      continue;
    }
    const S increment = (expm1_of(vs[i]) * hs[i] + bs[i]) + rs[i];
    const S near = hs[i] + increment;
    const S added = near - hs[i];
    rs[i] = (hs[i] - (near - added)) + (increment - added);
    hs[i] = near;
  }
  h = simd::load_lanes(hs, 1, kWidth);
  r = simd::load_lanes(rs, 1, kWidth);
}

// The gradient of the scan. The lanes of a register are channels, as in VectorScan; a block of
// adjacent channels of one group of B and of C goes through every sequence, one after another:
// forwards, keeping the state in front of every kTokens tokens, then backwards chunk by chunk,
// where a tile of states is run through the chunk once more, its states and decays kept in the
// first cache, and then its adjoint. Sums over channels of dB and dC are taken within a task (a run
// of blocks) in the workspace, and after that over tasks in their order.
template <class T, class S>
class VectorScanBackward {
 public:
  using Accum = accum_t<T>;
  using Args = SelectiveScanGradArgs<T, S>;
  using Coefficient = typename SelectiveScanArgs<T, S>::Coefficient;
  using V = Vec<Accum>;
  static constexpr bool kComplex = is_complex_v<S>;
  using Z = std::conditional_t<kComplex, simd::ComplexVec<Accum>, V>;  // a register of S

  static constexpr int kWidth = V::kWidth;
  static constexpr int kTokens = 32;
  // States in registers at once, with their gradient and that of A. Eight were no faster where
  // there are 32 registers (18.5 ns per channel and token against 18.2, AVX-512, d_state 16).
  static constexpr int kStates = 4;
  static constexpr index_t kTasks = 32;         // where blocks are many, at least so many tasks
  static constexpr index_t kMaxTaskBlocks = 8;  // and of no more blocks than these

  explicit VectorScanBackward(const Args& args) noexcept
      : a_(args),
        f_(args.forward),
        channels_(f_.x.extent(2)),
        d_state_(f_.A.extent(1)),
        wants_dB_(wanted(args.dB, coefficient_mode(args, args.dB))),
        wants_dC_(wanted(args.dC, coefficient_mode(args, args.dC))) {
    if (channels_ == 0) return;
    per_b_ = channels_ / f_.B.extent(2);
    per_c_ = channels_ / f_.C.extent(2);
    stretch_ = std::gcd(per_b_, per_c_);
    blocks_per_stretch_ = (stretch_ + kWidth - 1) / kWidth;
    const index_t blocks = channels_ / stretch_ * blocks_per_stretch_;
    blocks_per_task_ =
        std::min({std::max<index_t>(blocks / kTasks, 1), kMaxTaskBlocks, blocks_per_stretch_});
    tasks_per_stretch_ = (blocks_per_stretch_ + blocks_per_task_ - 1) / blocks_per_task_;
  }

  index_t tasks() const noexcept {
    return channels_ == 0 ? 0 : channels_ / stretch_ * tasks_per_stretch_;
  }

  struct Memory {
    Z* states;  // of every task: the vectors of one block, then its checkpoints
    S* dB;      // of every task: (tokens, d_state), or (d_state) for a sum over tokens
    S* dC;
  };

  Memory carve(Arena& arena) const noexcept {
    Memory m;
    m.states = arena.allocate<Z>(saturating_mul(tasks(), states_per_task()));
    m.dB = arena.allocate<S>(wants_dB_ ? saturating_mul(tasks(), partial_size(a_.dB)) : 0);
    m.dC = arena.allocate<S>(wants_dC_ ? saturating_mul(tasks(), partial_size(a_.dC)) : 0);
    return m;
  }

  void operator()(index_t task, const Memory& memory) const noexcept {
    Partial dB = open_partial(wants_dB_, a_.dB, memory.dB, task);
    Partial dC = open_partial(wants_dC_, a_.dC, memory.dC, task);
    Work work;
    work.place(memory.states + task * states_per_task(), d_state_);
    const index_t stretch = task / tasks_per_stretch_;
    const index_t first = task % tasks_per_stretch_ * blocks_per_task_;
    const index_t last = std::min(first + blocks_per_task_, blocks_per_stretch_);
    for (index_t i = first; i < last; ++i) {
      const index_t offset = i * kWidth;
      Block block;
      block.channel = stretch * stretch_ + offset;
      block.lanes = static_cast<int>(std::min<index_t>(kWidth, stretch_ - offset));
      run_block(block, dB, dC, work);
    }
  }

  // The gradients of B and C from the partial sums, token by token.
  void finish(const Parallel& parallel, const Memory& memory) const noexcept {
    if (wants_dB_) reduce(parallel, a_.dB, memory.dB, per_b_);
    if (wants_dC_) reduce(parallel, a_.dC, memory.dC, per_c_);
  }

 private:
  struct Block {
    index_t channel;
    int lanes;
    V bias, skip, delta_limit;
    V dD, ddt_bias;
  };

  // A task's sums of dB or dC: those of token i (row * length + t) at data + i * token.
  struct Partial {
    S* data;  // null when not wanted
    index_t token;
  };

  // The memory of a task. In the workspace, d_state registers each: A, its gradient, the state with
  // what mode accurate carries beside it, g with the same, and the checkpoints, a pair of the
  // former for every chunk. On the stack, of one chunk:
  struct Work {
    Z *A, *dA, *h, *h_rest, *g, *g_rest, *checkpoints;
    Z before[(kTokens + 1) * kStates];  // h_{t-1} of a tile; one more for the last h
    Z decay[kTokens * kStates];
    V delta[kTokens], scaled_delta[kTokens];  // and delta log2(e)
    V x[kTokens], input[kTokens];             // and delta x
    V slope[kTokens];                         // softplus'
    V e[kTokens];
    V sum[kTokens];       // D x + C h
    V by_input[kTokens];  // sum_n g B, or g w B for zero-order hold
    V by_delta[kTokens];  // sum_n g A a h, or with what depends on the input, likewise
    bool bounded;

    void place(Z* memory, index_t d_state) noexcept {
      for (Z** const vector : {&A, &dA, &h, &h_rest, &g, &g_rest}) {
        *vector = memory;
        memory += d_state;
      }
      checkpoints = memory;
    }
  };
  static constexpr index_t kVectors = 6;

  index_t states_per_task() const noexcept {
    const index_t chunks = (f_.x.extent(1) + kTokens - 1) / kTokens;
    return saturating_mul(d_state_, saturating_mul(chunks, 2) + kVectors);
  }

  index_t partial_size(const View<S, 4>& gradient) const noexcept {
    if (is_constant_over_sequence(gradient)) return d_state_;
    return saturating_mul(saturating_mul(f_.x.extent(0), f_.x.extent(1)), d_state_);
  }

  Partial open_partial(bool wants, const View<S, 4>& gradient, S* data,
                       index_t task) const noexcept {
    if (!wants) return {nullptr, 0};
    const index_t size = partial_size(gradient);
    S* const mine = data + task * size;
    std::fill(mine, mine + size, S(0));
    return {mine, is_constant_over_sequence(gradient) ? 0 : d_state_};
  }

  void reduce(const Parallel& parallel, const View<S, 4>& gradient, const S* partial,
              index_t per_group) const noexcept {
    const GradMode mode = coefficient_mode(a_, gradient);
    const index_t size = partial_size(gradient);
    const index_t group_tasks = channels_ == 0 ? 0 : per_group / stretch_ * tasks_per_stretch_;
    // The sums at `from` of every task of every group, to the matrix (groups, d_state) at `to`.
    const auto add = [&](index_t from, S* to) noexcept {
      for (index_t group = 0; group < gradient.extent(2); ++group) {
        for (index_t n = 0; n < d_state_; n += kWidth) {
          const int lanes = lanes_within<V>(n, d_state_);
          Z sum(V(Accum(0)));
          for (index_t task = 0; task < group_tasks; ++task) {
            const S* const p = partial + (group * group_tasks + task) * size + from + n;
            sum = sum + simd::load_lanes(p, 1, lanes);
          }
          put_states(sum, to + group * gradient.stride(2) + n * gradient.stride(3),
                     gradient.stride(3), lanes, mode);
        }
      }
    };
    if (is_constant_over_sequence(gradient)) {
      if (gradient.data() != nullptr) add(0, gradient.data());
      return;
    }
    const index_t length = f_.x.extent(1);
    for (index_t i = 0; i < f_.sequences.count(f_.x.extent(0)); ++i) {
      const Sequences::Range range = f_.sequences.range(i, length);
      parallel.for_each(range.end - range.begin, [&](index_t k) noexcept {
        const index_t t = range.begin + k;
        add((range.row * length + t) * d_state_,
            gradient.data() + range.row * gradient.stride(0) + t * gradient.stride(1));
      });
    }
  }

  static V load_channels(const View<const Accum, 1>& v, const Block& block) noexcept {
    if (!v.present()) return V(Accum(0));
    return load_strided<V>(v.data() + block.channel * v.stride(0), v.stride(0), block.lanes);
  }
  void put_channels(V value, const View<Accum, 1>& v, const Block& block) const noexcept {
    if (!wanted(v, a_.parameters)) return;
    put_gradient(value, v.data() + block.channel * v.stride(0), v.stride(0), block.lanes,
                 a_.parameters);
  }
  static void put_states(Z value, S* p, index_t stride, int lanes, GradMode mode) noexcept {
    if (mode == GradMode::accumulate) value = simd::load_lanes(p, stride, lanes) + value;
    simd::store_lanes(value, p, stride, lanes);
  }
  void put_matrix(Z value, const View<S, 2>& m, const Block& block, index_t n) const noexcept {
    if (!wanted(m, a_.parameters)) return;
    put_states(value, m.data() + block.channel * m.stride(0) + n * m.stride(1), m.stride(0),
               block.lanes, a_.parameters);
  }

  void run_block(Block& block, const Partial& dB, const Partial& dC, Work& work) const noexcept {
    block.bias = load_channels(f_.dt_bias, block);
    block.skip = load_channels(f_.D, block);
    block.dD = V(Accum(0));
    block.ddt_bias = V(Accum(0));
    for (index_t n = 0; n < d_state_; ++n) {
      work.A[n] =
          simd::load_lanes(f_.A.data() + block.channel * f_.A.stride(0) + n * f_.A.stride(1),
                           f_.A.stride(0), block.lanes);
      work.dA[n] = Z(V(Accum(0)));
    }
    if constexpr (!kComplex) {
      V magnitude(Accum(0));
      for (index_t n = 0; n < d_state_; ++n) magnitude = max(abs(work.A[n]), magnitude);
      block.delta_limit = min(V(simd::MathConstants<Accum>::exp2_bound) / magnitude,
                              V(std::numeric_limits<Accum>::max()));
    }
    for (index_t i = 0; i < f_.sequences.count(f_.x.extent(0)); ++i) {
      run_sequence(i, block, dB, dC, work);
    }
    put_channels(block.dD, a_.dD, block);
    put_channels(block.ddt_bias, a_.ddt_bias, block);
    for (index_t n = 0; n < d_state_; ++n) {
      put_matrix(work.dA[n], a_.dA, block, n);
      put_matrix(work.dA[n] * simd::conjugate_lanes(work.A[n]), a_.dA_log, block, n);
    }
  }

  // The tokens of one sequence in the order of the recurrence, at the block's first channel and in
  // its groups.
  struct Streams {
    TokenRows<const T> x, dt, z, dy;
    TokenRows<T> y, dx, ddt, dz;
    TokenRows<const Coefficient> B, C;
    index_t first_token, token_step;  // in a Partial

    Streams(const VectorScanBackward& scan, const Block& block, const Sequences::Range& r) noexcept
        : x(scan.f_.x, r, scan.f_.reverse),
          dt(scan.f_.dt, r, scan.f_.reverse),
          z(scan.f_.z, r, scan.f_.reverse),
          dy(scan.a_.dy, r, scan.f_.reverse),
          y(scan.f_.y, r, scan.f_.reverse),
          dx(scan.a_.dx, r, scan.f_.reverse),
          ddt(scan.a_.ddt, r, scan.f_.reverse),
          dz(scan.a_.dz, r, scan.f_.reverse),
          B(scan.f_.B, r, scan.f_.reverse),
          C(scan.f_.C, r, scan.f_.reverse) {
      const index_t d = block.channel;
      move(x, scan.f_.x, d);
      move(dt, scan.f_.dt, d);
      move(z, scan.f_.z, d);
      move(dy, scan.a_.dy, d);
      move(y, scan.f_.y, d);
      move(dx, scan.a_.dx, d);
      move(ddt, scan.a_.ddt, d);
      move(dz, scan.a_.dz, d);
      move(B, scan.f_.B, d / scan.per_b_);
      move(C, scan.f_.C, d / scan.per_c_);
      const index_t last = r.end > r.begin ? r.end - 1 : r.begin;
      first_token = r.row * scan.f_.x.extent(1) + (scan.f_.reverse ? last : r.begin);
      token_step = scan.f_.reverse ? -1 : 1;
    }
    template <class E, int Rank>
    static void move(TokenRows<E>& rows, const View<E, Rank>& v, index_t i) noexcept {
      if (rows.data != nullptr) rows.data += i * v.stride(2);
    }
  };

  void run_sequence(index_t i, Block& block, const Partial& dB, const Partial& dC,
                    Work& work) const noexcept {
    const Sequences::Range range = f_.sequences.range(i, f_.x.extent(1));
    const index_t length = range.end - range.begin;
    const index_t chunks = (length + kTokens - 1) / kTokens;
    const Streams streams(*this, block, range);
    const auto tokens_of = [length](index_t chunk) {
      return static_cast<int>(std::min<index_t>(kTokens, length - chunk * kTokens));
    };

    load_states(f_.h0, i, block, work.h);
    std::fill(work.h_rest, work.h_rest + d_state_, Z(V(Accum(0))));
    for (index_t chunk = 0; chunk < chunks; ++chunk) {
      Z* const kept = work.checkpoints + chunk * 2 * d_state_;
      std::copy(work.h, work.h + d_state_, kept);
      std::copy(work.h_rest, work.h_rest + d_state_, kept + d_state_);
      if (chunk + 1 == chunks) break;
      prepare(block, streams, chunk * kTokens, kTokens, work);
      for (index_t n = 0; n < d_state_;) {
        n += run_tile(streams, chunk * kTokens, kTokens, n, false, dB, dC, work);
      }
    }

    load_states(a_.dh_last, i, block, work.g);
    std::fill(work.g_rest, work.g_rest + d_state_, Z(V(Accum(0))));
    for (index_t chunk = chunks - 1; chunk >= 0; --chunk) {
      const int tokens = tokens_of(chunk);
      const Z* const kept = work.checkpoints + chunk * 2 * d_state_;
      std::copy(kept, kept + d_state_, work.h);
      std::copy(kept + d_state_, kept + 2 * d_state_, work.h_rest);
      prepare(block, streams, chunk * kTokens, tokens, work);
      load_output_gradients(block, streams, chunk * kTokens, tokens, work);
      for (index_t n = 0; n < d_state_;) {
        n += run_tile(streams, chunk * kTokens, tokens, n, true, dB, dC, work);
      }
      finish_chunk(block, streams, chunk * kTokens, tokens, work);
    }
    if (!wanted(a_.dh0, a_.inputs)) return;
    for (index_t n = 0; n < d_state_; ++n) {
      put_states(work.g[n] + work.g_rest[n],
                 a_.dh0.data() + i * a_.dh0.stride(0) + block.channel * a_.dh0.stride(1) +
                     n * a_.dh0.stride(2),
                 a_.dh0.stride(1), block.lanes, a_.inputs);
    }
  }

  void load_states(const View<const S, 3>& from, index_t i, const Block& block,
                   Z* to) const noexcept {
    for (index_t n = 0; n < d_state_; ++n) {
      to[n] = from.present()
                  ? simd::load_lanes(from.data() + i * from.stride(0) +
                                         block.channel * from.stride(1) + n * from.stride(2),
                                     from.stride(1), block.lanes)
                  : Z(V(Accum(0)));
    }
  }

  // delta and its products with x.
  void prepare(const Block& block, const Streams& streams, index_t t0, int tokens,
               Work& work) const noexcept {
    const V log2e(simd::MathConstants<Accum>::log2e);
    const T* x = streams.x.data + t0 * streams.x.token;
    const T* dt = streams.dt.data + t0 * streams.dt.token;
    V outside(Accum(0));
    for (int t = 0; t < tokens; ++t) {
      const V input = load_strided<V>(x, f_.x.stride(2), block.lanes);
      V delta = load_strided<V>(dt, f_.dt.stride(2), block.lanes) + block.bias;
      if (f_.delta_softplus) {
        work.slope[t] = delta;  // softplus' is taken of it where it is needed
        delta = softplus(delta);
      }
      const V scaled = delta * log2e;
      work.x[t] = input;
      work.delta[t] = delta;
      work.scaled_delta[t] = scaled;
      work.input[t] = delta * input;
      if constexpr (!kComplex) {
        outside = V::select(less_equal(abs(scaled), block.delta_limit), outside, V(Accum(1)));
      }
      x += streams.x.token;
      dt += streams.dt.token;
    }
    work.bounded = V::all(equal(outside, V(Accum(0))));
  }

  // e, and where the sums over states begin.
  void load_output_gradients(Block& block, const Streams& streams, index_t t0, int tokens,
                             Work& work) const noexcept {
    for (int t = 0; t < tokens; ++t) {
      V e = load_strided<V>(streams.dy.data + (t0 + t) * streams.dy.token, a_.dy.stride(2),
                            block.lanes);
      if (f_.z.present()) {
        e = e * silu(load_strided<V>(streams.z.data + (t0 + t) * streams.z.token, f_.z.stride(2),
                                     block.lanes));
      }
      work.e[t] = e;
      block.dD = fma(e, work.x[t], block.dD);
      work.sum[t] = f_.D.present() ? block.skip * work.x[t] : V(Accum(0));
      work.by_input[t] = V(Accum(0));
      work.by_delta[t] = V(Accum(0));
    }
  }

  // What is left once every state has been: the gradients of x, dt and z, and y.
  void finish_chunk(Block& block, const Streams& streams, index_t t0, int tokens,
                    const Work& work) const noexcept {
    const bool hold = f_.b_rule == BRule::zero_order_hold;
    const GradMode mode = a_.inputs;
    for (int t = 0; t < tokens; ++t) {
      V dx = hold ? work.by_input[t] : work.delta[t] * work.by_input[t];
      if (f_.D.present()) dx = fma(block.skip, work.e[t], dx);
      V ddt = hold ? work.by_delta[t] : fma(work.x[t], work.by_input[t], work.by_delta[t]);
      if (f_.delta_softplus) ddt = ddt * softplus_derivative(work.slope[t]);
      block.ddt_bias = block.ddt_bias + ddt;
      if (wanted(a_.dx, mode)) {
        put_gradient(dx, streams.dx.data + (t0 + t) * streams.dx.token, a_.dx.stride(2),
                     block.lanes, mode);
      }
      if (wanted(a_.ddt, mode)) {
        put_gradient(ddt, streams.ddt.data + (t0 + t) * streams.ddt.token, a_.ddt.stride(2),
                     block.lanes, mode);
      }
      const bool gated = f_.z.present();
      const bool dz = gated && wanted(a_.dz, mode);
      if (!dz && !f_.y.present()) continue;
      V z(Accum(0));
      if (gated) {
        z = load_strided<V>(streams.z.data + (t0 + t) * streams.z.token, f_.z.stride(2),
                            block.lanes);
      }
      if (dz) {
        const V dy = load_strided<V>(streams.dy.data + (t0 + t) * streams.dy.token, a_.dy.stride(2),
                                     block.lanes);
        put_gradient(dy * work.sum[t] * silu_derivative(z),
                     streams.dz.data + (t0 + t) * streams.dz.token, a_.dz.stride(2), block.lanes,
                     mode);
      }
      if (f_.y.present()) {
        store_strided(gated ? work.sum[t] * silu(z) : work.sum[t],
                      streams.y.data + (t0 + t) * streams.y.token, f_.y.stride(2), block.lanes);
      }
    }
  }

  // What a tile of states reads and writes, from its first state on.
  struct Tile {
    const Coefficient *B, *C;  // of the chunk's first token
    index_t B_token, B_state, C_token, C_state;
    S *dB, *dC;  // likewise; or null
    index_t dB_token, dC_token;
    index_t n;
    int tokens;
    bool wants_sum;
  };

  // Runs the largest tile of the states from n on; returns its size. Forwards through the chunk
  // and, if asked, backwards.
  index_t run_tile(const Streams& streams, index_t t0, int tokens, index_t n, bool backwards,
                   const Partial& dB, const Partial& dC, Work& work) const noexcept {
    Tile tile;
    tile.B = streams.B.data + t0 * streams.B.token + n * f_.B.stride(3);
    tile.C = streams.C.data + t0 * streams.C.token + n * f_.C.stride(3);
    tile.B_token = streams.B.token;
    tile.C_token = streams.C.token;
    tile.B_state = f_.B.stride(3);
    tile.C_state = f_.C.stride(3);
    const index_t token = streams.first_token + t0 * streams.token_step;
    tile.dB = dB.data == nullptr ? nullptr : dB.data + token * dB.token + n;
    tile.dC = dC.data == nullptr ? nullptr : dC.data + token * dC.token + n;
    tile.dB_token = streams.token_step * dB.token;
    tile.dC_token = streams.token_step * dC.token;
    tile.n = n;
    tile.tokens = tokens;
    tile.wants_sum = backwards && (f_.y.present() || (f_.z.present() && wanted(a_.dz, a_.inputs)));
    const bool hold = f_.b_rule == BRule::zero_order_hold;
    if (f_.mode == ScanMode::accurate) {
      return hold ? pass<1, true, true, false>(tile, backwards, work)
                  : pass<1, false, true, false>(tile, backwards, work);
    }
    if (hold) return pass<1, true, false, false>(tile, backwards, work);
    if constexpr (!kComplex) {
      if (d_state_ - n >= kStates) {
        return work.bounded ? pass<kStates, false, false, true>(tile, backwards, work)
                            : pass<kStates, false, false, false>(tile, backwards, work);
      }
    }
    return pass<1, false, false, false>(tile, backwards, work);
  }

  template <int N, bool Hold, bool Accurate, bool Bounded>
  static index_t pass(const Tile& tile, bool backwards, Work& work) noexcept {
    recompute<N, Hold, Accurate, Bounded>(tile, work);
    if (backwards) adjoint<N, Hold, Accurate>(tile, work);
    return N;
  }

  static SSM_ALWAYS_INLINE Z coefficient(const Coefficient* p) noexcept {
    return Z(static_cast<S>(*p));
  }

  // h_t = a_t h_{t-1} + w_t B_t x_t, with every h_{t-1} and a_t kept.
  template <int N, bool Hold, bool Accurate, bool Bounded>
  static void recompute(const Tile& tile, Work& work) noexcept {
    Z h[N];
    Z rest[N];
    SSM_UNROLL
    for (int i = 0; i < N; ++i) {
      h[i] = work.h[tile.n + i];
      if (Accurate) rest[i] = work.h_rest[tile.n + i];
    }
    const Coefficient* B = tile.B;
    const Coefficient* C = tile.C;
    const Z* const A = work.A + tile.n;
    for (int t = 0; t < tile.tokens; ++t) {
      const V delta = work.delta[t];
      const V scaled = work.scaled_delta[t];
      const V input = work.input[t];
      Z* const before = work.before + t * N;
      Z* const decays = work.decay + t * N;
      SSM_UNROLL
      for (int i = 0; i < N; ++i) {
        before[i] = h[i];
        Z decay;
        Z added = simd::scale(input, coefficient(B + i * tile.B_state));
        if constexpr (kComplex || Hold || Accurate) {
          const Z exponent = simd::scale(delta, A[i]);
          decay = exp(exponent);
          if (Hold) added = added * phi1(exponent);
          if constexpr (Accurate) {
            accurate_step(exponent, added, h[i], rest[i]);
          } else {
            h[i] = fma(decay, h[i], added);
          }
        } else {
          decay = Bounded ? simd::exp2_bounded(scaled, A[i]) : simd::exp2_any(scaled, A[i]);
          h[i] = fma(decay, h[i], added);
        }
        decays[i] = decay;
      }
      if (tile.wants_sum) {
        V sum = work.sum[t];
        SSM_UNROLL
        for (int i = 0; i < N; ++i) {
          const Z c = coefficient(C + i * tile.C_state);
          sum = simd::add_real_product(simd::conjugate_lanes(c), h[i], sum);
          if (kComplex) sum = simd::add_real_product(simd::conjugate_lanes(c), h[i], sum);
        }
        work.sum[t] = sum;
      }
      B += tile.B_token;
      C += tile.C_token;
    }
    SSM_UNROLL
    for (int i = 0; i < N; ++i) {
      work.before[tile.tokens * N + i] = h[i];
      work.h[tile.n + i] = h[i];
      if (Accurate) work.h_rest[tile.n + i] = rest[i];
    }
  }

  // p[i] += the sum over the lanes of v[i]
  template <int N>
  static SSM_ALWAYS_INLINE void add_sums(const Z (&v)[N], S* p) noexcept {
    if constexpr (N % 4 == 0) {
      SSM_UNROLL
      for (int i = 0; i < N; i += 4) add_sums4({v[i], v[i + 1], v[i + 2], v[i + 3]}, p + i);
    } else {
      for (int i = 0; i < N; ++i) p[i] += sum(v[i]);
    }
  }

  // g_t = e_t C_t + a_{t+1} g_{t+1} from the last token of the chunk to the first, and what it
  // gives to every gradient.
  template <int N, bool Hold, bool Accurate>
  static void adjoint(const Tile& tile, Work& work) noexcept {
    Z g[N];
    Z rest[N];
    Z dA[N];
    SSM_UNROLL
    for (int i = 0; i < N; ++i) {
      g[i] = work.g[tile.n + i];
      dA[i] = work.dA[tile.n + i];
      if (Accurate) rest[i] = work.g_rest[tile.n + i];
    }
    const Z* const A = work.A + tile.n;
    for (int t = tile.tokens - 1; t >= 0; --t) {
      const Coefficient* const B = tile.B + t * tile.B_token;
      const Coefficient* const C = tile.C + t * tile.C_token;
      const V delta = work.delta[t];
      const V input = work.input[t];
      const V e = kComplex ? work.e[t] + work.e[t] : work.e[t];
      const Z* const before = work.before + t * N;
      const Z* const decays = work.decay + t * N;
      V by_input = work.by_input[t];
      V by_delta = work.by_delta[t];
      Z dB[N];
      Z dC[N];
      SSM_UNROLL
      for (int i = 0; i < N; ++i) {
        g[i] = simd::scale_add(e, simd::conjugate_lanes(coefficient(C + i * tile.C_state)), g[i]);
        Z whole = g[i];
        if (Accurate) whole = whole + rest[i];
        const Z b = coefficient(B + i * tile.B_state);
        const Z decay = decays[i];
        const Z decayed = decay * before[i];
        if constexpr (Hold) {
          const Z exponent = simd::scale(delta, A[i]);
          const Z weight = simd::scale(delta, phi1(exponent));
          const Z bx = simd::scale(work.x[t], b);
          by_input = simd::add_real_product(weight * b, whole, by_input);
          by_delta = simd::add_real_product(fma(A[i], decayed, decay * bx), whole, by_delta);
          const Z by_A = fma(simd::scale(delta * delta, phi1_derivative(exponent)), bx,
                             simd::scale(delta, decayed));
          dA[i] = fma(whole, simd::conjugate_lanes(by_A), dA[i]);
          dB[i] = simd::scale(work.x[t], whole * simd::conjugate_lanes(weight));
        } else {
          by_input = simd::add_real_product(b, whole, by_input);
          const Z product = whole * simd::conjugate_lanes(decayed);
          by_delta = simd::add_real_product(A[i], product, by_delta);
          dA[i] = simd::scale_add(delta, product, dA[i]);
          dB[i] = simd::scale(input, whole);
        }
        dC[i] = simd::scale(e, simd::conjugate_lanes(before[N + i]));
        if constexpr (Accurate) {
          accurate_step(simd::scale(delta, simd::conjugate_lanes(A[i])), Z(V(Accum(0))), g[i],
                        rest[i]);
        } else {
          g[i] = simd::conjugate_lanes(decay) * g[i];
        }
      }
      if (tile.dB != nullptr) add_sums(dB, tile.dB + t * tile.dB_token);
      if (tile.dC != nullptr) add_sums(dC, tile.dC + t * tile.dC_token);
      work.by_input[t] = by_input;
      work.by_delta[t] = by_delta;
    }
    SSM_UNROLL
    for (int i = 0; i < N; ++i) {
      work.g[tile.n + i] = g[i];
      work.dA[tile.n + i] = dA[i];
      if (Accurate) work.g_rest[tile.n + i] = rest[i];
    }
  }

  const Args& a_;
  const SelectiveScanArgs<T, S>& f_;
  const index_t channels_;
  const index_t d_state_;
  const bool wants_dB_, wants_dC_;
  index_t per_b_ = 1, per_c_ = 1;  // channels of a group
  index_t stretch_ = 1;            // channels that share their groups
  index_t blocks_per_stretch_ = 0;
  index_t blocks_per_task_ = 1;
  index_t tasks_per_stretch_ = 0;
};

SSM_CPU_DETAIL_END

SSM_CPU_NAMESPACE_BEGIN

// Bytes of the Arena for selective_scan_backward: for every task (one to eight registers of
// channels) 6 + length / 16 registers for each state, and its sums of dB and dC: d_state values
// each for every token, or once where they are sums over the tokens.
template <class T, class S>
std::size_t scratch_bytes(const Cpu&, const SelectiveScanGradArgs<T, S>& a) noexcept {
  Arena counter;
  detail::VectorScanBackward<T, S>(a).carve(counter);
  return counter.bytes_needed();
}

// The scan's gradient on the CPU; see SelectiveScanGradArgs for the equations. Every option is
// supported; the fast path is a real system with euler's rule, channels contiguous, and many
// channels to a group of B and C. Modes `sequential` and `associative` are one here; `accurate`
// compensates both recurrences and needs a compiler that keeps the order of additions (no
// -ffast-math). No allocation, at most 80 KB of stack. On a bad argument it returns a Status and
// writes nothing.
template <class T, class S>
Status selective_scan_backward(const Cpu& cpu, const SelectiveScanGradArgs<T, S>& a,
                               Arena workspace) noexcept {
  static_assert(std::is_same<accum_t<T>, float>::value || std::is_same<accum_t<T>, double>::value,
                "ssm::Cpu computes in float or double; ssm::Reference takes any scalar");
  const char* const op = "selective_scan_backward";
  Status status = check_shapes(a);
  if (status.is_ok()) status = check_values(a.forward, op);
  if (!status.is_ok()) return status;
  const detail::VectorScanBackward<T, S> scan(a);
  const auto memory = scan.carve(workspace);
  status = workspace.status(op);
  if (!status.is_ok()) return status;
  const index_t updates = saturating_mul(a.forward.x.size(), a.forward.A.extent(1));
  const Parallel parallel = updates < detail::kScanSerialUpdates ? Parallel{} : cpu.parallel;
  parallel.for_each(scan.tasks(), [&](index_t task) noexcept { scan(task, memory); });
  scan.finish(parallel, memory);
  return status;
}

SSM_CPU_NAMESPACE_END
