#pragma once

#include "ssm/cuda/detail/column_sum.cuh"
#include "ssm/cuda/detail/device_complex.cuh"
#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/rms_norm.cuh"
#include "ssm/cuda/rms_norm_backward.hpp"

SSM_NAMESPACE_BEGIN
namespace detail {

// The symbols of RmsNormGradArgs at one element.
template <class T, class TGrad>
struct RmsNormGradTerms {
  using Accum = accum_t<T>;
  const RmsNormGradArgs<T, TGrad>& a;
  index_t b, t;

  __device__ Accum dy(index_t i) const { return load_float(a.dy(b, t, i)); }
  __device__ Accum r(index_t i) const {
    return a.residual.data() != nullptr ? a.residual(b, t, i) : load_float(a.x(b, t, i));
  }
  __device__ Accum z(index_t i) const { return load_float(a.z(b, t, i)); }
  __device__ Accum gate(index_t i) const {
    if (a.z.data() == nullptr) return 1;
    const Accum v = z(i);
    return v / (Accum(1) + exp_of(-v));
  }
  __device__ Accum v(index_t i) const { return a.norm_before_gate ? r(i) : r(i) * gate(i); }
  __device__ Accum scaled_dy(index_t i) const {
    return a.weight.data() != nullptr ? dy(i) * load_float(a.weight(i)) : dy(i);
  }
  __device__ Accum q(index_t i) const {
    return a.norm_before_gate ? scaled_dy(i) * gate(i) : scaled_dy(i);
  }
};

// A token's term of dweight(i), given 1 / R of each token.
template <class T, class TGrad>
struct RmsNormWeightTerm {
  RmsNormGradArgs<T, TGrad> a;
  const accum_t<T>* inverse_roots;
  __device__ accum_t<T> operator()(index_t b, index_t t, index_t i) const {
    const RmsNormGradTerms<T, TGrad> at{a, b, t};
    const accum_t<T> n = at.v(i) * inverse_roots[b * a.dy.extent(1) + t];
    return at.dy(i) * n * (a.norm_before_gate ? at.gate(i) : accum_t<T>(1));
  }
};

// One warp per token up to 1024 features, else one block: `kWidth` threads.
template <class T, class TGrad, int kWidth>
__global__ void __launch_bounds__(256)
    rms_norm_backward_kernel(const RmsNormGradArgs<T, TGrad> a, accum_t<T>* inverse_roots) {
  using Accum = accum_t<T>;
  __shared__ Accum warps[2][8];
  const index_t length = a.dy.extent(1);
  const index_t features = a.dy.extent(2);
  const int first = static_cast<int>(threadIdx.x) % kWidth;
  const index_t token = static_cast<index_t>(blockIdx.x) * (256 / kWidth) + threadIdx.x / kWidth;
  if (token >= a.dy.extent(0) * length) return;  // whole warps, and never part of a block of one
  const RmsNormGradTerms<T, TGrad> at{a, token / length, token % length};
  Accum square = 0;
  Accum projection = 0;
  for (index_t i = first; i < features; i += kWidth) {
    const Accum v = at.v(i);
    square += v * v;
    projection += at.q(i) * v;
  }
  for (int m = 16; m >= 1; m /= 2) {
    square += __shfl_xor_sync(0xffffffffu, square, m);
    projection += __shfl_xor_sync(0xffffffffu, projection, m);
  }
  if constexpr (kWidth > 32) {
    if (threadIdx.x % 32 == 0) {
      warps[0][threadIdx.x / 32] = square;
      warps[1][threadIdx.x / 32] = projection;
    }
    __syncthreads();
    square = projection = 0;
    for (int w = 0; w < kWidth / 32; ++w) {
      square += warps[0][w];
      projection += warps[1][w];
    }
  }
  const Accum count = static_cast<Accum>(features);
  const Accum inverse = Accum(1) / sqrt(square / count + a.eps);
  const Accum mean = projection * inverse / count;
  if (inverse_roots != nullptr && first == 0) inverse_roots[token] = inverse;
  if (a.inputs == GradMode::ignore) return;
  const bool accumulate = a.inputs == GradMode::accumulate;
  for (index_t i = first; i < features; i += kWidth) {
    const Accum n = at.v(i) * inverse;
    const Accum dv = (at.q(i) - n * mean) * inverse;
    Accum dr = a.norm_before_gate ? dv : dv * at.gate(i);
    if (a.dz.data() != nullptr && a.z.data() != nullptr) {
      const Accum dgate = a.norm_before_gate ? at.scaled_dy(i) * n : dv * at.r(i);
      const Accum z = at.z(i);
      const Accum sigma = Accum(1) / (Accum(1) + exp_of(-z));
      const Accum dz = dgate * (sigma * (Accum(1) + z * (Accum(1) - sigma)));
      TGrad& to = a.dz(at.b, at.t, i);
      to = store_as<TGrad>(accumulate ? load_float(to) + dz : dz);
    }
    if (a.dr_later.data() != nullptr) dr += a.dr_later(at.b, at.t, i);
    if (a.dresidual.data() != nullptr) {
      Accum& to = a.dresidual(at.b, at.t, i);
      to = accumulate ? to + dr : dr;
    }
    if (a.dx.data() != nullptr) {
      TGrad& to = a.dx(at.b, at.t, i);
      to = store_as<TGrad>(accumulate ? load_float(to) + dr : dr);
    }
  }
}

// Segments of tokens, each a block of the kernel for octets.
inline index_t rms_norm_segments(index_t tokens) noexcept {
  const index_t segments = (tokens + 31) / 32;
  return segments < 1 ? 1 : (segments > 256 ? 256 : segments);
}

// Without a gate, where rows have octets: kWidth threads per token, which hold it in registers, and
// everything in one pass. shares[segment, feature], unless null, becomes the segment's dweight.
template <class T, class TGrad, int kWidth>
__global__ void __launch_bounds__(kRmsNormThreads, 2)
    rms_norm_backward_octet_kernel(const RmsNormGradArgs<T, TGrad> a, float* shares) {
  constexpr int kTogether = kRmsNormThreads / kWidth;  // tokens
  const index_t length = a.dy.extent(1);
  const index_t tokens = a.dy.extent(0) * length;
  const index_t features = a.dy.extent(2);
  const int octets = static_cast<int>(features / kOctet);
  const int first = static_cast<int>(threadIdx.x) % kWidth;
  const int group = static_cast<int>(threadIdx.x) / kWidth;
  const index_t size = (tokens + gridDim.x - 1) / gridDim.x;
  const index_t begin = blockIdx.x * size;
  const index_t end = begin + size < tokens ? begin + size : tokens;
  const bool inputs = a.inputs != GradMode::ignore;
  const bool accumulate = a.inputs == GradMode::accumulate;
  float dweight[kRmsNormOctets][kOctet] = {};
  for (index_t token = begin + group; token - group < end; token += kTogether) {
    const int count = token < end ? octets : 0;  // every thread comes to token_sums
    const index_t b = token < end ? token / length : 0;
    const index_t t = token < end ? token % length : 0;
    float r[kRmsNormOctets][kOctet] = {}, q[kRmsNormOctets][kOctet] = {};  // q: dy, then dy weight
    float sums[2] = {};
#pragma unroll
    for (int o = 0; o < kRmsNormOctets; ++o) {
      const int at = (first + o * kWidth) * kOctet;
      if (first + o * kWidth >= count) continue;
      const auto dy = Octet<TGrad>::load(&a.dy(b, t, at));
#pragma unroll
      for (int i = 0; i < kOctet; ++i) q[o][i] = dy[i];
      if (a.residual.data() != nullptr) {
        const auto v = Octet<float>::load(&a.residual(b, t, at));
#pragma unroll
        for (int i = 0; i < kOctet; ++i) r[o][i] = v[i];
      } else {
        const auto v = Octet<T>::load(&a.x(b, t, at));
#pragma unroll
        for (int i = 0; i < kOctet; ++i) r[o][i] = v[i];
      }
    }
#pragma unroll
    for (int o = 0; o < kRmsNormOctets; ++o) {
      const int at = (first + o * kWidth) * kOctet;
      if (first + o * kWidth >= count) continue;
      float weight[kOctet];
#pragma unroll
      for (int i = 0; i < kOctet; ++i) weight[i] = 1;
      if (a.weight.data() != nullptr) {
        const auto v = Octet<T>::load(&a.weight(at));
#pragma unroll
        for (int i = 0; i < kOctet; ++i) weight[i] = v[i];
      }
#pragma unroll
      for (int i = 0; i < kOctet; ++i) {
        sums[0] += r[o][i] * r[o][i];
        sums[1] += q[o][i] * weight[i] * r[o][i];
      }
    }
    token_sums<kWidth, kRmsNormThreads>(sums);
    const float inverse = 1.0f / sqrtf(sums[0] / static_cast<float>(features) + a.eps);
    const float mean = sums[1] * inverse / static_cast<float>(features);
#pragma unroll
    for (int o = 0; o < kRmsNormOctets; ++o) {
      const int at = (first + o * kWidth) * kOctet;
      if (first + o * kWidth >= count) continue;
#pragma unroll
      for (int i = 0; i < kOctet; ++i) {
        r[o][i] *= inverse;  // n
        dweight[o][i] += q[o][i] * r[o][i];
      }
      if (!inputs) continue;
      if (a.weight.data() != nullptr) {
        const auto v = Octet<T>::load(&a.weight(at));
#pragma unroll
        for (int i = 0; i < kOctet; ++i) q[o][i] *= v[i];
      }
#pragma unroll
      for (int i = 0; i < kOctet; ++i) q[o][i] = (q[o][i] - r[o][i] * mean) * inverse;  // dr
      if (a.dr_later.data() != nullptr) {
        const auto v = Octet<float>::load(&a.dr_later(b, t, at));
#pragma unroll
        for (int i = 0; i < kOctet; ++i) q[o][i] += v[i];
      }
      const auto leave = [&](auto* to) {
        using To = std::remove_pointer_t<decltype(to)>;
        Octet<To> v = {};
        if (accumulate) v = Octet<To>::load(to);
#pragma unroll
        for (int i = 0; i < kOctet; ++i) v.set(i, accumulate ? v[i] + q[o][i] : q[o][i]);
        v.store(to);
      };
      if (a.dresidual.data() != nullptr) leave(&a.dresidual(b, t, at));
      if (a.dx.data() != nullptr) leave(&a.dx(b, t, at));
    }
  }
  if (shares == nullptr) return;
  // The groups of threads add theirs one after another.
  __shared__ float sums[kWidth * kRmsNormOctets * kOctet];
  for (int g = 0; g < kTogether; ++g) {
    if (g == group) {
#pragma unroll
      for (int o = 0; o < kRmsNormOctets; ++o) {
#pragma unroll
        for (int i = 0; i < kOctet; ++i) {
          float& sum = sums[(o * kOctet + i) * kWidth + first];
          sum = g == 0 ? dweight[o][i] : sum + dweight[o][i];
        }
      }
    }
    __syncthreads();
  }
  for (index_t f = threadIdx.x; f < features; f += kRmsNormThreads) {
    const int octet = static_cast<int>(f) / kOctet;
    const int row = octet / kWidth * kOctet + static_cast<int>(f) % kOctet;
    shares[blockIdx.x * features + f] = sums[row * kWidth + octet % kWidth];
  }
}

// Whether rms_norm_backward_octet_kernel computes these arguments.
template <class T, class TGrad>
bool rms_norm_backward_in_octets(const RmsNormGradArgs<T, TGrad>& a) noexcept {
  return !std::is_same<T, double>::value && rms_norm_width(a.dy.extent(2)) > 0 && !a.z.present() &&
         has_octets(a.x) && has_octets(a.residual) && has_octets(a.weight) && has_octets(a.dy) &&
         has_octets(a.dr_later) && has_octets(a.dx) && has_octets(a.dresidual);
}

template <class T, class TGrad>
struct RmsNormScratch {
  accum_t<T>* inverse_roots = nullptr;
  accum_t<T>* shares = nullptr;
  static RmsNormScratch carve(const RmsNormGradArgs<T, TGrad>& a, Arena& arena) noexcept {
    RmsNormScratch s;
    if (!wanted(a.dweight, a.parameters)) return s;
    const index_t tokens = saturating_mul(a.dy.extent(0), a.dy.extent(1));
    if (rms_norm_backward_in_octets(a)) {
      s.shares =
          arena.allocate<accum_t<T>>(saturating_mul(rms_norm_segments(tokens), a.dy.extent(2)));
    } else {
      s.inverse_roots = arena.allocate<accum_t<T>>(tokens);
      s.shares = carve_column_shares<accum_t<T>>(tokens, a.dy.extent(2), arena);
    }
    return s;
  }
};

template <class T, class TGrad>
Status run_rms_norm_backward_octets(const Cuda& cuda, const char* op,
                                    const RmsNormGradArgs<T, TGrad>& a, accum_t<T>* shares,
                                    const StoreColumn<accum_t<T>>& store) {
  const index_t segments = rms_norm_segments(a.dy.extent(0) * a.dy.extent(1));
  if constexpr (!std::is_same<T, double>::value) {
    if (shares != nullptr || a.inputs != GradMode::ignore) {
      visit_rms_norm_width(rms_norm_width(a.dy.extent(2)), [&](auto width) {
        rms_norm_backward_octet_kernel<T, TGrad, decltype(width)::value>
            <<<static_cast<unsigned>(segments), kRmsNormThreads, 0, cuda.stream>>>(a, shares);
      });
    }
  }
  if (shares != nullptr) queue_column_total(cuda, store, a.dy.extent(2), segments, shares);
  return cuda_status(op, cudaGetLastError());
}

}  // namespace detail

