#pragma once

#include "ssm/cuda/detail/gemv.cuh"
#include "ssm/cuda/linear.cuh"
#include "ssm/cuda/mamba_step.hpp"
#include "ssm/cuda/residual_add.cuh"
#include "ssm/cuda/rms_norm.cuh"
#include "ssm/cuda/selective_scan.cuh"

SSM_NAMESPACE_BEGIN
namespace detail {

// One token through the causal convolution and its SiLU, one channel of one row: the state moves
// on.
template <class T, class H>
struct ConvStep {
  View<const T, 2> weight;  // (channels, width)
  View<const T, 1> bias;
  View<H, 3> state;  // (states, width - 1, channels)
  View<const index_t, 1> slots;
  View<T, 2> y;  // (batch, channels)

  // What does not depend on the token; of wide convolutions only the slot.
  static constexpr int kFetched = 3;
  struct Prepared {
    index_t slot;
    float before[kFetched], taps[kFetched], last;
  };
  __device__ Prepared prepare(index_t b, index_t d) const {
    Prepared p = {};
    p.slot = slots.data() == nullptr ? b : slots(b);
    const index_t older = state.extent(1);
    p.last = load_float(weight(d, older));
    if (p.slot < 0 || older > kFetched) return p;
#pragma unroll
    for (int j = 0; j < kFetched; ++j) {
      if (j >= older) break;
      p.before[j] = load_float(state(p.slot, j, d));
      p.taps[j] = load_float(weight(d, j));
    }
    return p;
  }
  __device__ void put(index_t b, index_t d, float x, const Prepared& p) const {
    if (p.slot < 0) return;
    const index_t older = state.extent(1);
    float sum = bias.data() == nullptr ? 0.0f : load_float(bias(d));
    if (older <= kFetched) {
#pragma unroll
      for (int j = 0; j < kFetched; ++j) {
        if (j >= older) break;
        sum = fmaf(p.taps[j], p.before[j], sum);
        const float next = j + 1 < older ? p.before[j + 1 < kFetched ? j + 1 : j] : x;
        state(p.slot, j, d) = store_as<H>(next);
      }
    } else {
      for (index_t j = 0; j < older; ++j) {
        sum = fmaf(load_float(weight(d, j)), load_float(state(p.slot, j, d)), sum);
        state(p.slot, j, d) = j + 1 < older ? state(p.slot, j + 1, d) : store_as<H>(x);
      }
    }
    y(b, d) = store_as<T>(silu_fast(fmaf(p.last, x, sum)));
  }
};

// Takes the sums of in_proj: the first rows are channels of the convolution, those after them z.
template <class T, class H>
struct InProjSink {
  ConvStep<T, H> conv;
  View<const T, 1> bias;  // (rows), optional
  View<T, 2> z;           // (batch, channels), absent without a gate
  using Prepared = typename ConvStep<T, H>::Prepared;

