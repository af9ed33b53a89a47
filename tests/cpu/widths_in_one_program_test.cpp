#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <vector>

// Files compiled for different instruction sets link into one program, and each keeps its own code:
// nothing of one is taken for the other's.

#define SSM_PROBE_ENTRY(set) std::vector<float> probe_##set(int& width);
#include "width_probes.inc"
#undef SSM_PROBE_ENTRY

namespace {

TEST(InstructionSets, KeepTheirOwnCodeInOneProgram) {
  std::vector<std::vector<float>> results;
  std::set<int> widths;
  const auto add = [&](std::vector<float> (*probe)(int&)) {
    int width = 0;
    results.push_back(probe(width));
    EXPECT_TRUE(widths.insert(width).second) << "two sets ran the same code, width " << width;
  };
#define SSM_PROBE_ENTRY(set) add(&probe_##set);
#include "width_probes.inc"
#undef SSM_PROBE_ENTRY
  ASSERT_FALSE(results.empty());
  ASSERT_FALSE(results[0].empty());
  for (const std::vector<float>& result : results) {
    ASSERT_EQ(result.size(), results[0].size());
    for (std::size_t i = 0; i < result.size(); ++i) {
      ASSERT_TRUE(std::abs(result[i] - results[0][i]) <= 1e-5f * (1 + std::abs(results[0][i])));
    }
  }
}

}  // namespace
