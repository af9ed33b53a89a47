#include <memory>
#include <vector>

#include "ssm/block/initialize.hpp"
#include "ssm/block/mamba_block.hpp"
#include "ssm/cuda/causal_conv1d.hpp"
#include "ssm/cuda/linear.hpp"
#include "ssm/cuda/mamba_step.hpp"
#include "ssm/cuda/rms_norm.hpp"
#include "ssm/cuda/selective_scan.hpp"
#include "ssm/cuda/state_matrix.hpp"
#include "ssm/owned.hpp"
#include "support/cuda_model.hpp"

// Prefill of one block on a GPU: MambaBlock::forward over one sequence of up to 2^20 tokens, in
// bf16, from no state to a state. The block is initialised as for training, because the scan cuts
// long sequences where its states have forgotten.
//
//   Time             of one call
//   ns/token         time over length: constant where cost is linear
//   workspace/token  bytes of workspace over length
namespace {

using ssm::bf16;
using ssm::index_t;
using ssm_bench::carved;
using ssm_bench::check;
using ssm_bench::Device;

void prefill(benchmark::State& bench) {
  const ssm::MambaConfig config = ssm::mamba_config(bench.range(0));
  const index_t length = bench.range(1);
  ssm_bench::Stream stream;
  const ssm_bench::Backend backend(stream.get());
  const ssm::Cuda& cuda = backend.cuda();

  const auto carve = [&](ssm::Arena& arena) {
    return ssm::MambaParameters<bf16>::carve(config, arena);
  };
  ssm::OwnedWorkspace host;
  const auto initial = host.carve(carve);
  ssm::Random random(1);
  ssm::initialize(config, initial, random);
  std::vector<const void*> arrays;
  initial.for_each([&](const char*, const auto& v) { arrays.push_back(v.data()); });
  std::unique_ptr<Device<unsigned char>> weight_memory, state_memory;
  const auto weights = carved(&weight_memory, carve);
  auto from = arrays.begin();
  weights.for_each([&](const char*, const auto& v) {
    const auto bytes = static_cast<std::size_t>(v.size()) * sizeof(*v.data());
    check(cudaMemcpy(v.data(), *from++, bytes, cudaMemcpyHostToDevice));
  });

  using Block = ssm::MambaBlock<bf16, ssm::Cuda>;
  const std::size_t constant_bytes = Block::prepared_bytes(cuda, config);
  const Device<unsigned char> constants(static_cast<index_t>(constant_bytes));
  Block block;
  const ssm::Status status =
      block.prepare(cuda, config, weights, ssm::Arena(constants.data(), constant_bytes));
  if (!status) return bench.SkipWithError(status.message().text);
  const auto state = carved(&state_memory, [&](ssm::Arena& arena) {
    return ssm::MambaState<bf16>::carve(config, 1, arena);
  });
  const index_t count = length * config.d_model;
  const Device<bf16> x(count, ssm_bench::uniform<bf16>(1 << 20, -2, 2, 2));
  const Device<bf16> y(count);
  const std::size_t bytes = block.workspace_bytes(cuda, 1, length);
  const Device<unsigned char> workspace(static_cast<index_t>(bytes));

  const auto call = [&] {
    return block.forward(cuda, ssm::View<const bf16, 3>(x.data(), {1, length, config.d_model}),
                         ssm::View<bf16, 3>(y.data(), {1, length, config.d_model}), {}, state,
                         ssm::Arena(workspace.data(), bytes));
  };
  if (!call()) return bench.SkipWithError("the block was refused");  // loads code
  const double mean = stream.time(bench, call);
  const auto tokens = static_cast<double>(length);
  bench.counters["ns/token"] = 1e9 * mean / tokens;
  bench.counters["workspace/token"] = static_cast<double>(bytes) / tokens;
}

BENCHMARK(prefill)
    ->ArgNames({"d_model", "L"})
    ->ArgsProduct({{768, 2048}, benchmark::CreateRange(1 << 10, 1 << 20, 4)})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
