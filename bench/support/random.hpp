#pragma once

#include <cstdint>
#include <vector>

// Inputs for benchmarks: uniform values, the same in every run.
namespace ssm_bench {

template <class T>
std::vector<T> uniform(std::int64_t count, float low, float high, std::uint64_t seed = 1) {
  std::vector<T> values(static_cast<std::size_t>(count));
  std::uint64_t state = seed * 0x9e3779b97f4a7c15u;
  for (T& v : values) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    v = T(low + (high - low) * static_cast<float>(state >> 40) * 0x1p-24f);
  }
  return values;
}

}  // namespace ssm_bench
