#pragma once

#include <cmath>
#include <cstdint>

#include "ssm/core/config.hpp"

SSM_NAMESPACE_BEGIN

// A small counter-based generator (SplitMix64, Steele, Lea and Flood 2014): the same numbers on
// every platform, one word of state, saved and restored by copying. Not for cryptography.
class Random {
 public:
  SSM_HOST_DEVICE explicit Random(std::uint64_t seed) noexcept : state_(seed) {}

  // Random(r.state()) goes on as r does.
  SSM_HOST_DEVICE std::uint64_t state() const noexcept { return state_; }

  SSM_HOST_DEVICE std::uint64_t next() noexcept {
    state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }

  // Uniform on [0, 1), 53 bits.
  SSM_HOST_DEVICE double uniform() noexcept { return static_cast<double>(next() >> 11) * 0x1p-53; }
  double uniform(double low, double high) noexcept { return low + (high - low) * uniform(); }

  // Uniform on {0, …, count - 1}, count >= 1.
  index_t below(index_t count) noexcept {
    return static_cast<index_t>(uniform() * static_cast<double>(count));
  }

  // Standard normal (Box and Muller 1958, one of the pair).
  double normal() noexcept {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(6.283185307179586477 * uniform());
  }

 private:
  std::uint64_t state_;
};

SSM_NAMESPACE_END