  __device__ index_t batch() const { return conv.y.extent(0); }
  __device__ Prepared prepare(int row, int b) const {
    return row < conv.y.extent(1) ? conv.prepare(b, row) : Prepared{};
  }
  __device__ void put(int row, int b, float sum, const Prepared& p) const {
    if (bias.data() != nullptr) sum += load_float(bias(row));
    const index_t channels = conv.y.extent(1);
    if (row < channels) {
      conv.put(b, row, sum, p);
    } else {
      z(b, row - channels) = store_as<T>(sum);
    }
  }
};

constexpr int kConvStepThreads = 256;

// The convolution alone, of x (batch, channels).
template <class T, class H>
__global__ void __launch_bounds__(kConvStepThreads)
    conv_step_kernel(const ConvStep<T, H> conv, const View<const T, 2> x, unsigned row_blocks) {
  allow_kernel_after();
  wait_for_kernel_before();
  const index_t b = blockIdx.x / row_blocks;
  const index_t d = blockIdx.x % row_blocks * kConvStepThreads + threadIdx.x;
  if (d >= x.extent(1)) return;
  const auto prepared = conv.prepare(b, d);
  conv.put(b, d, load_float(x(b, d)), prepared);
}

constexpr int kConvFoursThreads = 64;  // along the channels
constexpr int kConvFoursLanes = kConvStepThreads / kConvFoursThreads;
constexpr int kConvFoursRows = 2;  // of a thread

// The same for four neighbouring channels at a time, of width 4.
template <class T, class H>
__global__ void __launch_bounds__(kConvStepThreads)
    conv_step_fours_kernel(const ConvStep<T, H> conv, const View<const T, 2> x,
                           unsigned channel_blocks) {
  allow_kernel_after();
  const int thread = static_cast<int>(threadIdx.x);
  const index_t d = 4 * (static_cast<index_t>(blockIdx.x % channel_blocks) * kConvFoursThreads +
                         thread % kConvFoursThreads);
  const index_t first = (static_cast<index_t>(blockIdx.x / channel_blocks) * kConvFoursLanes +
                         thread / kConvFoursThreads) *
                        kConvFoursRows;
  if (d >= x.extent(1)) return;
  const auto taps = Elements<T, 16>::load(conv.weight.data() + d * 4);
  Elements<T, 4> bias = {};
  if (conv.bias.data() != nullptr) bias = Elements<T, 4>::load(conv.bias.data() + d);
  wait_for_kernel_before();
#pragma unroll
  for (int r = 0; r < kConvFoursRows; ++r) {
    const index_t b = first + r;
    if (b >= x.extent(0)) return;
    const index_t slot = conv.slots.data() == nullptr ? b : conv.slots(b);
    if (slot < 0) continue;
    H* const state = conv.state.data() + slot * conv.state.stride(0) + d;
    const index_t later = conv.state.stride(1);
    const auto first_before = Elements<H, 4>::load(state);
    const auto second_before = Elements<H, 4>::load(state + later);
    const auto third_before = Elements<H, 4>::load(state + 2 * later);
    const auto now = Elements<T, 4>::load(x.data() + b * x.stride(0) + d);
    Elements<H, 4> kept;
    Elements<T, 4> y;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      float sum = fmaf(taps[4 * c], first_before[c], bias[c]);
      sum = fmaf(taps[4 * c + 1], second_before[c], sum);
      sum = fmaf(taps[4 * c + 2], third_before[c], sum);
      y.set(c, silu_fast(fmaf(taps[4 * c + 3], now[c], sum)));
      kept.set(c, now[c]);
    }
    second_before.store(state);
    third_before.store(state + later);
    kept.store(state + 2 * later);
    y.store(conv.y.data() + b * conv.y.stride(0) + d);
  }
}

// Whether that takes them.
template <class T, class H>
bool conv_fours_take(const ConvStep<T, H>& conv, const View<const T, 2>& x) noexcept {
  const auto aligned = [](const auto* data) {
    return reinterpret_cast<std::uintptr_t>(data) % 16 == 0;
  };
  const auto rows = [](const auto& v) {
    using Element = typename std::decay_t<decltype(v)>::value_type;
    return has_groups<4>(
        View<const Element, 2>(v.data(), {v.extent(0), v.extent(1)}, {v.stride(0), v.stride(1)}));
  };
  const auto& state = conv.state;
  return conv.weight.extent(1) == 4 && conv.weight.stride(1) == 1 && conv.weight.stride(0) == 4 &&
         aligned(conv.weight.data()) && rows(x) && rows(conv.y) && aligned(conv.bias.data()) &&
         (conv.bias.data() == nullptr || conv.bias.stride(0) == 1) && aligned(state.data()) &&
         state.stride(2) == 1 && state.stride(1) % 4 == 0 && state.stride(0) % 4 == 0;
}

// (batch, features) as (batch, 1, features).
template <class T>
View<T, 3> with_one_token(const View<T, 2>& v) noexcept {
  return {v.data(), {v.extent(0), 1, v.extent(1)}, {v.stride(0), 0, v.stride(1)}};
}

