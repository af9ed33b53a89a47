#pragma once

#include "ssm/core/random.hpp"
#include "ssm/cuda/detail/device_math.cuh"
#include "ssm/cuda/detail/launch.cuh"
#include "ssm/cuda/sample.hpp"

SSM_NAMESPACE_BEGIN
namespace detail {

constexpr int kSampleThreads = 1024;
constexpr int kSampleBins = 256;

using SampleMass = unsigned long long;

// An unsigned integer that is larger the larger the number, -0 below 0 and NaN aside.
__device__ __forceinline__ unsigned sample_key(float v) {
  const unsigned bits = __float_as_uint(v);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// One row of logits as candidates, ordered by falling logit and, on a tie, by rising token.
struct SampleRow {
  const float* logits;
  index_t stride;
  const unsigned char* seen;
  index_t seen_stride;
  int count;
  float penalty, inverse_temperature, largest;

  __device__ float logit(int i) const {
    const float v = logits[i * stride];
    if (seen == nullptr || seen[i * seen_stride] == 0) return v;
    return v > 0.0f ? v / penalty : v * penalty;
  }
  // exp((logit - largest) / temperature) in 2^-40.
  __device__ SampleMass mass(float v) const {
    return static_cast<SampleMass>(expf((v - largest) * inverse_temperature) * 0x1p40f);
  }
};

// The last candidate of those that count: key and token.
struct SampleBound {
  unsigned key;
  int token;
  __device__ bool takes(unsigned other, int i) const {
    return other > key || (other == key && i <= token);
  }
};

// Sums over a block; the result in every thread.
template <class V, class Combine>
__device__ V sample_reduce(V v, Combine combine) {
  __shared__ V parts[kSampleThreads];
  const int thread = static_cast<int>(threadIdx.x);
  __syncthreads();
  parts[thread] = v;
  for (int half = kSampleThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (thread < half) parts[thread] = combine(parts[thread], parts[thread + half]);
  }
  __syncthreads();
  return parts[0];
}

// The candidate at which the running sum of weights, over those within `within`, first reaches
// `target` (at least 1, at most their sum): digit by digit of its key, then among its equals.
template <class Weight>
__device__ SampleBound sample_find(const SampleRow& row, const SampleBound& within,
                                   SampleMass target, Weight weight) {
  __shared__ SampleMass bins[kSampleBins];
  __shared__ unsigned chosen;
  __shared__ SampleMass left;
  const int thread = static_cast<int>(threadIdx.x);
  unsigned prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    if (thread < kSampleBins) bins[thread] = 0;
    __syncthreads();
    const unsigned above = shift == 24 ? 0u : ~0u << (shift + 8);
    for (int i = thread; i < row.count; i += kSampleThreads) {
      const float v = row.logit(i);
      const unsigned key = sample_key(v);
      if ((key & above) == prefix && within.takes(key, i)) {
        atomicAdd(&bins[key >> shift & 0xffu], weight(v));
      }
    }
    __syncthreads();
    if (thread == 0) {
      int bin = kSampleBins - 1;
      while (bin > 0 && bins[bin] < target) target -= bins[bin--];
      chosen = static_cast<unsigned>(bin);
      left = target;
    }
    __syncthreads();
    prefix |= chosen << shift;
    target = left;
  }
  // All with this key weigh the same; each thread looks at a stretch of tokens.
  const int stretch = (row.count + kSampleThreads - 1) / kSampleThreads;
  const int begin = thread * stretch;
  const int end = begin + stretch < row.count ? begin + stretch : row.count;
  __shared__ SampleMass before[kSampleThreads];
  SampleMass own = 0;
  for (int i = begin; i < end; ++i) {
    const float v = row.logit(i);
    if (sample_key(v) == prefix && within.takes(prefix, i)) own += weight(v);
  }
  before[thread] = own;
  __syncthreads();
  __shared__ int found;
  if (thread == 0) {
    found = row.count - 1;
    SampleMass sum = 0;
    for (int k = 0; k < kSampleThreads; ++k) {
      const SampleMass part = before[k];
      before[k] = sum;
      sum += part;
    }
  }
  __syncthreads();
  SampleMass sum = before[thread];
  if (sum < target && sum + own >= target) {
    for (int i = begin; i < end; ++i) {
      const float v = row.logit(i);
      if (sample_key(v) != prefix || !within.takes(prefix, i)) continue;
      sum += weight(v);
      if (sum >= target) {
        found = i;
        break;
      }
    }
  }
  __syncthreads();
  return {prefix, found};
}

__device__ inline SampleMass sample_total(const SampleRow& row, const SampleBound& within) {
  SampleMass sum = 0;
  for (int i = static_cast<int>(threadIdx.x); i < row.count; i += kSampleThreads) {
    const float v = row.logit(i);
    if (within.takes(sample_key(v), i)) sum += row.mass(v);
  }
  return sample_reduce(sum, [](SampleMass a, SampleMass b) { return a + b; });
}

// The largest share of `total` that is a whole number and at least 1.
__device__ inline SampleMass sample_share(double share, SampleMass total) {
  const auto mass = static_cast<SampleMass>(ceil(share * static_cast<double>(total)));
  return mass < 1 ? 1 : mass > total ? total : mass;
}

template <class R>
__device__ int sample_draw(const SampleArgs<R>& a, const SampleRow& row, index_t b) {
  SampleBound kept{0, row.count - 1};
  if (a.config.top_k > 0 && a.config.top_k < row.count) {
    kept = sample_find(row, kept, static_cast<SampleMass>(a.config.top_k),
                       [](float) { return SampleMass{1}; });
  }
  const auto mass = [&](float v) { return row.mass(v); };
  SampleMass total = sample_total(row, kept);
  if (a.config.top_p < 1) {
    kept = sample_find(row, kept, sample_share(a.config.top_p, total), mass);
    total = sample_total(row, kept);
  }
  // Every thread draws the same number; one of them leaves the generator moved on.
  Random random(a.random(b));
  const auto target = static_cast<SampleMass>(random.uniform() * static_cast<double>(total)) + 1;
  __syncthreads();
  if (threadIdx.x == 0) a.random(b) = random.state();
  return sample_find(row, kept, target < total ? target : total, mass).token;
}

template <class R>
__global__ void __launch_bounds__(kSampleThreads) sample_kernel(const SampleArgs<R> a) {
  const index_t b = blockIdx.x;
  SampleRow row = {};
  row.logits = &a.logits(b, 0);
  row.stride = a.logits.stride(1);
  if (a.config.repetition_penalty != 1) row.seen = &a.seen(b, 0);
  row.seen_stride = a.seen.stride(1);
  row.count = static_cast<int>(a.logits.extent(1));
  row.penalty = static_cast<float>(a.config.repetition_penalty);
  row.inverse_temperature = static_cast<float>(1 / a.config.temperature);

  // The first of all candidates; a NaN is one before any other.
  struct Best {
    unsigned key;
    int token;
  };
  Best best{0, 0x7fffffff};
  const auto first = [](const Best& x, const Best& y) {
    return x.key > y.key || (x.key == y.key && x.token < y.token) ? x : y;
  };
  for (int i = static_cast<int>(threadIdx.x); i < row.count; i += kSampleThreads) {
    const float v = row.logit(i);
    best = first(best, v != v ? Best{0xffffffffu, -1} : Best{sample_key(v), i});
  }
  best = sample_reduce(best, first);
  int token = best.token;
  if (token >= 0) row.largest = row.logit(token);
  if (token >= 0 && a.config.temperature != 0 && !isinf(row.largest)) {
    token = sample_draw(a, row, b);
  }
  if (threadIdx.x != 0) return;
  a.token(b) = token;
  if (token >= 0 && a.seen.data() != nullptr) a.seen(b, token) = 1;
}

}  // namespace detail

template <class R>
Status sample(const Cuda& cuda, const SampleArgs<R>& a) {
  static_assert(std::is_same<R, float>::value, "logits are float");
  const Status status = check_shapes(a);
  const index_t batch = a.logits.extent(0);
  if (!status || batch == 0) return status;
  const Status grid = detail::check_grid("sample", batch);
  if (!grid) return grid;
  detail::sample_kernel<R>
      <<<static_cast<unsigned>(batch), detail::kSampleThreads, 0, cuda.stream>>>(a);
  return detail::cuda_status("sample", cudaGetLastError());
}

SSM_NAMESPACE_END
