#include <benchmark/benchmark.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <cstring>
#include <vector>

#include "support/random.hpp"

// ggml's scan and convolution, at the shapes of ops/selective_scan.cpp and ops/causal_conv1d.cpp,
// in one binary with ours. Its operations stop short of a Mamba layer's: the "layer" variants add
// as further nodes what ours does in one pass (dt bias, D and gate; bias and silu), as a ggml graph
// of a Mamba model does.
namespace {

// A graph with its own memory, and the tensors that it reads.
class Graph {
 public:
  explicit Graph(std::size_t bytes) {
    ggml_init_params params{};
    params.mem_size = bytes;
    context_ = ggml_init(params);
  }
  ~Graph() { ggml_free(context_); }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  ggml_context* context() const { return context_; }

  ggml_tensor* input(std::int64_t a, std::int64_t b, std::int64_t c, std::int64_t d, float low,
                     float high) {
    ggml_tensor* const tensor = ggml_new_tensor_4d(context_, GGML_TYPE_F32, a, b, c, d);
    const auto values = ssm_bench::uniform<float>(a * b * c * d, low, high, ++seed_);
    std::memcpy(tensor->data, values.data(), values.size() * sizeof(float));
    return tensor;
  }

  void run(benchmark::State& state, ggml_tensor* result, int threads, double elements) {
    ggml_cgraph* const graph = ggml_new_graph(context_);
    ggml_build_forward_expand(graph, result);
    ggml_cplan plan = ggml_graph_plan(graph, threads, nullptr);
    std::vector<std::uint8_t> work(plan.work_size + 1);
    plan.work_data = work.data();
    for (auto _ : state) {
      if (ggml_graph_compute(graph, &plan) != GGML_STATUS_SUCCESS) state.SkipWithError("failed");
      benchmark::ClobberMemory();
    }
    state.counters["per element"] =
        benchmark::Counter(elements * static_cast<double>(state.iterations()),
                           benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
  }

 private:
  ggml_context* context_;
  std::uint64_t seed_ = 0;
};

void scan_ggml(benchmark::State& state, bool layer) {
  const std::int64_t length = state.range(0);
  const std::int64_t channels = state.range(1);
  const std::int64_t d_state = state.range(2);
  Graph g(static_cast<std::size_t>(length * channels * 4 * 10 + channels * d_state * 16) +
          (std::size_t{64} << 20));
  ggml_context* const context = g.context();
  ggml_tensor* const state0 = g.input(d_state, 1, channels, 1, -1, 1);
  ggml_tensor* const x = g.input(1, channels, length, 1, -1, 1);
  ggml_tensor* dt = g.input(channels, length, 1, 1, -4, 0);
  ggml_tensor* const z = g.input(channels, length, 1, 1, -2, 2);
  ggml_tensor* const A = g.input(d_state, channels, 1, 1, -16, -1);
  ggml_tensor* const B = g.input(d_state, 1, length, 1, -1, 1);
  ggml_tensor* const C = g.input(d_state, 1, length, 1, -1, 1);
  ggml_tensor* const D = g.input(channels, 1, 1, 1, -1, 1);
  ggml_tensor* const bias = g.input(channels, 1, 1, 1, -1, 1);
  ggml_tensor* const ids = ggml_new_tensor_1d(context, GGML_TYPE_I32, 1);
  static_cast<std::int32_t*>(ids->data)[0] = 0;
  if (layer) dt = ggml_add(context, dt, bias);
  ggml_tensor* y = ggml_ssm_scan(context, state0, x, dt, A, B, C, ids, 1);
  if (layer) {
    const std::size_t row = static_cast<std::size_t>(channels) * sizeof(float);
    y = ggml_view_2d(context, y, channels, length, row, 0);
    ggml_tensor* const inputs = ggml_reshape_2d(context, x, channels, length);
    y = ggml_add(context, y, ggml_mul(context, inputs, D));
    y = ggml_mul(context, y, ggml_silu(context, ggml_reshape_2d(context, z, channels, length)));
  }
  g.run(state, y, 1, static_cast<double>(length * channels));
}
void scan_ggml_operation(benchmark::State& state) { scan_ggml(state, false); }
void scan_ggml_layer(benchmark::State& state) { scan_ggml(state, true); }

void conv_ggml(benchmark::State& state, bool layer) {
  const std::int64_t length = state.range(0);
  const std::int64_t channels = state.range(1);
  constexpr std::int64_t kWidth = 4;
  Graph g(static_cast<std::size_t>(length * channels * 4 * 6) + (std::size_t{64} << 20));
  ggml_context* const context = g.context();
  ggml_tensor* const x = g.input(kWidth - 1 + length, channels, 1, 1, -1, 1);
  ggml_tensor* const weight = g.input(kWidth, channels, 1, 1, -1, 1);
  ggml_tensor* const bias = g.input(channels, 1, 1, 1, -1, 1);
  ggml_tensor* y = ggml_ssm_conv(context, x, weight);
  if (layer) y = ggml_silu(context, ggml_add(context, y, bias));
  g.run(state, y, 1, static_cast<double>(length * channels));
}
void conv_ggml_operation(benchmark::State& state) { conv_ggml(state, false); }
void conv_ggml_layer(benchmark::State& state) { conv_ggml(state, true); }

void scan_shapes(benchmark::internal::Benchmark* b) {
  for (const std::int64_t length : {1, 128, 512, 2048, 8192}) b->Args({length, 1536, 16});
}
void conv_shapes(benchmark::internal::Benchmark* b) {
  for (const std::int64_t length : {1, 128, 512, 2048, 8192}) b->Args({length, 1536});
}
BENCHMARK(scan_ggml_operation)->Apply(scan_shapes);
BENCHMARK(scan_ggml_layer)->Apply(scan_shapes);
BENCHMARK(conv_ggml_operation)->Apply(conv_shapes);
BENCHMARK(conv_ggml_layer)->Apply(conv_shapes);

}  // namespace
