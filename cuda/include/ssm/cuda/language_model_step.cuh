#pragma once

#include "ssm/cuda/detail/language_model_step_kernel.cuh"
#include "ssm/cuda/language_model_step.hpp"

SSM_NAMESPACE_BEGIN
namespace detail {

// The grid, the shapes of the stream and the shared memory for a model, if it can be taken.
template <class T>
struct LanguageModelStepPlan {
  using Params = LanguageModelStepParams<T>;
  bool taken = false;
  int blocks = 0;
  int threads = 0;  // that multiply
  Params params = {};

  LanguageModelStepPlan(const LanguageModelStepArgs<T>& a) noexcept {
    const index_t batch = a.ids.extent(0);
    if (batch < 1 || batch > kStepMaxTokens || a.n_layer < 1 || a.layer == nullptr) return;
    const MambaStepArgs<T> first = a.layer(a.layers, 0);
    const index_t d_model = first.out_proj_weight.extent(0);
    const index_t d_inner = first.conv1d_weight.extent(0);
    const index_t d_state = first.A.extent(1);
    const index_t older = first.conv1d_weight.extent(1) - 1;
    const index_t dt_rank = first.dt_proj_weight.extent(1);
    constexpr index_t kMost = index_t{1} << 20;
    if (d_model < 1 || d_model > kMost || d_inner < 1 || d_inner > kMost || dt_rank < 1 ||
        dt_rank > kMost || a.embedding.extent(0) > (index_t{1} << 30) || d_state < 2 ||
        d_state % 2 != 0 || d_state > kStepMaxStates || older < 0 || older > kStepMaxOlder ||
        first.b_rule != BRule::euler || a.n_layer >= 0xffff ||
        !compiled_for(language_model_step_kernel<T, 1>, 80) || driver_version() < kStepDriver ||
        device_attribute(cudaDevAttrCooperativeLaunch) == 0) {
      return;
    }
    for (index_t i = 0; i < a.n_layer; ++i) {
      if (!takes_layer(first, a.layer(a.layers, i))) return;
    }
    if (!has_packs(a.embedding) || !has_packs(a.head) || !aligned_vector(a.norm_weight) ||
        !same_rows(a.head)) {
      return;
    }
    Params& p = params;
    p.batch = static_cast<int>(batch);
    p.d_model = static_cast<int>(d_model);
    p.d_inner = static_cast<int>(d_inner);
    p.d_state = static_cast<int>(d_state);
    p.dt_rank = static_cast<int>(dt_rank);
    p.older = static_cast<int>(older);
    while ((kStepStates << p.state_lanes_log2) < p.d_state) ++p.state_lanes_log2;
    p.gate = first.gate();
    p.dt_b_c_norm = first.dt_b_c_norm;
    p.dt_b_c_eps = first.dt_b_c_eps;
    p.inverse_d_model = 1.0f / static_cast<float>(p.d_model);
    p.norm_eps = first.norm_eps;
    p.norm_f_eps = a.norm_eps;
    p.conv_stride = {first.conv.stride(0), first.conv.stride(1)};
    p.conv1d_stride = first.conv1d_weight.stride(0);
    p.A_stride = first.A.stride(1);
    p.ssm_stride = {first.ssm.stride(0), first.ssm.stride(2)};
    p.ids = a.ids.data();
    p.ids_stride = a.ids.stride(0);
    p.slots = first.slots.data();
    p.slots_stride = first.slots.stride(0);
    p.embedding = a.embedding.data();
    p.embedding_stride = a.embedding.stride(0);
    p.norm_f_weight = a.norm_weight.data();
    p.head = a.head.data();
    p.vocabulary = static_cast<int>(a.head.extent(0));
    p.logits = a.logits.data();
    p.logits_stride = {a.logits.stride(0), a.logits.stride(1)};
    const int most = device_attribute(cudaDevAttrMultiProcessorCount);
    blocks = std::min(most, std::min(p.d_inner, p.d_model));
    const int capacity = device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
    for (int warps = step_warps(step_tokens(p.batch)); warps >= 2 && !taken; --warps) {
      taken = plan(a, first, warps, capacity);
    }
  }

