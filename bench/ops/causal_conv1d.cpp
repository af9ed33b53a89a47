#include "ssm/cpu/causal_conv1d.hpp"

#include <benchmark/benchmark.h>

#include "ssm/reference/causal_conv1d.hpp"
#include "support/random.hpp"

// The convolution of a Mamba block, width 4 with bias and silu. Time is per (channel, token).
namespace {

using ssm::index_t;

template <class T, class Backend>
void conv(benchmark::State& state, const Backend& backend) {
  using ssm_bench::uniform;
  const index_t length = state.range(0);
  const index_t channels = state.range(1);
  constexpr index_t kWidth = 4;
  const std::vector<T> x = uniform<T>(length * channels, -1, 1, 1);
  const std::vector<T> weight = uniform<T>(channels * kWidth, -1, 1, 2);
  const std::vector<T> bias = uniform<T>(channels, -1, 1, 3);
  std::vector<T> y = uniform<T>(length * channels, -1, 1, 4);
  std::vector<ssm::accum_t<T>> carried =
      uniform<ssm::accum_t<T>>((kWidth - 1) * channels, -1, 1, 5);
  ssm::CausalConv1dArgs<T> args;
  args.x = {x.data(), {1, length, channels}};
  args.weight = {weight.data(), {channels, kWidth}};
  args.bias = {bias.data(), {channels}};
  args.state_last = {carried.data(), {1, kWidth - 1, channels}};
  args.state0 = args.state_last;
  args.y = {y.data(), {1, length, channels}};
  for (auto _ : state) {
    if (!ssm::causal_conv1d(backend, args)) state.SkipWithError("refused");
    benchmark::ClobberMemory();
  }
  state.counters["per element"] = benchmark::Counter(
      static_cast<double>(length * channels) * static_cast<double>(state.iterations()),
      benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

template <class T>
void conv_cpu(benchmark::State& state) {
  conv<T>(state, ssm::Cpu{});
}
void conv_reference(benchmark::State& state) { conv<float>(state, ssm::Reference{}); }

void lengths(benchmark::internal::Benchmark* b) {
  for (const index_t length : {1, 128, 512, 2048, 8192}) b->Args({length, 1536});
}
BENCHMARK(conv_cpu<float>)->Apply(lengths);
BENCHMARK(conv_cpu<ssm::bf16>)->Args({2048, 1536});
BENCHMARK(conv_reference)->Args({128, 1536});

}  // namespace
