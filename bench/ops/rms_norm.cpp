#include "ssm/cpu/rms_norm.hpp"

#include <benchmark/benchmark.h>

#include "ssm/reference/rms_norm.hpp"
#include "support/random.hpp"

// The norm in front of a Mamba block: residual added and kept, weight. Time is per element.
namespace {

using ssm::index_t;

template <class T, class Backend>
void norm(benchmark::State& state, const Backend& backend) {
  using ssm_bench::uniform;
  const index_t length = state.range(0);
  const index_t features = state.range(1);
  const std::vector<T> x = uniform<T>(length * features, -1e-3f, 1e-3f, 1);
  const std::vector<T> weight = uniform<T>(features, 0, 2, 2);
  std::vector<T> y = uniform<T>(length * features, -1, 1, 3);
  auto residual = uniform<ssm::accum_t<T>>(length * features, -1, 1, 4);
  ssm::RmsNormArgs<T> args;
  args.x = {x.data(), {1, length, features}};
  args.residual = {residual.data(), {1, length, features}};
  args.weight = {weight.data(), {features}};
  args.y = {y.data(), {1, length, features}};
  for (auto _ : state) {
    if (!ssm::rms_norm(backend, args)) state.SkipWithError("refused");
    benchmark::ClobberMemory();
  }
  state.counters["per element"] = benchmark::Counter(
      static_cast<double>(length * features) * static_cast<double>(state.iterations()),
      benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

template <class T>
void norm_cpu(benchmark::State& state) {
  norm<T>(state, ssm::Cpu{});
}
void norm_reference(benchmark::State& state) { norm<float>(state, ssm::Reference{}); }

BENCHMARK(norm_cpu<float>)->Args({1, 768})->Args({512, 768})->Args({2048, 2560});
BENCHMARK(norm_cpu<ssm::bf16>)->Args({512, 768});
BENCHMARK(norm_reference)->Args({128, 768});

}  // namespace
