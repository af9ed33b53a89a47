#pragma once

#include "ssm/core/check.hpp"
#include "ssm/ops/selective_scan.hpp"

SSM_NAMESPACE_BEGIN

// The dimensions and options of a Mamba-1 block. Every dimension is free; mamba_config(d_model)
// fills in the published defaults.
struct MambaConfig {
  index_t d_model = 0;  // width of the residual stream
  index_t d_inner = 0;  // channels of the convolution and the scan, 2 d_model by default
  index_t d_state = 16;
  index_t d_conv = 4;        // taps of the convolution
  index_t dt_rank = 0;       // rank of the projection that makes dt, ceil(d_model / 16) by default
  bool bias = false;         // of in_proj and out_proj
  bool conv_bias = true;     // of conv1d
  bool gate = true;          // without it z is left out: in_proj makes x alone, y is not gated
  bool dt_b_c_norm = false;  // weight-free RMS norms of dt, B and C (Falcon-Mamba)
  double dt_b_c_eps = 1e-6;  // their eps
  BRule b_rule = BRule::euler;  // what released checkpoints expect
};

// Rows of in_proj: x, and z where there is a gate.
inline index_t in_proj_rows(const MambaConfig& c) noexcept {
  return saturating_mul(c.gate ? 2 : 1, c.d_inner);
}

inline MambaConfig mamba_config(index_t d_model) noexcept {
  MambaConfig config;
  config.d_model = d_model;
  config.d_inner = 2 * d_model;
  config.dt_rank = (d_model + 15) / 16;
  return config;
}

// Every dimension in [1, 2^31], eps >= 0.
inline Status validate(const MambaConfig& c) noexcept {
  constexpr index_t kLargest = index_t{1} << 31;
  Check check("MambaConfig");
  const auto dimension = [&](const char* name, index_t value) {
    check.at_least(name, value, index_t{1}).at_most(name, value, kLargest);
  };
  dimension("d_model", c.d_model);
  dimension("d_inner", c.d_inner);
  dimension("d_state", c.d_state);
  dimension("d_conv", c.d_conv);
  dimension("dt_rank", c.dt_rank);
  check.at_least("dt_b_c_eps", c.dt_b_c_eps, 0.0);
  return check.status();
}

SSM_NAMESPACE_END