 private:
  static bool same_rows(const View<const T, 2>& weight) noexcept {
    return weight.stride(0) * static_cast<index_t>(sizeof(T)) < (index_t{1} << 31) &&
           weight.extent(0) < (index_t{1} << 30);
  }
  template <class V>
  static bool aligned_vector(const V& v) noexcept {
    return reinterpret_cast<std::uintptr_t>(v.data()) % 16 == 0 && v.stride(0) == 1;
  }
  template <class V>
  static bool unit_stride(const V& v) noexcept {
    return !v.present() || v.stride(0) == 1;
  }
  template <class U, int Rank>
  static bool same(const View<U, Rank>& a, const View<U, Rank>& b) noexcept {
    bool equal = a.present() == b.present();
    for (int i = 0; i < Rank; ++i) {
      equal = equal && a.extent(i) == b.extent(i) && a.stride(i) == b.stride(i);
    }
    return equal;
  }

  static bool takes_layer(const MambaStepArgs<T>& f, const MambaStepArgs<T>& l) noexcept {
    for (const auto member :
         {&MambaStepArgs<T>::in_proj_weight, &MambaStepArgs<T>::x_proj_weight,
          &MambaStepArgs<T>::dt_proj_weight, &MambaStepArgs<T>::out_proj_weight}) {
      if (!has_packs(l.*member) || !same_rows(l.*member) || !same(l.*member, f.*member)) {
        return false;
      }
    }
    return aligned_vector(l.norm_weight) && unit_stride(l.in_proj_bias) &&
           unit_stride(l.conv1d_bias) && unit_stride(l.out_proj_bias) &&
           unit_stride(l.dt_proj_bias) && unit_stride(l.D) && l.conv1d_weight.stride(1) == 1 &&
           l.A.stride(0) == 1 && l.conv.stride(2) == 1 && l.ssm.stride(1) == 1 &&
           same(l.conv1d_weight, f.conv1d_weight) && same(l.A, f.A) && same(l.conv, f.conv) &&
           same(l.ssm, f.ssm) && same(l.slots, f.slots) && l.slots.data() == f.slots.data() &&
           l.dt_b_c_norm == f.dt_b_c_norm && l.dt_b_c_eps == f.dt_b_c_eps &&
           l.norm_eps == f.norm_eps && l.b_rule == f.b_rule;
  }

  bool plan(const LanguageModelStepArgs<T>& a, const MambaStepArgs<T>& first, int warps,
            int capacity) noexcept {
    Params& p = params;
    const int tokens = step_tokens(p.batch);
    const auto most_rows = [&](int rows) { return (rows + blocks - 1) / blocks; };
    const int channels = most_rows(p.d_inner);
    const int sums = most_rows(p.dt_rank + 2 * p.d_state);
    const int outputs = most_rows(p.d_model);
    threads = 32 * warps;
    if ((channels * p.batch) << p.state_lanes_log2 > threads * tokens ||
        std::max(channels, std::max(sums, outputs)) * p.batch > threads) {
      return false;
    }
    const auto fours = [](int rows) { return (rows + kStreamRows - 1) / kStreamRows; };
    const auto shape = [&](int part, const View<const T, 2>& weight, int count) {
      constexpr int kCount = Pack<T>::kCount;
      const auto bytes = static_cast<std::size_t>(weight.stride(0)) * sizeof(T);
      p.shapes[part] =
          plan_stream(count, static_cast<int>(weight.extent(1)) / kCount, bytes, warps);
      return p.shapes[part].fours_a_group > 0;
    };
    if (!shape(kStepZ, first.in_proj_weight, fours(channels))) return false;
    p.z_apart = p.gate && p.shapes[kStepZ].copies() >= kStepCopiesOfZ;
    p.nap = step_nap(tokens, p.z_apart);
    const bool z_within = p.gate && !p.z_apart;
    if (!shape(kStepIn, first.in_proj_weight, fours(channels) * (z_within ? 2 : 1)) ||
        !shape(kStepX, first.x_proj_weight, fours(sums)) ||
        !shape(kStepDt, first.dt_proj_weight, fours(channels)) ||
        !shape(kStepOut, first.out_proj_weight, fours(outputs)) ||
        !shape(kStepHead, a.head, fours(most_rows(p.vocabulary)))) {
      return false;
    }
    p.shared = StepShared<T>(p.shapes, static_cast<int>(a.n_layer), p.d_model, p.d_inner,
                             p.dt_rank + 2 * p.d_state, warps, tokens, capacity);
    return p.shared.depth >= kStepMinDepth;
  }
};

template <class T, int kTokens>
cudaError_t launch_language_model_step(const Cuda& cuda, const LanguageModelStepPlan<T>& plan,
                                       const LanguageModelStepParams<T>& params) {
  const auto kernel = language_model_step_kernel<T, kTokens>;
  const cudaError_t error = cudaFuncSetAttribute(
      kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, params.shared.bytes);
  if (error != cudaSuccess) return error;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(plan.blocks));
  config.blockDim = dim3(static_cast<unsigned>(plan.threads + 32 * step_copy_warps(kTokens)));
  config.dynamicSmemBytes = static_cast<std::size_t>(params.shared.bytes);
  config.stream = cuda.stream;
  cudaLaunchAttribute together = {};
  together.id = cudaLaunchAttributeCooperative;
  together.val.cooperative = 1;
  config.attrs = &together;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, kernel, params);
}

}  // namespace detail

