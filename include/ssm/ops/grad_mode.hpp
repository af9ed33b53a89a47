#pragma once

#include "ssm/core/view.hpp"

SSM_NAMESPACE_BEGIN

// What a backward operation does with the gradients it computes. An operation has one mode for its
// inputs and one for its parameters; within a mode, an absent View is a gradient that nobody wants.
enum class GradMode {
  ignore,      // the views are not looked at and the work for them is left out
  overwrite,   // gradient <- value
  accumulate,  // gradient <- gradient + value
};

template <class T, int Rank>
constexpr bool wanted(const View<T, Rank>& gradient, GradMode mode) noexcept {
  return mode != GradMode::ignore && gradient.present();
}

SSM_NAMESPACE_END
