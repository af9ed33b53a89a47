#pragma once

#include "ssm/core/isa.hpp"
#include "ssm/core/parallel.hpp"

SSM_CPU_NAMESPACE_BEGIN

// The production CPU backend: SIMD at the width the compiler was told to use, no allocation, and
// threads only through `parallel`. Results are the same bits for any number of threads.
struct Cpu {
  Parallel parallel = {};
};

SSM_CPU_NAMESPACE_END
