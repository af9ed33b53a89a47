// What firmware with a tiny model compiles: two calls, static storage, nothing else.
#include "ssm/cpu/fixed_mamba_block.hpp"

namespace {

using Block = ssm::FixedMambaBlock<16>;
Block block;
Block::State state;

struct Weights {
  ssm::View<const float, 2> in_proj_weight, conv1d_weight, x_proj_weight, dt_proj_weight, A_log,
      out_proj_weight;
  ssm::View<const float, 1> in_proj_bias, conv1d_bias, dt_proj_bias, D, out_proj_bias;
};

}  // namespace

extern "C" int microcontroller_load(const Weights& weights) {
  return block.load(weights).is_ok() ? 0 : 1;
}
extern "C" void microcontroller_step(const float* x, float* y) { block.step(x, y, state); }
