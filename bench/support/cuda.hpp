#pragma once

#include <benchmark/benchmark.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "ssm/cuda/context.hpp"
#include "ssm/ops/selective_scan.hpp"
#include "support/random.hpp"

// What the benchmarks on a GPU share: memory, a stream, timing and the device's limits.
namespace ssm_bench {

using ssm::index_t;

inline void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}

inline double attribute(cudaDeviceAttr a) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, a, 0));
  return value;
}
// The device's peak memory bandwidth, bytes per second.
inline double peak_bandwidth() {
  return 2e3 * attribute(cudaDevAttrMemoryClockRate) * attribute(cudaDevAttrGlobalMemoryBusWidth) /
         8;
}
// Special functions per second: 16 per clock and multiprocessor.
inline double peak_special_functions() {
  return 16e3 * attribute(cudaDevAttrClockRate) * attribute(cudaDevAttrMultiProcessorCount);
}

// Device memory, optionally with a repeated stretch of host values.
template <class T>
class Device {
 public:
  explicit Device(index_t count) {
    check(
        cudaMalloc(reinterpret_cast<void**>(&data_), static_cast<std::size_t>(count) * sizeof(T)));
  }
  Device(index_t count, const std::vector<T>& values) : Device(count) {
    for (index_t done = 0; done < count;) {
      const index_t n = std::min(count - done, static_cast<index_t>(values.size()));
      check(cudaMemcpy(data_ + done, values.data(), static_cast<std::size_t>(n) * sizeof(T),
                       cudaMemcpyHostToDevice));
      done += n;
    }
  }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device() { check(cudaFree(data_)); }
  T* data() const { return data_; }

 private:
  T* data_ = nullptr;
};

// A stream of its own, and calls on it timed by events.
class Stream {
 public:
  Stream() : flush_(kFlush) {
    check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
    check(cudaEventCreate(&begin_));
    check(cudaEventCreate(&end_));
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    check(cudaEventDestroy(begin_));
    check(cudaEventDestroy(end_));
    check(cudaStreamDestroy(stream_));
  }
  cudaStream_t get() const { return stream_; }

  // Runs the benchmark's iterations: one call each, with 512 MB written before it so that nothing
  // is left in the L2. `call` returns a Status. The mean time in seconds.
  template <class F>
  double time(benchmark::State& state, F call) {
    double seconds = 0;
    for (auto _ : state) {
      check(cudaMemsetAsync(flush_.data(), 1, kFlush, stream_));
      check(cudaEventRecord(begin_, stream_));
      const ssm::Status status = call();
      check(cudaEventRecord(end_, stream_));
      check(cudaEventSynchronize(end_));
      if (!status.is_ok()) state.SkipWithError(status.message().text);
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, begin_, end_));
      state.SetIterationTime(static_cast<double>(milliseconds) * 1e-3);
      seconds += static_cast<double>(milliseconds) * 1e-3;
    }
    return seconds / static_cast<double>(state.iterations());
  }

  // The same for calls that follow one another as they do in use, with nothing between them: an
  // iteration is the mean of several.
  template <class F>
  double time_repeated(benchmark::State& state, F call) const {
    constexpr int kCalls = 20;
    double seconds = 0;
    for (auto _ : state) {
      check(cudaEventRecord(begin_, stream_));
      for (int i = 0; i < kCalls; ++i) {
        const ssm::Status status = call();
        if (!status.is_ok()) state.SkipWithError(status.message().text);
      }
      check(cudaEventRecord(end_, stream_));
      check(cudaEventSynchronize(end_));
      float milliseconds = 0;
      check(cudaEventElapsedTime(&milliseconds, begin_, end_));
      const double mean = static_cast<double>(milliseconds) * 1e-3 / kCalls;
      state.SetIterationTime(mean);
      seconds += mean;
    }
    return seconds / static_cast<double>(state.iterations());
  }

 private:
  static constexpr index_t kFlush = index_t{512} << 20;
  Device<unsigned char> flush_;
  cudaStream_t stream_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

// A selective scan as a Mamba block calls it: softplus, dt bias, D and gate, d_state 16, B and C
// shared by all channels, channel-last, a state in and out. Step sizes are those of an initialised
// block: delta log-uniform in [1e-3, 0.1] over the channels.
template <class T>
class ScanInputs {
 public:
  static constexpr index_t kStates = 16;

  ScanInputs(index_t batch, index_t channels, index_t length)
      : count(batch * length * channels),
        x_(count, uniform<T>(kStretch, -2, 2, 1)),
        dt_(count, uniform<T>(kStretch, -1, 1, 2)),
        z_(count, uniform<T>(kStretch, -2, 2, 3)),
        B_(batch * length * kStates, uniform<T>(kStretch, -2, 2, 4)),
        C_(batch * length * kStates, uniform<T>(kStretch, -2, 2, 5)),
        y_(count),
        A_(channels * kStates, rates(channels)),
        bias_(channels, biases(channels)),
        D_(channels, uniform<float>(channels, -1, 1, 7)),
        h_(batch * channels * kStates, uniform<float>(kStretch, -1, 1, 8)) {
    args.x = {x_.data(), {batch, length, channels}};
    args.dt = {dt_.data(), {batch, length, channels}};
    args.z = {z_.data(), {batch, length, channels}};
    args.y = {y_.data(), {batch, length, channels}};
    args.B = {B_.data(), {batch, length, 1, kStates}};
    args.C = {C_.data(), {batch, length, 1, kStates}};
    args.A = ssm::View<const float, 2>(A_.data(), {channels, kStates}, {1, channels});
    args.D = {D_.data(), {channels}};
    args.dt_bias = {bias_.data(), {channels}};
    args.h_last = ssm::View<float, 3>(h_.data(), {batch, channels, kStates},
                                      {channels * kStates, 1, channels});
    args.h0 = args.h_last;
  }

  const index_t count;  // elements of x
  ssm::SelectiveScanArgs<T> args;

 private:
  static constexpr index_t kStretch = index_t{1} << 22;

  static std::vector<float> rates(index_t channels) {
    std::vector<float> v(static_cast<std::size_t>(channels * kStates));
    for (index_t i = 0; i < channels * kStates; ++i) {
      v[static_cast<std::size_t>(i)] = -static_cast<float>(i / channels + 1);
    }
    return v;
  }
  static std::vector<float> biases(index_t channels) {
    std::vector<float> v = uniform<float>(channels, 0, 1, 6);
    for (float& b : v) {
      const float delta = 1e-3f * std::pow(100.0f, b);
      b = delta + std::log(-std::expm1(-delta));  // softplus of it is delta
    }
    return v;
  }

  Device<T> x_, dt_, z_, B_, C_, y_;
  Device<float> A_, bias_, D_, h_;
};

// The shapes that PyTorch's users know from mamba_ssm, as (batch, channels, length).
inline void scan_shapes(benchmark::internal::Benchmark* b) {
  b->ArgNames({"B", "D", "L"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  b->Args({8, 2048, 2048})
      ->Args({1, 2048, 2048})
      ->Args({1, 5120, 2048})
      ->Args({1, 1536, 16384})
      ->Args({1, 5120, 131072})
      ->Args({64, 1536, 512})
      ->Args({8, 5120, 4096})
      ->Args({8, 2048, 2047})
      ->Args({1, 64, 1 << 20});
}

}  // namespace ssm_bench
