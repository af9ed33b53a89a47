#include "ssm/cuda/selective_scan.hpp"

#include <memory>
#include <vector>

#include "ssm/cuda/graph.cuh"
#include "support/cuda.hpp"

// The selective scan on a GPU (support/cuda.hpp: the inputs, and how calls are timed).
//
//   elements/s  channels times tokens
//   %memory     x, dt, z and y once, and the state in and out, at the device's peak bandwidth, over
//               the time
//   %sfu        d_state + 3 special functions per element (the decays, softplus's exp, the gate's
//               exp and reciprocal) at 16 per clock and multiprocessor, over the time
namespace {

using namespace ssm_bench;

// kConfigured: in the lanes and chunks of the last two arguments, not those of the rule.
template <class T, bool kTokenRows = false, bool kConfigured = false>
void scan(benchmark::State& state) {
  const ScanInputs<T> inputs(state.range(0), state.range(1), state.range(2));
  ssm::SelectiveScanArgs<T> a = inputs.args;
  if (kTokenRows) {
    const ssm::Extents<3> extents{state.range(0), state.range(2), state.range(1)};
    const ssm::Extents<3> strides{state.range(1) * state.range(2), 1, state.range(2)};
    a.x = ssm::View<const T, 3>(a.x.data(), extents, strides);
    a.dt = ssm::View<const T, 3>(a.dt.data(), extents, strides);
    a.z = ssm::View<const T, 3>(a.z.data(), extents, strides);
    a.y = ssm::View<T, 3>(a.y.data(), extents, strides);
  }
  Stream stream;
  ssm::Cuda cuda;
  cuda.stream = stream.get();
  const std::size_t bytes = kConfigured ? std::size_t{64} << 20 : ssm::workspace_bytes(cuda, a);
  const Device<unsigned char> workspace(static_cast<index_t>(bytes) + 1);
  cuda.workspace = ssm::Arena(workspace.data(), bytes);
  ssm::ScanConfig config = ssm::selective_scan_config(cuda, a);
  if (kConfigured) {
    config.lanes = static_cast<int>(state.range(3));
    config.chunks = static_cast<int>(state.range(4));
  }

  const auto call = [&] { return ssm::selective_scan(cuda, a, config); };
  if (!call()) state.SkipWithError("the scan was refused");  // loads code
  const double mean = stream.time(state, call);

  constexpr double kStates = ScanInputs<T>::kStates;
  const double elements = static_cast<double>(inputs.count);
  const double states = 2 * static_cast<double>(a.h0.size()) * sizeof(float);
  const double moved = 4 * elements * sizeof(T) + states;
  state.counters["elements/s"] = elements / mean;
  state.counters["bytes/s"] = moved / mean;
  state.counters["%memory"] = 100 * moved / peak_bandwidth() / mean;
  state.counters["%sfu"] = 100 * elements * (kStates + 3) / peak_special_functions() / mean;
  state.counters["lanes"] = config.lanes;
  state.counters["chunks"] = config.chunks;
}

BENCHMARK_TEMPLATE(scan, ssm::bf16)->Apply(scan_shapes);
BENCHMARK_TEMPLATE(scan, float)->Apply(scan_shapes);

void decoding(benchmark::internal::Benchmark* b) {
  b->ArgNames({"B", "D", "L"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  for (const int batch : {1, 64, 256}) b->Args({batch, 5120, 1});
}
BENCHMARK_TEMPLATE(scan, ssm::bf16)->Name("step/bf16")->Apply(decoding);

// The same for eight layers, each with a state of its own, in one CUDA graph as decoding has them:
// what launches cost is hidden behind the layers before. us/step is that of one layer.
void steps(benchmark::State& state) {
  constexpr int kLayers = 8;
  std::vector<std::unique_ptr<ScanInputs<ssm::bf16>>> layers;
  for (int i = 0; i < kLayers; ++i) {
    layers.push_back(
        std::make_unique<ScanInputs<ssm::bf16>>(state.range(0), state.range(1), state.range(2)));
  }
  Stream stream;
  ssm::Cuda cuda;
  cuda.stream = stream.get();
  const auto call = [&] {
    for (const auto& layer : layers) {
      const ssm::Status status = ssm::selective_scan(cuda, layer->args);
      if (!status) return status;
    }
    return ssm::Status::ok();
  };
  if (!call()) return state.SkipWithError("the scan was refused");  // loads code
  ssm::CudaGraph graph;
  if (!graph.record(cuda, call)) return state.SkipWithError("the graph was not recorded");
  const double mean = stream.time(state, [&] { return graph.launch(cuda); });
  const double moved =
      2.0 * kLayers * sizeof(float) * static_cast<double>(layers[0]->args.h0.size());
  state.counters["us/step"] = 1e6 * mean / kLayers;
  state.counters["%memory"] = 100 * moved / peak_bandwidth() / mean;
}
BENCHMARK(steps)->Name("steps/bf16")->Apply(decoding);

// Tokens contiguous, (B, D, L) in memory, in rows of even and of odd length.
void row_lengths(benchmark::internal::Benchmark* b) {
  b->ArgNames({"B", "D", "L"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  b->Args({8, 2048, 2048})->Args({8, 2048, 2047});
}
BENCHMARK_TEMPLATE(scan, ssm::bf16, true)->Name("token_rows/bf16")->Apply(row_lengths);

// One channel count at every length.
void lengths(benchmark::internal::Benchmark* b) {
  b->ArgNames({"B", "D", "L"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  for (int length = 1 << 9; length <= 1 << 20; length *= 2) b->Args({1, 1024, length});
}
BENCHMARK_TEMPLATE(scan, ssm::bf16)->Name("lengths/bf16")->Apply(lengths);

// What the rule chooses from: sequences whole and in chunks.
void configurations(benchmark::internal::Benchmark* b) {
  b->ArgNames({"B", "D", "L", "lanes", "chunks"})->UseManualTime()->Unit(benchmark::kMicrosecond);
  struct {
    int channels, length, lanes, chunks;  // in chunks: 4 lanes
  } const shapes[] = {{64, 4096, 16, 64},    {512, 4096, 16, 32},  {1024, 1024, 16, 16},
                      {1024, 2048, 16, 16},  {1024, 4096, 16, 16}, {1024, 8192, 16, 16},
                      {1536, 16384, 16, 11}, {2048, 8192, 16, 8},  {2048, 16384, 16, 8},
                      {3072, 16384, 16, 5},  {3072, 65536, 16, 5}, {5120, 32768, 8, 3},
                      {5120, 65536, 8, 3},   {5120, 131072, 8, 3}};
  for (const auto& s : shapes) {
    b->Args({1, s.channels, s.length, s.lanes, 1});
    b->Args({1, s.channels, s.length, 4, s.chunks});
  }
}
BENCHMARK_TEMPLATE(scan, ssm::bf16, false, true)
    ->Name("configurations/bf16")
    ->Apply(configurations);

}  // namespace
