#pragma once

#include "ssm/cuda/detail/conv_step.cuh"
#include "ssm/cuda/detail/conv_x_proj.cuh"
#include "ssm/cuda/detail/gemv.cuh"
#include "ssm/cuda/linear.cuh"
#include "ssm/cuda/mamba_step.hpp"
#include "ssm/cuda/residual_add.cuh"
#include "ssm/cuda/rms_norm.cuh"
#include "ssm/cuda/selective_scan.cuh"

SSM_NAMESPACE_BEGIN
namespace detail {

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
    conv_x_proj_ = !few_ && conv_x_proj_takes(conv_x_proj());
  }

  Status run() const {
    Status status = few_ ? in_proj_of_few() : in_proj();
    if (status) {
      status =
          conv_x_proj_ ? queue_conv_x_proj() : multiply<T>(s_.x, a_.x_proj_weight, {}, s_.dt_BC);
    }
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
    return status && !conv_x_proj_ ? conv_step() : status;
  }
  ConvXProjParams<T, H> conv_x_proj() const {
    return {conv_, xz_x_, a_.x_proj_weight, s_.dt_BC_parts};
  }
  Status queue_conv_x_proj() const {
    if constexpr (std::is_same<T, float>::value) {
      return Status::ok();
    } else {
      return launch_conv_x_proj("mamba_step", cuda_, conv_x_proj(), s_.dt_BC);
    }
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
    p.states_settled = conv_x_proj_;
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
  bool conv_x_proj_;  // the convolution and x_proj as one operation
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
