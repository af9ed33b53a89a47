#pragma once

#include <algorithm>

#include "ssm/cpu/backend.hpp"
#include "ssm/ops/execution.hpp"

SSM_CPU_NAMESPACE_BEGIN

// 128 tokens: enough rows for the matrix products to run at full speed, few enough that the
// activations of a 1536-channel block (a chunk's x, z, dt and y) stay within two megabytes.
inline index_t time_chunk(const Cpu&, index_t length) noexcept {
  return std::min<index_t>(length, 128);
}

SSM_CPU_NAMESPACE_END
