#include "ssm/cpu/fixed_mamba_block.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>

#include "ssm/block/initialize.hpp"
#include "ssm/owned.hpp"

// Decoding with blocks of compile-time size: one thread, one token at a time through `Layers`
// blocks, each token fed from the last.
namespace {

template <int DModel, int Layers>
void BM_Step(benchmark::State& bench) {
  using Block = ssm::FixedMambaBlock<DModel>;
  static Block blocks[Layers];
  static typename Block::State states[Layers];
  const ssm::MambaConfig config = ssm::mamba_config(DModel);
  ssm::OwnedWorkspace memory;
  const auto weights = memory.carve(
      [&](ssm::Arena& arena) { return ssm::MambaParameters<float>::carve(config, arena); });
  ssm::Random random(1);
  for (Block& block : blocks) {
    ssm::initialize(config, weights, random);
    if (!block.load(weights)) bench.SkipWithError("load");
  }
  alignas(64) float x[DModel];
  std::fill(x, x + DModel, 0.5f);
  for (auto _ : bench) {
    for (int i = 0; i < Layers; ++i) blocks[i].step(x, x, states[i]);
    x[0] += 0.5f;
    benchmark::DoNotOptimize(x);
  }
  bench.counters["tokens/s"] =
      benchmark::Counter(static_cast<double>(bench.iterations()), benchmark::Counter::kIsRate);
}
BENCHMARK_TEMPLATE(BM_Step, 16, 1);
BENCHMARK_TEMPLATE(BM_Step, 64, 1);
BENCHMARK_TEMPLATE(BM_Step, 64, 4);

}  // namespace