template <class T>
bool language_model_step_takes(const Cuda&, const LanguageModelStepArgs<T>& a) {
  return detail::LanguageModelStepPlan<T>(a).taken;
}

template <class T>
Status language_model_step(const Cuda& cuda, const LanguageModelStepArgs<T>& a, Arena workspace) {
  const char* const op = "language_model_step";
  Check check(op);
  check.also(check_shapes(a));
  if (!check.passed()) return check.status();
  const detail::LanguageModelStepPlan<T> plan(a);
  check.require(plan.taken, ErrorCode::unsupported, "args", "are none that this kernel takes");
  if (!check.passed()) return check.status();
  detail::LanguageModelStepParams<T> p = plan.params;
  const auto scratch = detail::LanguageModelStepScratch<T>::carve(
      p.batch, p.d_model, p.d_inner, p.dt_rank + 2 * p.d_state, workspace);
  check.also(workspace.status(op));
  if (!check.passed()) return check.status();
  p.residual.data = scratch.residual.data();
  p.x.data = scratch.x.data();
  p.y.data = scratch.y.data();
  p.dt_BC.data = scratch.dt_BC.data();

  // No tag of an earlier step may be left.
  auto* const begin = reinterpret_cast<unsigned char*>(scratch.residual.data());
  auto* const end = reinterpret_cast<unsigned char*>(scratch.dt_BC.data() + scratch.dt_BC.size());
  cudaError_t error = cudaMemsetAsync(begin, 0, static_cast<std::size_t>(end - begin), cuda.stream);
  const int layers = static_cast<int>(a.n_layer);
  for (int i = 0; i < layers && error == cudaSuccess; i += detail::kStepMaxLayers) {
    p.first_layer = i;
    p.layer_count = std::min(layers - i, detail::kStepMaxLayers);
    p.ends_in_head = a.logits.present() && i + p.layer_count == layers;
    for (int j = 0; j < p.layer_count; ++j) {
      p.layers[j] = detail::LanguageModelStepLayer<T>(a.layer(a.layers, i + j));
    }
    switch (detail::step_tokens(p.batch)) {
      case 1:
        error = detail::launch_language_model_step<T, 1>(cuda, plan, p);
        break;
      case 2:
        error = detail::launch_language_model_step<T, 2>(cuda, plan, p);
        break;
      default:
        error = detail::launch_language_model_step<T, detail::kStepMaxTokens>(cuda, plan, p);
    }
  }
  return detail::cuda_status(op, error);
}

SSM_NAMESPACE_END
