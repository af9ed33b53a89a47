#pragma once

#include "ssm/block/mamba_config.hpp"
#include "ssm/core/arena.hpp"
#include "ssm/core/dtype.hpp"

SSM_NAMESPACE_BEGIN

// What a block remembers between calls, one row per sequence. Zeros are the state before the first
// token. Copying the two arrays is a snapshot; copying them back is a rollback.
template <class T>
struct MambaState {
  View<accum_t<T>, 3> conv;  // (sequences, d_conv - 1, d_inner): the last inputs, oldest first
  View<accum_t<T>, 3> ssm;   // (sequences, d_inner, d_state)

  bool present() const noexcept { return conv.present() || ssm.present(); }

  // Uninitialised; `ssm` has channels contiguous in memory, which backends are fastest on.
  static MambaState carve(const MambaConfig& c, index_t sequences, Arena& arena) noexcept {
    MambaState state;
    state.conv = arena.view<accum_t<T>, 3>({sequences, c.d_conv - 1, c.d_inner});
    state.ssm = arena.view<accum_t<T>, 3>({sequences, c.d_state, c.d_inner}).transpose(1, 2);
    return state;
  }

  // The rows [begin, begin + count).
  MambaState rows(index_t begin, index_t count) const noexcept {
    return {conv.slice(0, begin, count), ssm.slice(0, begin, count)};
  }
};

template <class T>
Status check_shapes(const MambaConfig& c, const MambaState<T>& state, index_t sequences) noexcept {
  return Check("MambaState")
      .shape("conv", state.conv, {sequences, c.d_conv - 1, c.d_inner})
      .shape("ssm", state.ssm, {sequences, c.d_inner, c.d_state})
      .status();
}

// The state before the first token, in host memory.
template <class T>
void set_zero(const MambaState<T>& s) noexcept {
  const auto zero = [](const View<accum_t<T>, 3>& v) {
    for (index_t i = 0; i < v.extent(0); ++i) {
      for (index_t j = 0; j < v.extent(1); ++j) {
        for (index_t k = 0; k < v.extent(2); ++k) v(i, j, k) = accum_t<T>(0);
      }
    }
  };
  zero(s.conv);
  zero(s.ssm);
}

SSM_NAMESPACE_END
