// A Mamba block as an audio effect, the way a plug-in host would call it: 64 samples at a time,
// with the state carried from block to block and nothing allocated after set-up.
//
//   streaming_audio in.wav out.wav [seed]
//
// The effect is x -> x/2 + w_out . block(w_in x)/2 with a randomly initialised block of d_model 16,
// scaled so that it does not clip. Prints how much faster than real time it ran and how the slowest
// block compares with its deadline.

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "ssm/block/initialize.hpp"
#include "ssm/owned.hpp"
#include "ssm/ssm.hpp"
#include "wav.hpp"

namespace {

constexpr ssm::index_t kBlock = 64;  // samples per call
constexpr ssm::index_t kDModel = 16;

int fail(const char* what) {
  std::fprintf(stderr, "streaming_audio: %s\n", what);
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return fail("usage: streaming_audio in.wav out.wav [seed]");
  Wav wav;
  const std::string problem = read_wav(argv[1], &wav);
  if (!problem.empty()) return fail(problem.c_str());
  if (wav.sample_rate == 0 || wav.samples.empty()) return fail("the file holds no sound");

  // Set-up: everything that allocates happens here.
  const ssm::Cpu cpu;
  const ssm::MambaConfig config = ssm::mamba_config(kDModel);
  ssm::OwnedWorkspace weights_memory;
  const auto weights = weights_memory.carve(
      [&](ssm::Arena& arena) { return ssm::MambaParameters<float>::carve(config, arena); });
  ssm::Random random(argc > 3 ? std::strtoull(argv[3], nullptr, 10) : 1);
  ssm::initialize(config, weights, random);

  using Block = ssm::MambaBlock<float>;
  Block block;
  ssm::OwnedWorkspace prepared(Block::prepared_bytes(cpu, config));
  ssm::Status status = block.prepare(cpu, config, weights, prepared.arena());
  if (!status) return fail(status.message().text);

  ssm::OwnedWorkspace state_memory;
  const auto state = state_memory.carve(
      [&](ssm::Arena& arena) { return ssm::MambaState<float>::carve(config, 1, arena); });
  ssm::set_zero(state);

  ssm::Owned<float, 1> w_in({kDModel}), w_out({kDModel});
  for (ssm::index_t i = 0; i < kDModel; ++i) {
    w_in.view()(i) = static_cast<float>(random.normal());
    w_out.view()(i) = static_cast<float>(random.normal() / kDModel);
  }
  ssm::Owned<float, 3> in({1, kBlock, kDModel}), out({1, kBlock, kDModel});
  ssm::OwnedWorkspace scratch(block.workspace_bytes(cpu, 1, kBlock));

  // The audio callback.
  const auto process = [&](float* samples, ssm::index_t n) {
    for (ssm::index_t t = 0; t < n; ++t) {
      for (ssm::index_t i = 0; i < kDModel; ++i) in.view()(0, t, i) = w_in.view()(i) * samples[t];
    }
    const ssm::Status ok = block.forward(cpu, in.view().slice(1, 0, n), out.view().slice(1, 0, n),
                                         state, scratch.arena());
    for (ssm::index_t t = 0; t < n; ++t) {
      float wet = 0;
      for (ssm::index_t i = 0; i < kDModel; ++i) wet += w_out.view()(i) * out.view()(0, t, i);
      samples[t] = 0.5f * samples[t] + 0.5f * std::tanh(wet);
    }
    return ok;
  };

  using Clock = std::chrono::steady_clock;
  const auto seconds = [](Clock::duration d) { return std::chrono::duration<double>(d).count(); };
  const auto total = static_cast<ssm::index_t>(wav.samples.size());
  double worst = 0;
  const Clock::time_point begin = Clock::now();
  for (ssm::index_t at = 0; at < total; at += kBlock) {
    const Clock::time_point start = Clock::now();
    status = process(wav.samples.data() + at, std::min(kBlock, total - at));
    worst = std::max(worst, seconds(Clock::now() - start));
    if (!status) return fail(status.message().text);
  }
  const double spent = seconds(Clock::now() - begin);

  const std::string written = write_wav(argv[2], wav);
  if (!written.empty()) return fail(written.c_str());
  const double rate = static_cast<double>(wav.sample_rate);
  const double length = static_cast<double>(total) / rate;
  const double deadline = static_cast<double>(kBlock) / rate;
  std::printf("%.2f s of sound in %.3f s: %.1f times real time\n", length, spent, length / spent);
  std::printf("slowest block of %lld samples: %.0f us of a deadline of %.0f us (%.1f %%)\n",
              static_cast<long long>(kBlock), 1e6 * worst, 1e6 * deadline, 100 * worst / deadline);
  return 0;
}
