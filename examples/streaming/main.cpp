// An endless signal through a Mamba block, one sample at a time: the memory held and the time per
// sample are the same for the first sample and the millionth.
//
//   streaming [samples]

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include <ssm/owned.hpp>
#include <ssm/ssm.hpp>

namespace {

// Everything the stream keeps.
struct Stream {
  ssm::MambaParameters<float> weights;
  ssm::MambaState<float> state;
  ssm::View<float, 2> x;  // (1, d_model): the sample that came in
  ssm::View<float, 2> y;  // (1, d_model): the one that goes out

  static Stream carve(const ssm::MambaConfig& config, ssm::Arena& arena) {
    Stream s;
    s.weights = ssm::MambaParameters<float>::carve(config, arena);
    s.state = ssm::MambaState<float>::carve(config, /*sequences=*/1, arena);
    s.x = arena.view<float, 2>({1, config.d_model});
    s.y = arena.view<float, 2>({1, config.d_model});
    return s;
  }
};

bool succeeded(const ssm::Status& status) {
  if (!status) std::fprintf(stderr, "error: %s\n", status.message().text);
  return status.is_ok();
}

// The signal: d_model sensors, each a sine of its own period, for as long as anybody asks.
void read_sensors(long long t, const ssm::View<float, 2>& x) {
  for (ssm::index_t i = 0; i < x.extent(1); ++i) {
    x(0, i) = static_cast<float>(std::sin(static_cast<double>(t) / static_cast<double>(5 + i)));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const long long samples = argc > 1 ? std::atoll(argv[1]) : 100000;
  if (samples < 1) {
    std::fprintf(stderr, "usage: streaming [samples], samples >= 1\n");
    return 2;
  }
  const ssm::MambaConfig config = ssm::mamba_config(/*d_model=*/16);
  const ssm::Cpu cpu;

  ssm::OwnedWorkspace memory;
  const auto stream = memory.carve([&](ssm::Arena& arena) { return Stream::carve(config, arena); });
  ssm::Random random(/*seed=*/1);
  ssm::initialize(config, stream.weights, random);
  set_zero(stream.state);

  ssm::MambaBlock<float> block;
  const ssm::OwnedWorkspace constants(ssm::MambaBlock<float>::prepared_bytes(cpu, config));
  if (!succeeded(block.prepare(cpu, config, stream.weights, constants.arena()))) return 1;
  const ssm::OwnedWorkspace workspace(block.workspace_bytes(cpu, /*batch=*/1, /*length=*/1));
  std::printf("holding %zu bytes from now on\n",
              memory.size() + constants.size() + workspace.size());

  // Nothing below allocates.
  using Clock = std::chrono::steady_clock;
  const Clock::time_point start = Clock::now();
  const long long report = samples < 4 ? 1 : samples / 4;
  for (long long t = 0; t < samples; ++t) {
    read_sensors(t, stream.x);
    if (!succeeded(block.step(cpu, stream.x, stream.y, stream.state, workspace.arena()))) return 1;
    if ((t + 1) % report == 0) {
      const std::chrono::duration<double> seconds = Clock::now() - start;
      std::printf("sample %lld: y[0] = %+.6f, %.0f samples/s so far\n", t + 1,
                  static_cast<double>(stream.y(0, 0)),
                  static_cast<double>(t + 1) / seconds.count());
    }
    if (!std::isfinite(stream.y(0, 0))) return 1;
  }
  return 0;
}
