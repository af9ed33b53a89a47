#pragma once

#include "ssm/cuda/detail/device_complex.cuh"
#include "ssm/cuda/detail/launch.cuh"
#include "ssm/ops/selective_scan_backward.hpp"

// The sums of the scan's gradient that run across blocks: each block leaves its share in scratch,
// and the kernels here add the shares in an order fixed by the shape. No atomics, so that the same
// call gives the same bits.

SSM_NAMESPACE_BEGIN
namespace detail {

// The shares, in device memory. A slice is a run of channels of one group that one block walks; a
// row is a sequence, or a chunk of one. Null: not wanted.
template <class S>
struct ScanGradShares {
  using Z = device_scalar_t<S>;
  using R = real_t<S>;
  Z* dB = nullptr;  // (slices in a group, batch, length, groups, d_state): B varies
  Z* dC = nullptr;
  Z* dB_constant = nullptr;  // (rows, channels, d_state): B is constant
  Z* dC_constant = nullptr;
  Z* dA = nullptr;     // (rows, channels, d_state)
  R* dD = nullptr;     // (rows, channels)
  R* dbias = nullptr;  // (rows, channels)
};

template <class T, class S>
ScanGradShares<S> carve_scan_shares(const SelectiveScanGradArgs<T, S>& a, index_t B_slices,
                                    index_t C_slices, index_t rows, Arena& arena) noexcept {
  using Z = device_scalar_t<S>;
  const SelectiveScanArgs<T, S>& f = a.forward;
  const index_t tokens = saturating_mul(f.x.extent(0), f.x.extent(1));
  const index_t d_state = f.A.extent(1);
  const index_t per_channel = saturating_mul(rows, f.x.extent(2));
  const index_t per_state = saturating_mul(per_channel, d_state);
  ScanGradShares<S> shares;
  const auto coefficient = [&](const View<S, 4>& gradient, index_t slices, index_t groups,
                               Z** varying, Z** constant) {
    if (!wanted(gradient, coefficient_mode(a, gradient))) return;
    if (is_constant_over_sequence(gradient)) {
      *constant = arena.allocate<Z>(per_state);
    } else {
      *varying = arena.allocate<Z>(
          saturating_mul(saturating_mul(saturating_mul(slices, tokens), groups), d_state));
    }
  };
  coefficient(a.dB, B_slices, f.B.extent(2), &shares.dB, &shares.dB_constant);
  coefficient(a.dC, C_slices, f.C.extent(2), &shares.dC, &shares.dC_constant);
  if (wanted(a.dA, a.parameters) || wanted(a.dA_log, a.parameters)) {
    shares.dA = arena.allocate<Z>(per_state);
  }
  using R = real_t<S>;
  if (wanted(a.dD, a.parameters)) shares.dD = arena.allocate<R>(per_channel);
  if (wanted(a.ddt_bias, a.parameters)) shares.dbias = arena.allocate<R>(per_channel);
  return shares;
}

template <class Z>
__device__ __forceinline__ void store_sum(Z* to, Z value, bool accumulate) {
  *to = accumulate ? *to + value : value;
}

// dB or dC of every token of every sequence: the slices' shares, first to last.
template <class Z>
struct ScanTokenSum {
  const Z* shares;  // (slices, batch, length, groups, d_state)
  index_t slices;
  Z* to;
  Extents<4> stride;
  const index_t* lengths;  // packed sequences cover every token
  index_t lengths_stride;
  index_t batch, length, groups, d_state;
  bool accumulate;
};

template <class Z>
__device__ __forceinline__ void token_sum(const ScanTokenSum<Z>& p, index_t i) {
  const index_t per_token = p.groups * p.d_state;
  const index_t all = p.batch * p.length * per_token;
  if (i >= all) return;
  const index_t token = i / per_token;
  const index_t row = token / p.length;
  const index_t t = token % p.length;
  if (p.lengths != nullptr && t >= p.lengths[row * p.lengths_stride]) return;
  Z sum = {};
#pragma unroll 8  // loads in flight
  for (index_t slice = 0; slice < p.slices; ++slice) sum = sum + p.shares[slice * all + i];
  const index_t g = i % per_token / p.d_state;
  const index_t n = i % p.d_state;
  store_sum(p.to + row * p.stride[0] + t * p.stride[1] + g * p.stride[2] + n * p.stride[3], sum,
            p.accumulate);
}

// Sums over the rows, and over the `members` channels of each group where B or C is constant:
// to(i, n) = sum over rows and members m of shares(row, i members + m, n).
template <class Z>
struct ScanRowSum {
  const Z* shares;  // (rows, count members, states)
  index_t rows, count, members, states;
  Z* to;  // null: not wanted
  Extents<2> stride;
  Z* to_log;  // dA_log = dA conj(A); null: not wanted
  Extents<2> log_stride;
  const Z* A;
  Extents<2> A_stride;
  bool accumulate;
};

__device__ __forceinline__ float conjugate_device(float v) { return v; }
__device__ __forceinline__ double conjugate_device(double v) { return v; }
template <class R>
__device__ __forceinline__ DeviceComplex<R> conjugate_device(DeviceComplex<R> v) {
  return {v.re, -v.im};
}

template <class Z>
__device__ __forceinline__ void row_sum(const ScanRowSum<Z>& p, index_t i) {
  if (i >= p.count * p.states) return;
  const index_t first = i / p.states;
  const index_t n = i % p.states;
  Z sum = {};
  for (index_t m = 0; m < p.members; ++m) {
#pragma unroll 8  // loads in flight
    for (index_t row = 0; row < p.rows; ++row) {
      sum = sum + p.shares[((row * p.count + first) * p.members + m) * p.states + n];
    }
  }
  if (p.to != nullptr) {
    store_sum(p.to + first * p.stride[0] + n * p.stride[1], sum, p.accumulate);
  }
  if (p.to_log != nullptr) {
    const Z A = conjugate_device(p.A[first * p.A_stride[0] + n * p.A_stride[1]]);
    store_sum(p.to_log + first * p.log_stride[0] + n * p.log_stride[1], sum * A, p.accumulate);
  }
}

// All sums of a call, in one launch: each takes whole blocks, and sum k those before ends[k].
template <class S>
struct ScanSums {
  using Z = device_scalar_t<S>;
  using R = real_t<S>;
  static constexpr int kThreads = 128;
  ScanTokenSum<Z> tokens[2];  // dB, dC
  ScanRowSum<Z> states[3];    // dB, dC where they are constant, dA
  ScanRowSum<R> channels[2];  // dD, ddt_bias
  static constexpr int kSums = 7;
  index_t ends[kSums];
};

template <class S>
__global__ void __launch_bounds__(ScanSums<S>::kThreads) scan_sums_kernel(const ScanSums<S> p) {
  const index_t block = blockIdx.x;
  const auto thread = [&](index_t first) {
    return (block - first) * ScanSums<S>::kThreads + static_cast<index_t>(threadIdx.x);
  };
  if (block < p.ends[0]) return token_sum(p.tokens[0], thread(0));
  if (block < p.ends[1]) return token_sum(p.tokens[1], thread(p.ends[0]));
  if (block < p.ends[2]) return row_sum(p.states[0], thread(p.ends[1]));
  if (block < p.ends[3]) return row_sum(p.states[1], thread(p.ends[2]));
  if (block < p.ends[4]) return row_sum(p.states[2], thread(p.ends[3]));
  if (block < p.ends[5]) return row_sum(p.channels[0], thread(p.ends[4]));
  row_sum(p.channels[1], thread(p.ends[5]));
}

// Queues the sums of everything that is wanted.
template <class T, class S>
Status queue_scan_sums(const Cuda& cuda, const SelectiveScanGradArgs<T, S>& a,
                       const ScanGradShares<S>& shares, index_t B_slices, index_t C_slices,
                       index_t rows) {
  using Z = device_scalar_t<S>;
  using R = real_t<S>;
  const SelectiveScanArgs<T, S>& f = a.forward;
  const index_t channels = f.x.extent(2);
  const index_t d_state = f.A.extent(1);
  ScanSums<S> sums = {};
  index_t blocks = 0;
  int next = 0;
  // The next sum takes `count` threads.
  const auto take = [&](index_t count) {
    constexpr index_t kThreads = ScanSums<S>::kThreads;
    const index_t more =
        count < 0x7fffffff * kThreads ? (count + kThreads - 1) / kThreads : index_t{0x7fffffff};
    blocks += more;
    sums.ends[next++] = blocks;
  };

  const auto tokens = [&](ScanTokenSum<Z>& sum, const View<S, 4>& gradient, const Z* share,
                          index_t slices) {
    if (!wanted(gradient, coefficient_mode(a, gradient)) || is_constant_over_sequence(gradient)) {
      return take(0);
    }
    sum.shares = share;
    sum.slices = slices;
    sum.to = reinterpret_cast<Z*>(gradient.data());
    for (int i = 0; i < 4; ++i) sum.stride[i] = gradient.stride(i);
    sum.lengths = f.sequences.lengths.data();
    sum.lengths_stride = f.sequences.lengths.stride(0);
    sum.batch = f.x.extent(0);
    sum.length = f.x.extent(1);
    sum.groups = gradient.extent(2);
    sum.d_state = d_state;
    sum.accumulate = coefficient_mode(a, gradient) == GradMode::accumulate;
    take(gradient.size());
  };
  tokens(sums.tokens[0], a.dB, shares.dB, B_slices);
  tokens(sums.tokens[1], a.dC, shares.dC, C_slices);

  const bool accumulate = a.parameters == GradMode::accumulate;
  const auto constant = [&](ScanRowSum<Z>& sum, const View<S, 4>& gradient, const Z* share) {
    if (gradient.data() == nullptr || !wanted(gradient, coefficient_mode(a, gradient)) ||
        !is_constant_over_sequence(gradient)) {
      return take(0);
    }
    sum.shares = share;
    sum.rows = rows;
    sum.count = gradient.extent(2);
    sum.members = channels / gradient.extent(2);
    sum.states = d_state;
    sum.to = reinterpret_cast<Z*>(gradient.data());
    sum.stride = {gradient.stride(2), gradient.stride(3)};
    sum.accumulate = accumulate;
    take(saturating_mul(sum.count, sum.states));
  };
  constant(sums.states[0], a.dB, shares.dB_constant);
  constant(sums.states[1], a.dC, shares.dC_constant);

  ScanRowSum<Z>& rates = sums.states[2];
  if (!wanted(a.dA, a.parameters) && !wanted(a.dA_log, a.parameters)) {
    take(0);
  } else {
    rates.shares = shares.dA;
    rates.rows = rows;
    rates.count = channels;
    rates.members = 1;
    rates.states = d_state;
    if (wanted(a.dA, a.parameters)) rates.to = reinterpret_cast<Z*>(a.dA.data());
    rates.stride = {a.dA.stride(0), a.dA.stride(1)};
    if (wanted(a.dA_log, a.parameters)) rates.to_log = reinterpret_cast<Z*>(a.dA_log.data());
    rates.log_stride = {a.dA_log.stride(0), a.dA_log.stride(1)};
    rates.A = reinterpret_cast<const Z*>(f.A.data());
    rates.A_stride = {f.A.stride(0), f.A.stride(1)};
    rates.accumulate = accumulate;
    take(saturating_mul(channels, d_state));
  }
  const auto per_channel = [&](ScanRowSum<R>& sum, const View<accum_t<T>, 1>& gradient,
                               const R* share) {
    if (!wanted(gradient, a.parameters)) return take(0);
    sum.shares = share;
    sum.rows = rows;
    sum.count = channels;
    sum.members = 1;
    sum.states = 1;
    sum.to = gradient.data();
    sum.stride = {gradient.stride(0), 0};
    sum.accumulate = accumulate;
    take(channels);
  };
  per_channel(sums.channels[0], a.dD, shares.dD);
  per_channel(sums.channels[1], a.ddt_bias, shares.dbias);

  if (blocks == 0) return Status::ok();
  if (blocks > 0x7fffffff) {
    return Status::error(ErrorCode::size_overflow, "selective_scan_backward", "grid",
                         static_cast<double>(blocks), Relation::at_most, 0x7fffffff);
  }
  scan_sums_kernel<S>
      <<<static_cast<unsigned>(blocks), ScanSums<S>::kThreads, 0, cuda.stream>>>(sums);
  return cuda_status("selective_scan_backward", cudaGetLastError());
}

}  // namespace detail
SSM_NAMESPACE_END
