#pragma once

#include <array>

#include "ssm/core/check.hpp"
#include "ssm/cpu/math.hpp"
#include "ssm/cpu/simd.hpp"

SSM_CPU_NAMESPACE_BEGIN

// A Mamba-1 block whose dimensions are template parameters, for tiny models on small machines: the
// weights and the state are std::arrays, a step is straight-line loops of known length, and nothing
// is ever allocated, locked or thrown. The equations are those of MambaBlock (float, B rule Euler,
// biases zero where absent).
//
//   static ssm::FixedMambaBlock<16> block;           // d_model 16, d_inner 32, d_state 16, …
//   static ssm::FixedMambaBlock<16>::State state;    // zero: before the first token
//   ssm::Status status = block.load(weights);        // any MambaParameters<float>
//   block.step(x, y, state);                         // x[16] -> y[16]
template <int DModel, int DInner = 2 * DModel, int DState = 16, int DConv = 4,
          int DtRank = (DModel + 15) / 16>
class FixedMambaBlock {
  static_assert(DModel > 0 && DInner > 0 && DState > 0 && DConv > 0 && DtRank > 0,
                "every dimension is at least one");
  using V = detail::Vec<float>;
  static constexpr int kWidth = V::kWidth;
  static constexpr int padded(int n) { return (n + kWidth - 1) / kWidth * kWidth; }

  static constexpr int kInner = padded(DInner);  // channels, rounded up to full registers
  static constexpr int kLow = padded(DtRank + 2 * DState);  // dt, B and C
  static constexpr int kModel = padded(DModel);

  template <int N>
  using Array = std::array<float, static_cast<std::size_t>(N)>;

 public:
  // One copy is a snapshot. Channels are contiguous; taps are oldest first.
  struct State {
    alignas(64) Array<(DConv - 1) * kInner + 1> conv{};
    alignas(64) Array<DState * kInner> ssm{};
  };

  // Copies the weights into the layout of step(): column by column, so that SIMD lanes run over
  // outputs. `w` has the members of MambaParameters<float>; absent biases count as zero. On a wrong
  // shape the block is unchanged.
  template <class Parameters>
  Status load(const Parameters& w) noexcept {
    Check check("FixedMambaBlock::load");
    check.shape("in_proj.weight", w.in_proj_weight, {2 * DInner, DModel})
        .optional_shape("in_proj.bias", w.in_proj_bias, {2 * DInner})
        .shape("conv1d.weight", w.conv1d_weight, {DInner, DConv})
        .optional_shape("conv1d.bias", w.conv1d_bias, {DInner})
        .shape("x_proj.weight", w.x_proj_weight, {DtRank + 2 * DState, DInner})
        .shape("dt_proj.weight", w.dt_proj_weight, {DInner, DtRank})
        .shape("dt_proj.bias", w.dt_proj_bias, {DInner})
        .shape("A_log", w.A_log, {DInner, DState})
        .shape("D", w.D, {DInner})
        .shape("out_proj.weight", w.out_proj_weight, {DModel, DInner})
        .optional_shape("out_proj.bias", w.out_proj_bias, {DModel});
    if (!check.passed()) return check.status();
    columns<DModel>(w.in_proj_weight, 0, DInner, in_x_.data(), kInner);
    columns<DModel>(w.in_proj_weight, DInner, DInner, in_z_.data(), kInner);
    row(w.in_proj_bias, 0, DInner, in_x_bias_.data());
    row(w.in_proj_bias, DInner, DInner, in_z_bias_.data());
    columns<DConv>(w.conv1d_weight, 0, DInner, conv_.data(), kInner);
    row(w.conv1d_bias, 0, DInner, conv_bias_.data());
    columns<DInner>(w.x_proj_weight, 0, DtRank + 2 * DState, x_proj_.data(), kLow);
    columns<DtRank>(w.dt_proj_weight, 0, DInner, dt_proj_.data(), kInner);
    row(w.dt_proj_bias, 0, DInner, dt_bias_.data());
    columns<DState>(w.A_log, 0, DInner, A_.data(), kInner);
    for (int i = 0; i < DState * kInner; i += kWidth) {  // A log2(e), for the exp2 of step()
      const V A_log = V::load(A_.data() + i);
      (V(-detail::simd::MathConstants<float>::log2e) * exp(A_log)).store(A_.data() + i);
    }
    row(w.D, 0, DInner, D_.data());
    columns<DInner>(w.out_proj_weight, 0, DModel, out_proj_.data(), kModel);
    row(w.out_proj_bias, 0, DModel, out_bias_.data());
    return Status::ok();
  }

  // One token: x and y hold d_model values each and may be the same array. The number of
  // instructions does not depend on the values.
  void step(const float* x, float* y, State& state) const noexcept {
    alignas(64) float channels[kInner];
    alignas(64) float gate[kInner];
    alignas(64) float low[kLow];
    alignas(64) float out[kModel];
    multiply<DModel, kInner>(in_x_, in_x_bias_, x, channels);
    multiply<DModel, kInner>(in_z_, in_z_bias_, x, gate);
    convolve(channels, state);
    multiply<DInner, kLow>(x_proj_, Array<kLow>{}, channels, low);
    for (int c = 0; c < kInner; c += kWidth) scan(c, channels, gate, low, state);
    multiply<DInner, kModel>(out_proj_, out_bias_, channels, out);
    for (int i = 0; i < DModel; ++i) y[i] = out[i];
  }

