#pragma once

#include <cstdlib>

namespace ssm_test {

// What must hold for every input; libFuzzer keeps the input for which it does not.
inline void require(bool condition) {
  if (!condition) std::abort();
}

}  // namespace ssm_test