// The products of a step, in one of two ways.
template <class T, class H>
class MambaStep {
 public:
  MambaStep(const Cuda& cuda, const MambaStepArgs<T, H>& args, const MambaStepScratch<T>& scratch)
      : cuda_(cuda), a_(args), s_(scratch) {
    const index_t d_inner = a_.conv1d_weight.extent(0);
    few_ = gemv_takes<T>(a_.batch(), a_.out_proj_weight.extent(0)) &&
           gemv_takes<T>(a_.batch(), d_inner);
    xz_x_ = s_.xz.slice(1, 0, d_inner);
    if (a_.gate()) z_ = s_.xz.slice(1, d_inner, d_inner);
    dt_rank_ = a_.dt_proj_weight.extent(1);
    conv_ = {a_.conv1d_weight, a_.conv1d_bias, a_.conv, a_.slots, s_.x};
  }

  Status run() const {
    Status status = few_ ? in_proj_of_few() : in_proj();
    if (status) status = multiply<T>(s_.x, a_.x_proj_weight, {}, s_.dt_BC);
    if (status && a_.dt_b_c_norm) status = normalize_dt_b_c();
    if (status) status = scan();
    if (status) status = out_proj();
    return status;
  }

 private:
  View<T, 2> dt_low() const { return s_.dt_BC.slice(1, 0, dt_rank_); }
  View<T, 2> coefficient(index_t i) const {
    const index_t d_state = a_.A.extent(1);
    return s_.dt_BC.slice(1, dt_rank_ + i * d_state, d_state);
  }

  template <class TOut>
  Status multiply(const View<const T, 2>& x, const View<const T, 2>& weight,
                  const View<const T, 1>& bias, const View<TOut, 2>& y) const {
    return linear(cuda_, LinearArgs<T, TOut>{with_one_token(x), weight, bias, with_one_token(y)});
  }

  Status in_proj_of_few() const {
    const InProjSink<T, H> sink{conv_, a_.in_proj_bias, z_};
    const index_t batch = a_.batch();
    if (!a_.residual.present()) {
      return queued(launch_gemv(cuda_, a_.in_proj_weight, batch, GemvInput<T>(a_.x), sink));
    }
    const GemvNormedInput<T> source{a_.residual, a_.norm_weight, a_.norm_eps};
    return queued(launch_gemv(cuda_, a_.in_proj_weight, batch, source, sink));
  }
  Status in_proj() const {
    View<const T, 2> u = a_.x;
    Status status;
    if (a_.residual.present()) {
      RmsNormArgs<T> norm;
      norm.residual = with_one_token(a_.residual);
      norm.weight = a_.norm_weight;
      norm.y = with_one_token(s_.normed);
      norm.eps = a_.norm_eps;
      status = rms_norm(cuda_, norm);
      u = s_.normed;
    }
    if (status) status = multiply<T>(u, a_.in_proj_weight, a_.in_proj_bias, s_.xz);
    return status ? conv_step() : status;
  }
  Status conv_step() const {
    const View<const T, 2> x = xz_x_;
    const bool fours = conv_fours_take(conv_, x);
    const index_t block_channels = fours ? 4 * kConvFoursThreads : kConvStepThreads;
    const index_t block_rows = fours ? kConvFoursLanes * kConvFoursRows : 1;
    const index_t row_blocks = (x.extent(1) + block_channels - 1) / block_channels;
    const index_t blocks = saturating_mul(row_blocks, (a_.batch() + block_rows - 1) / block_rows);
    const Status status = check_grid("mamba_step", blocks);
    if (!status) return status;
    return queued(
        launch_dependent(cuda_, fours ? conv_step_fours_kernel<T, H> : conv_step_kernel<T, H>,
                         blocks, kConvStepThreads, 0, conv_, x, static_cast<unsigned>(row_blocks)));
  }

  Status normalize_dt_b_c() const {
    Status status;
    for (const View<T, 2>& v : {dt_low(), coefficient(0), coefficient(1)}) {
      RmsNormArgs<T> norm;
      norm.x = with_one_token(v);
      norm.y = with_one_token(v);
      norm.eps = a_.dt_b_c_eps;
      if (status) status = rms_norm(cuda_, norm);
    }
    return status;
  }

