#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "ssm/ops/grad_mode.hpp"
#include "support/suite.hpp"

namespace ssm_test {

// A gradient that a call may write: an array that starts poisoned, or, to be accumulated to, at
// numbers of its own.
template <class T, int Rank>
class GradientArray {
 public:
  GradientArray() = default;
  GradientArray(const ssm::Extents<Rank>& extents, Layout layout, ssm::GradMode mode_,
                Random& random)
      : mode(mode_), tensor(extents, layout) {
    if (mode == ssm::GradMode::accumulate) tensor.fill(random, -1, 1);
    before_ = complex_values(tensor.view());
  }

  ssm::View<T, Rank> view() const { return tensor.view(); }

  // The mode applied to `wanted`, within `tolerance` of it in the Euclidean norm. NaN in `wanted`
  // means: not written. Nothing outside the elements may be written either.
  void expect(const char* name, const std::vector<oracle::Complex>& wanted,
              long double tolerance) const {
    if (!tensor.present()) return;
    EXPECT_TRUE(tensor.guards_intact()) << name;
    const std::vector<oracle::Complex> found = complex_values(tensor.view());
    ASSERT_EQ(found.size(), wanted.size()) << name;
    std::vector<oracle::Complex> here, there;
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (mode == ssm::GradMode::ignore || std::isnan(wanted[i].real())) {
        EXPECT_TRUE(same(found[i], before_[i])) << name << " " << i << " was written";
        continue;
      }
      here.push_back(found[i]);
      there.push_back(mode == ssm::GradMode::accumulate ? before_[i] + wanted[i] : wanted[i]);
    }
    const long double error = norm_relative_error(here, there);
    EXPECT_TRUE(error <= tolerance) << name << ": " << error << " above " << tolerance;
  }
  void expect(const char* name, const std::vector<oracle::Real>& wanted,
              long double tolerance) const {
    expect(name, std::vector<oracle::Complex>(wanted.begin(), wanted.end()), tolerance);
  }

  ssm::GradMode mode = ssm::GradMode::overwrite;
  Tensor<T, Rank> tensor;

 private:
  static bool same(const oracle::Complex& a, const oracle::Complex& b) {
    return (std::isnan(a.real()) && std::isnan(b.real())) || a == b;
  }
  std::vector<oracle::Complex> before_;
};

// The modes of inputs and parameters, in all combinations.
inline constexpr ssm::GradMode kGradModes[] = {ssm::GradMode::ignore, ssm::GradMode::overwrite,
                                               ssm::GradMode::accumulate};

}  // namespace ssm_test
