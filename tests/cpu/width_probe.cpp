#include <vector>

#include "ssm/block/mamba_block.hpp"
#include "ssm/cpu/selective_scan.hpp"

// Compiled once for each instruction set, under the name SSM_PROBE, and linked into one program.
std::vector<float> SSM_PROBE(int& width);
std::vector<float> SSM_PROBE(int& width) {
  using ssm::index_t;
  constexpr index_t kLength = 70;
  constexpr index_t kChannels = 40;
  constexpr index_t kState = 16;
  width = ssm::detail::Vec<float>::kWidth;
  const auto ramp = [](index_t count, float low, float high) {
    std::vector<float> v(static_cast<std::size_t>(count));
    for (std::size_t i = 0; i < v.size(); ++i) {
      v[i] = low + (high - low) * static_cast<float>(i * 37 % 101) / 100.0f;
    }
    return v;
  };
  const std::vector<float> x = ramp(kLength * kChannels, -1, 1);
  const std::vector<float> A = ramp(kChannels * kState, -2, -0.5f);
  const std::vector<float> B = ramp(kLength * kState, -1, 1);
  std::vector<float> y(x.size());
  ssm::SelectiveScanArgs<float> a;
  a.x = ssm::View<const float, 3>(x.data(), {1, kLength, kChannels});
  a.dt = a.x;
  a.z = a.x;
  a.A = ssm::View<const float, 2>(A.data(), {kChannels, kState});
  a.B = ssm::View<const float, 4>(B.data(), {1, kLength, 1, kState});
  a.C = a.B;
  a.y = ssm::View<float, 3>(y.data(), {1, kLength, kChannels});
  if (!ssm::selective_scan(ssm::Cpu{}, a)) y.clear();
  return y;
}