  Status scan() const {
    ScanStepParams<T, H> p = scan_of(dt_low());
    p.dt_weight = a_.dt_proj_weight.data();
    p.dt_weight_stride = {a_.dt_proj_weight.stride(0), a_.dt_proj_weight.stride(1)};
    p.dt_rank = static_cast<int>(dt_rank_);
    p.dt_packs = has_packs(a_.dt_proj_weight) && has_packs(View<const T, 2>(dt_low()));
    if (!few_ && !scan_rows_takes(p)) {
      const Status status = multiply<T>(dt_low(), a_.dt_proj_weight, {}, s_.dt);
      if (!status) return status;
      p = scan_of(s_.dt);
    }
    return launch_scan_step("mamba_step", cuda_, p);
  }
  ScanStepParams<T, H> scan_of(const View<T, 2>& dt) const {
    SelectiveScanArgs<T> scan;
    scan.x = with_one_token(s_.x);
    scan.dt = with_one_token(dt);
    scan.A = a_.A;
    const auto one_group = [](const View<T, 2>& v) {
      return View<const T, 4>(v.data(), {v.extent(0), 1, 1, v.extent(1)},
                              {v.stride(0), 0, 0, v.stride(1)});
    };
    scan.B = one_group(coefficient(0));
    scan.C = one_group(coefficient(1));
    scan.D = a_.D;
    if (z_.present()) scan.z = with_one_token(z_);
    scan.dt_bias = a_.dt_proj_bias;
    scan.y = with_one_token(s_.x);
    auto p = scan_params<ScanStepParams<T, H>>(scan);
    p.h0 = p.h_last = a_.ssm.data();
    p.h0_stride = p.h_last_stride = {a_.ssm.stride(0), a_.ssm.stride(1), a_.ssm.stride(2)};
    p.group_channels = p.channels;
    p.slots = a_.slots.data();
    p.slots_stride = a_.slots.stride(0);
    return p;
  }

  Status out_proj() const {
    if (!a_.residual.present()) {
      return multiply<T>(s_.x, a_.out_proj_weight, a_.out_proj_bias, a_.y);
    }
    if (few_) {
      return queued(launch_gemv(cuda_, a_.out_proj_weight, a_.batch(),
                                GemvInput<T>(View<const T, 2>(s_.x)),
                                GemvOntoResidual<T>{a_.residual, a_.out_proj_bias}));
    }
    if (!a_.out_proj_bias.present() &&
        blas_linear_onto(cuda_, View<const T, 2>(s_.x), a_.out_proj_weight, a_.residual)) {
      return Status::ok();
    }
    const Status status = multiply<T>(s_.x, a_.out_proj_weight, a_.out_proj_bias, s_.mixed);
    if (!status) return status;
    const View<float, 3> residual = with_one_token(a_.residual);
    return residual_add(cuda_, ResidualAddArgs<T>{residual, with_one_token(s_.mixed), residual});
  }

  static Status queued(cudaError_t error) { return cuda_status("mamba_step", error); }

  const Cuda& cuda_;
  const MambaStepArgs<T, H>& a_;
  const MambaStepScratch<T>& s_;
  ConvStep<T, H> conv_;
  View<T, 2> xz_x_, z_;
  index_t dt_rank_;
  bool few_;
};

}  // namespace detail

template <class T, class H>
Status mamba_step(const Cuda& cuda, const MambaStepArgs<T, H>& a, Arena workspace) {
  Check check("mamba_step");
  check.also(check_shapes(a))
      .require(mamba_step_takes(a.b_rule, a.A.extent(1)), ErrorCode::unsupported,
               "b_rule and d_state", "must be euler and at most 256");
  const auto scratch = detail::MambaStepScratch<T>::carve(a, workspace);
  check.also(workspace.status("mamba_step"));
  if (!check.passed() || a.batch() == 0) return check.status();
  return detail::MambaStep<T, H>(cuda, a, scratch).run();
}

SSM_NAMESPACE_END