 private:
  // to[j * stride + i] = from(first + i, j): the columns of `count` rows of a matrix.
  template <int Columns, class T>
  static void columns(const View<T, 2>& from, int first, int count, float* to,
                      int stride) noexcept {
    for (int j = 0; j < Columns; ++j) {
      for (int i = 0; i < count; ++i) to[j * stride + i] = from(first + i, j);
    }
  }
  template <class T>
  static void row(const View<T, 1>& from, int first, int count, float* to) noexcept {
    for (int i = 0; i < count; ++i) to[i] = from.present() ? from(first + i) : 0.0f;
  }

  // y = bias + W x for W stored by columns. Narrow outputs keep several sums per register of
  // outputs, so that the additions do not wait for each other.
  template <int Inputs, int Outputs>
  static void multiply(const Array<Inputs * Outputs>& W, const Array<Outputs>& bias, const float* x,
                       float* y) noexcept {
    constexpr int kRegisters = Outputs / kWidth;
    constexpr int kTile = kRegisters < 8 ? kRegisters : 8;
    constexpr int kSums = kTile >= 4 ? 1 : Inputs >= 4 ? 4 : 1;
    for (int first = 0; first < kRegisters; first += kTile) {
      const int count = kRegisters - first < kTile ? kRegisters - first : kTile;
      V sums[kSums][kTile];
      for (int s = 0; s < kSums; ++s) {
        for (int r = 0; r < kTile; ++r) sums[s][r] = V(0.0f);
      }
      const float* column = W.data() + first * kWidth;
      int i = 0;
      if (count == kTile) {
        for (; i + kSums <= Inputs; i += kSums) {
          for (int s = 0; s < kSums; ++s, column += Outputs) {
            const V xi(x[i + s]);
            for (int r = 0; r < kTile; ++r) {
              sums[s][r] = fma(xi, V::load(column + r * kWidth), sums[s][r]);
            }
          }
        }
      }
      for (; i < Inputs; ++i, column += Outputs) {
        for (int r = 0; r < count; ++r) {
          sums[0][r] = fma(V(x[i]), V::load(column + r * kWidth), sums[0][r]);
        }
      }
      for (int r = 0; r < count; ++r) {
        V sum = V::load(bias.data() + (first + r) * kWidth);
        for (int s = 0; s < kSums; ++s) sum = sum + sums[s][r];
        sum.store(y + (first + r) * kWidth);
      }
    }
  }

  // x <- silu(bias + sum_j w_j x_{t-(W-1)+j}); the window moves by one token.
  void convolve(float* x, State& state) const noexcept {
    for (int c = 0; c < kInner; c += kWidth) {
      const V current = V::load(x + c);
      V sum = V::load(conv_bias_.data() + c);
      for (int j = 0; j < DConv - 1; ++j) {
        float* const tap = state.conv.data() + j * kInner + c;
        const V previous = V::load(tap);
        sum = fma(V::load(conv_.data() + j * kInner + c), previous, sum);
        (j + 2 < DConv ? V::load(tap + kInner) : current).store(tap);
      }
      sum = fma(V::load(conv_.data() + (DConv - 1) * kInner + c), current, sum);
      silu(sum).store(x + c);
    }
  }

  // The selective scan of the channels [c, c + kWidth); their y replaces their x.
  void scan(int c, float* channels, const float* gate, const float* low,
            State& state) const noexcept {
    V dt = V::load(dt_bias_.data() + c);
    for (int r = 0; r < DtRank; ++r) {
      dt = fma(V(low[r]), V::load(dt_proj_.data() + r * kInner + c), dt);
    }
    const V delta = softplus(dt);
    const V x = V::load(channels + c);
    const V input = delta * x;
    V y = V::load(D_.data() + c) * x;
    for (int n = 0; n < DState; ++n) {
      float* const h = state.ssm.data() + n * kInner + c;
      const V exponent = max(V(-detail::simd::MathConstants<float>::exp2_bound),
                             delta * V::load(A_.data() + n * kInner + c));
      const V next = fma(exp2_bounded(exponent), V::load(h), input * V(low[DtRank + n]));
      next.store(h);
      y = fma(V(low[DtRank + DState + n]), next, y);
    }
    (y * silu(V::load(gate + c))).store(channels + c);
  }

  alignas(64) Array<DModel * kInner> in_x_{};
  alignas(64) Array<DModel * kInner> in_z_{};
  alignas(64) Array<kInner> in_x_bias_{};
  alignas(64) Array<kInner> in_z_bias_{};
  alignas(64) Array<DConv * kInner> conv_{};
  alignas(64) Array<kInner> conv_bias_{};
  alignas(64) Array<DInner * kLow> x_proj_{};
  alignas(64) Array<DtRank * kInner> dt_proj_{};
  alignas(64) Array<kInner> dt_bias_{};
  alignas(64) Array<DState * kInner> A_{};
  alignas(64) Array<kInner> D_{};
  alignas(64) Array<DInner * kModel> out_proj_{};
  alignas(64) Array<kModel> out_bias_{};
};

SSM_CPU_NAMESPACE_END