template <class T, class TGrad>
std::size_t scratch_bytes(const Cuda&, const RmsNormGradArgs<T, TGrad>& a) noexcept {
  Arena counter;
  detail::RmsNormScratch<T, TGrad>::carve(a, counter);
  return counter.bytes_needed();
}

template <class T, class TGrad>
Status rms_norm_backward(const Cuda& cuda, const RmsNormGradArgs<T, TGrad>& a, Arena scratch) {
  const char* const op = "rms_norm_backward";
  Status status = check_shapes(a);
  if (!status) return status;
  const auto carved = detail::RmsNormScratch<T, TGrad>::carve(a, scratch);
  const index_t tokens = saturating_mul(a.dy.extent(0), a.dy.extent(1));
  const index_t features = a.dy.extent(2);
  const bool narrow = features <= 1024;
  const index_t blocks = narrow ? (tokens + 7) / 8 : tokens;
  status = scratch.status(op);
  if (status) status = detail::check_grid(op, blocks);
  if (!status) return status;
  const bool weights = wanted(a.dweight, a.parameters);
  const detail::StoreColumn<accum_t<T>> store{a.dweight.data(), a.dweight.stride(0),
                                              a.parameters == GradMode::accumulate};
  if (detail::rms_norm_backward_in_octets(a)) {
    return detail::run_rms_norm_backward_octets(cuda, op, a, carved.shares, store);
  }
  const auto inputs = [&](GradMode mode, accum_t<T>* inverse_roots) {
    RmsNormGradArgs<T, TGrad> part = a;
    part.inputs = mode;
    const auto grid = static_cast<unsigned>(blocks);
    if (grid == 0) return;
    if (narrow) {
      detail::rms_norm_backward_kernel<T, TGrad, 32>
          <<<grid, 256, 0, cuda.stream>>>(part, inverse_roots);
    } else {
      detail::rms_norm_backward_kernel<T, TGrad, 256>
          <<<grid, 256, 0, cuda.stream>>>(part, inverse_roots);
    }
  };
  // dweight reads dy, which dx may replace: then the roots are computed on their own first.
  const bool replaces =
      weights && a.inputs != GradMode::ignore && a.dx.present() &&
      static_cast<const void*>(a.dx.data()) == static_cast<const void*>(a.dy.data());
  if (weights || a.inputs != GradMode::ignore) {
    inputs(replaces ? GradMode::ignore : a.inputs, carved.inverse_roots);
  }
  if (weights) {
    status = detail::queue_column_sum(
        cuda, op, detail::RmsNormWeightTerm<T, TGrad>{a, carved.inverse_roots}, store,
        a.dy.extent(0), a.dy.extent(1), features, carved.shares);
    if (status && replaces) inputs(a.inputs, nullptr);
  }
  if (status) status = detail::cuda_status(op, cudaGetLastError());
  return status;
}

SSM_NAMESPACE_END
