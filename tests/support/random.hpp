#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace ssm_test {

// The seed of every random test of this process, printed once; SSM_TEST_SEED=<n> repeats a run.
inline std::uint64_t test_seed() {
  static const std::uint64_t seed = [] {
    const char* const text = std::getenv("SSM_TEST_SEED");
    const std::uint64_t value = text == nullptr ? 20231201u : std::strtoull(text, nullptr, 10);
    std::printf("SSM_TEST_SEED=%llu\n", static_cast<unsigned long long>(value));
    return value;
  }();
  return seed;
}

// A stream of numbers that is the same on every platform (the standard's distributions are not).
class Random {
 public:
  explicit Random(std::uint64_t stream = 0) : engine_(test_seed() + 0x9e3779b97f4a7c15u * stream) {}

  // Uniform in [low, high).
  double uniform(double low, double high) {
    return low + (high - low) * (static_cast<double>(engine_() >> 11) * 0x1p-53);
  }
  // Uniform in {low, …, high}.
  std::int64_t integer(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(engine_() % static_cast<std::uint64_t>(high - low + 1));
  }

 private:
  std::mt19937_64 engine_;
};

}  // namespace ssm_test
