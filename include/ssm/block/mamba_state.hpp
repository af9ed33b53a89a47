#pragma once

#include "ssm/block/mamba_config.hpp"
#include "ssm/core/arena.hpp"
#include "ssm/core/dtype.hpp"
#include "ssm/fwd.hpp"
#include "ssm/ops/convert.hpp"

SSM_NAMESPACE_BEGIN

// What a block remembers between calls, one row per sequence. Zeros are the state before the first
// token. Copying the two arrays is a snapshot; copying them back is a rollback.
//
// H is how the state is stored: accum_t<T> everywhere; bf16 only in steps of a backend that has
// fuses_mamba_step for it (Cuda, 16-bit T), where it halves what decoding many rows reads. Every
// step then rounds the state to 8 bits: what a step adds to a state that decays by less than one
// part in 2^9 can be lost.
template <class T, class H>
struct MambaState {
  View<H, 3> conv;  // (sequences, d_conv - 1, d_inner): the last inputs, oldest first
  View<H, 3> ssm;   // (sequences, d_inner, d_state)

  bool present() const noexcept { return conv.present() || ssm.present(); }

  // Uninitialised; `ssm` has channels contiguous in memory, which backends are fastest on.
  static MambaState carve(const MambaConfig& c, index_t sequences, Arena& arena) noexcept {
    MambaState state;
    state.conv = arena.view<H, 3>({sequences, c.d_conv - 1, c.d_inner});
    state.ssm = arena.view<H, 3>({sequences, c.d_state, c.d_inner}).transpose(1, 2);
    return state;
  }

  // The rows [begin, begin + count).
  MambaState rows(index_t begin, index_t count) const noexcept {
    return {conv.slice(0, begin, count), ssm.slice(0, begin, count)};
  }
};

template <class T, class H>
Status check_shapes(const MambaConfig& c, const MambaState<T, H>& state,
                    index_t sequences) noexcept {
  return Check("MambaState")
      .shape("conv", state.conv, {sequences, c.d_conv - 1, c.d_inner})
      .shape("ssm", state.ssm, {sequences, c.d_inner, c.d_state})
      .status();
}

// The state before the first token, in host memory.
template <class T, class H>
void set_zero(const MambaState<T, H>& s) noexcept {
  const auto zero = [](const View<H, 3>& v) {
    for (index_t i = 0; i < v.extent(0); ++i) {
      for (index_t j = 0; j < v.extent(1); ++j) {
        for (index_t k = 0; k < v.extent(2); ++k) v(i, j, k) = H(0);
      }
    }
  };
  zero(s.conv);
  zero(s.ssm);
}

// to = from, stored in another way: of a state after prefill, for steps on 16 bits, and back.
template <class Backend, class T, class From, class To>
Status convert(const Backend& backend, const MambaState<T, From>& from,
               const MambaState<T, To>& to) noexcept {
  const auto one = [](const auto& v) {
    using Element = typename std::decay_t<decltype(v)>::element_type;
    return View<Element, 4>(v.data(), {1, v.extent(0), v.extent(1), v.extent(2)},
                            {0, v.stride(0), v.stride(1), v.stride(2)});
  };
  const Status status = convert(backend, ConvertArgs<From, To>{one(from.conv), one(to.conv)});
  return status ? convert(backend, ConvertArgs<From, To>{one(from.ssm), one(to.ssm)}) : status;
}

SSM_NAMESPACE_END
