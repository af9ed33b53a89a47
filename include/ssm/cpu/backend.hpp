#pragma once

#include "ssm/core/isa.hpp"
#include "ssm/core/parallel.hpp"
#include "ssm/cpu/blas.hpp"

SSM_CPU_NAMESPACE_BEGIN

// The production CPU backend: SIMD at the width the compiler was told to use, no allocation, and
// threads only through `parallel`. Results are the same bits for any number of threads. `blas`, if
// given, computes the large matrix products of f32 and f64: see Blas for what it changes.
struct Cpu {
  Parallel parallel = {};
  Blas blas = {};
};

SSM_CPU_NAMESPACE_END
