#pragma once

#include <cmath>

#include "ssm/core/check.hpp"

SSM_NAMESPACE_BEGIN

// A learning rate that rises linearly from 0 over `warmup` steps and then stays at `peak`, or falls
// along half a cosine to `floor` at step `total` and stays there.
struct LearningRate {
  enum class Shape { constant, cosine };

  double peak = 1e-3;             // > 0
  Shape shape = Shape::constant;  //
  index_t warmup = 0;             // steps, >= 0
  index_t total = 0;              // steps, > warmup; cosine only
  double floor = 0;               // [0, peak]; cosine only

  // At step k = 1, 2, …: peak k / warmup while that is below peak; the last warm-up step has peak.
  double at(index_t step) const noexcept {
    if (step < warmup) return peak * static_cast<double>(step) / static_cast<double>(warmup);
    if (shape == Shape::constant) return peak;
    if (step >= total) return floor;
    const double progress =
        static_cast<double>(step - warmup) / static_cast<double>(total - warmup);
    return floor + (peak - floor) * 0.5 * (1 + std::cos(3.14159265358979323846 * progress));
  }
};

inline Status validate(const LearningRate& r) noexcept {
  Check check("LearningRate");
  check.greater("peak", r.peak, 0.0).at_least("warmup", r.warmup, index_t{0});
  if (r.shape == LearningRate::Shape::cosine) {
    check.greater("total", r.total, r.warmup)
        .at_least("floor", r.floor, 0.0)
        .at_most("floor", r.floor, r.peak);
  }
  return check.status();
}

SSM_NAMESPACE_END
