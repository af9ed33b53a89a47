#include <benchmark/benchmark.h>
#include <cuda_runtime_api.h>

#include <cstdlib>

#include "ssm/cuda/selective_scan.hpp"
#include "support/random.hpp"

// The selective scan on a GPU as a Mamba block calls it: softplus, dt bias, D and gate, d_state 16,
// B and C shared by all channels, channel-last. Step sizes are those of an initialised block:
// delta log-uniform in [1e-3, 0.1] over the channels. Times are CUDA events around one call, with
// 512 MB written before it so that nothing is left in the L2.
//
//   elements/s  channels times tokens
//   %memory     x, dt, z and y once, and the state in and out, at the device's peak bandwidth, over
//               the time
//   %sfu        d_state + 3 special functions per element (the decays, softplus's exp, the gate's
//               exp and reciprocal) at 16 per clock and multiprocessor, over the time
namespace {

using ssm::index_t;

void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s\n", cudaGetErrorString(error));
  std::exit(1);
}

double attribute(cudaDeviceAttr a) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, a, 0));
  return value;
}

// Device memory with a repeated stretch of host values.
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

template <class T>
void scan(benchmark::State& state) {
  using ssm_bench::uniform;
  constexpr index_t kStates = 16;
  constexpr index_t kStretch = index_t{1} << 22;
  const index_t batch = state.range(0);
  const index_t channels = state.range(1);
  const index_t length = state.range(2);
  const index_t count = batch * length * channels;
  const Device<T> x(count, uniform<T>(kStretch, -2, 2, 1));
  const Device<T> dt(count, uniform<T>(kStretch, -1, 1, 2));
  const Device<T> z(count, uniform<T>(kStretch, -2, 2, 3));
  const Device<T> B(batch * length * kStates, uniform<T>(kStretch, -2, 2, 4));
  const Device<T> C(batch * length * kStates, uniform<T>(kStretch, -2, 2, 5));
  const Device<T> y(count);
  std::vector<float> rates(static_cast<std::size_t>(channels * kStates));
  std::vector<float> bias = uniform<float>(channels, 0, 1, 6);
  for (index_t d = 0; d < channels; ++d) {
    for (index_t n = 0; n < kStates; ++n) {
      rates[static_cast<std::size_t>(n * channels + d)] = -static_cast<float>(n + 1);
    }
    float& b = bias[static_cast<std::size_t>(d)];
    const float delta = 1e-3f * std::pow(100.0f, b);
    b = delta + std::log(-std::expm1(-delta));  // softplus of it is delta
  }
  const Device<float> A(channels * kStates, rates);
  const Device<float> dt_bias(channels, bias);
  const Device<float> D(channels, uniform<float>(channels, -1, 1, 7));

  const Device<float> h(batch * channels * kStates, uniform<float>(kStretch, -1, 1, 8));

  ssm::SelectiveScanArgs<T> a;
  a.x = {x.data(), {batch, length, channels}};
  a.dt = {dt.data(), {batch, length, channels}};
  a.z = {z.data(), {batch, length, channels}};
  a.y = {y.data(), {batch, length, channels}};
  a.B = {B.data(), {batch, length, 1, kStates}};
  a.C = {C.data(), {batch, length, 1, kStates}};
  a.A = ssm::View<const float, 2>(A.data(), {channels, kStates}, {1, channels});
  a.D = {D.data(), {channels}};
  a.dt_bias = {dt_bias.data(), {channels}};
  a.h_last =
      ssm::View<float, 3>(h.data(), {batch, channels, kStates}, {channels * kStates, 1, channels});
  a.h0 = a.h_last;

  ssm::Cuda cuda;
  check(cudaStreamCreateWithFlags(&cuda.stream, cudaStreamNonBlocking));
  const std::size_t bytes = ssm::workspace_bytes(cuda, a);
  const Device<unsigned char> workspace(static_cast<index_t>(bytes) + 1);
  cuda.workspace = ssm::Arena(workspace.data(), bytes);
  constexpr std::size_t kFlush = std::size_t{512} << 20;
  const Device<unsigned char> flush(static_cast<index_t>(kFlush));
  cudaEvent_t begin = nullptr;
  cudaEvent_t end = nullptr;
  check(cudaEventCreate(&begin));
  check(cudaEventCreate(&end));

  if (!ssm::selective_scan(cuda, a)) state.SkipWithError("the scan was refused");  // loads code
  double seconds = 0;
  for (auto _ : state) {
    check(cudaMemsetAsync(flush.data(), 1, kFlush, cuda.stream));
    check(cudaEventRecord(begin, cuda.stream));
    const ssm::Status status = ssm::selective_scan(cuda, a);
    check(cudaEventRecord(end, cuda.stream));
    check(cudaEventSynchronize(end));
    if (!status.is_ok()) state.SkipWithError(status.message().text);
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end));
    state.SetIterationTime(static_cast<double>(milliseconds) * 1e-3);
    seconds += static_cast<double>(milliseconds) * 1e-3;
  }
  check(cudaEventDestroy(begin));
  check(cudaEventDestroy(end));
  check(cudaStreamDestroy(cuda.stream));

  const double elements = static_cast<double>(count);
  const double states = 2.0 * static_cast<double>(batch * channels * kStates) * sizeof(float);
  const double moved = 4.0 * elements * sizeof(T) + states;
  const double bandwidth =
      2e3 * attribute(cudaDevAttrMemoryClockRate) * attribute(cudaDevAttrGlobalMemoryBusWidth) / 8;
  const double special =
      16e3 * attribute(cudaDevAttrClockRate) * attribute(cudaDevAttrMultiProcessorCount);
  const double mean = seconds / static_cast<double>(state.iterations());
  state.counters["elements/s"] = elements / mean;
  state.counters["bytes/s"] = moved / mean;
  state.counters["%memory"] = 100 * moved / bandwidth / mean;
  state.counters["%sfu"] = 100 * elements * (kStates + 3) / special / mean;
  const ssm::ScanConfig config = ssm::selective_scan_config(cuda, a);
  state.counters["lanes"] = config.lanes;
  state.counters["chunks"] = config.chunks;
}

void shapes(benchmark::internal::Benchmark* b) {
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
BENCHMARK_TEMPLATE(scan, ssm::bf16)->Apply(shapes);
BENCHMARK_TEMPLATE(scan, float)->Apply(shapes);

void decoding(benchmark::internal::Benchmark* b) {
  b->ArgNames({"B", "D", "L"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  for (const int batch : {1, 64, 256}) b->Args({batch, 5120, 1});
}
BENCHMARK_TEMPLATE(scan, ssm::bf16)->Name("step/bf16")->Apply(decoding);

}  // namespace
