// One Mamba block with freshly initialised weights: a whole sequence at once, then the same tokens
// one by one, with the same result.

#include <cmath>
#include <cstdio>

#include <ssm/owned.hpp>
#include <ssm/ssm.hpp>

namespace {

bool succeeded(const ssm::Status& status) {
  if (!status) std::fprintf(stderr, "error: %s\n", status.message().text);
  return status.is_ok();
}

}  // namespace

int main() {
  constexpr ssm::index_t kBatch = 2;
  constexpr ssm::index_t kLength = 50;
  const ssm::MambaConfig config = ssm::mamba_config(/*d_model=*/64);
  const ssm::Cpu cpu;

  // Weights: a list of views, here over memory of our own; a checkpoint's would do as well.
  ssm::OwnedWorkspace weight_memory;
  const auto weights = weight_memory.carve(
      [&](ssm::Arena& arena) { return ssm::MambaParameters<float>::carve(config, arena); });
  ssm::Random random(/*seed=*/1);
  ssm::initialize(config, weights, random);

  // The block checks the weights once and keeps what every call reuses.
  ssm::MambaBlock<float> block;
  const ssm::OwnedWorkspace constants(ssm::MambaBlock<float>::prepared_bytes(cpu, config));
  if (!succeeded(block.prepare(cpu, config, weights, constants.arena()))) return 1;

  // Scratch for the largest call to come. From here on nothing allocates.
  const ssm::OwnedWorkspace workspace(block.workspace_bytes(cpu, kBatch, kLength));

  ssm::Owned<float, 3> x({kBatch, kLength, config.d_model});
  ssm::Owned<float, 3> y({kBatch, kLength, config.d_model});
  for (std::size_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());

  // No state given: every sequence starts from zeros and its last state is dropped.
  if (!succeeded(block.forward(cpu, x.view(), y.view(), {}, {}, workspace.arena()))) return 1;

  // The same, token by token, carrying the state.
  ssm::Owned<float, 3> conv_state({kBatch, config.d_conv - 1, config.d_inner});
  ssm::Owned<float, 3> ssm_state({kBatch, config.d_state, config.d_inner});
  const ssm::MambaState<float> state{conv_state.view(), ssm_state.view().transpose(1, 2)};
  ssm::Owned<float, 2> y_t({kBatch, config.d_model});
  float largest_difference = 0;
  for (ssm::index_t t = 0; t < kLength; ++t) {
    const auto x_t = x.view().select(/*dim=*/1, t);
    if (!succeeded(block.step(cpu, x_t, y_t.view(), state, workspace.arena()))) return 1;
    for (ssm::index_t b = 0; b < kBatch; ++b) {
      for (ssm::index_t i = 0; i < config.d_model; ++i) {
        const float difference = std::abs(y_t.view()(b, i) - y.view()(b, t, i));
        if (!(difference <= largest_difference)) largest_difference = difference;
      }
    }
  }

  std::printf("%lld parameters, y(0, 0, 0) = %g\n",
              static_cast<long long>(ssm::parameter_count(config)),
              static_cast<double>(y.view()(0, 0, 0)));
  std::printf("forward and %lld steps differ by at most %g\n", static_cast<long long>(kLength),
              static_cast<double>(largest_difference));
  return largest_difference <= 1e-5f ? 0 : 1;
}
