#include <benchmark/benchmark.h>

#include <cstdint>

#include "ssm/cpu/math.hpp"
#include "support/random.hpp"

// What this machine could do at best, on one thread: the floors that the other figures of this
// binary stand on.
namespace {

using V = ssm::detail::Vec<float>;

// Multiply-adds in registers, enough chains to hide their latency.
void fma_rate(benchmark::State& state) {
  constexpr int kChains = 12;
  constexpr int kSteps = 1000;
  V sums[kChains];
  for (V& sum : sums) sum = V(1.0f);
  V factor(0.999f);
  V term(0.001f);
  for (auto _ : state) {
    benchmark::DoNotOptimize(factor);
    benchmark::DoNotOptimize(term);
    for (int i = 0; i < kSteps; ++i) {
      for (V& sum : sums) sum = fma(sum, factor, term);
    }
    for (V& sum : sums) benchmark::DoNotOptimize(sum);
  }
  state.counters["flop/s"] = benchmark::Counter(
      2.0 * V::kWidth * kChains * kSteps * static_cast<double>(state.iterations()),
      benchmark::Counter::kIsRate);
}
BENCHMARK(fma_rate);

// Reading memory that no cache holds.
void read_bandwidth(benchmark::State& state) {
  const std::vector<float> memory = ssm_bench::uniform<float>(std::int64_t{1} << 26, -1, 1);
  const auto count = static_cast<std::int64_t>(memory.size());
  for (auto _ : state) {
    V sums[8];
    for (V& sum : sums) sum = V(0.0f);
    for (std::int64_t i = 0; i < count; i += 8 * V::kWidth) {
      for (int k = 0; k < 8; ++k) {
        sums[k] = sums[k] + V::load(memory.data() + i + k * V::kWidth);
      }
    }
    for (V& sum : sums) benchmark::DoNotOptimize(sum);
  }
  state.SetBytesProcessed(state.iterations() * count * 4);
}
BENCHMARK(read_bandwidth)->Unit(benchmark::kMillisecond);

// An elementwise function over 16 KiB, in and out of the first cache. Time is per value.
template <class F>
void elementwise(benchmark::State& state, F function) {
  const std::vector<float> in = ssm_bench::uniform<float>(2048, -20, 0);
  std::vector<float> out(in.size());
  for (auto _ : state) {
    for (std::size_t i = 0; i < in.size(); i += V::kWidth) {
      function(V::load(in.data() + i)).store(out.data() + i);
    }
    benchmark::ClobberMemory();
  }
  state.counters["per value"] =
      benchmark::Counter(static_cast<double>(in.size()) * static_cast<double>(state.iterations()),
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}
BENCHMARK_CAPTURE(elementwise, copy, [](V x) { return x; });
BENCHMARK_CAPTURE(elementwise, exp, [](V x) { return exp(x); });
BENCHMARK_CAPTURE(elementwise, exp2_bounded, [](V x) { return exp2_bounded(x); });
BENCHMARK_CAPTURE(elementwise, softplus, [](V x) { return softplus(x); });
BENCHMARK_CAPTURE(elementwise, silu, [](V x) { return silu(x); });

}  // namespace
