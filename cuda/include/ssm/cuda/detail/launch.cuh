#pragma once

#include <cuda_runtime.h>

#include "ssm/core/check.hpp"
#include "ssm/cuda/context.hpp"

SSM_NAMESPACE_BEGIN
namespace detail {

inline Status cuda_status(const char* operation, cudaError_t error) noexcept {
  if (error == cudaSuccess) return Status::ok();
  return Status::error(ErrorCode::device_error, operation,
                       "launch failed:", cudaGetErrorString(error));
}

// Ok, or size_overflow if a grid of so many blocks cannot be launched.
inline Status check_grid(const char* operation, index_t blocks) noexcept {
  return Check(operation).at_most("grid", blocks, index_t{0x7fffffff}).status();
}

// A property of the current device. The runtime answers from host memory.
inline int device_attribute(cudaDeviceAttr attribute) noexcept {
  int device = 0;
  int value = 0;
  if (cudaGetDevice(&device) != cudaSuccess) return 0;
  if (cudaDeviceGetAttribute(&value, attribute, device) != cudaSuccess) return 0;
  return value;
}

// The CUDA version of the driver: 1000 major + 10 minor.
inline int driver_version() noexcept {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

// Whether the code of a kernel that this device runs was compiled for an architecture, major 10 +
// minor, or a newer one: a device also runs what was compiled for an older one.
template <class... Params>
bool compiled_for(void (*kernel)(Params...), int architecture) noexcept {
  cudaFuncAttributes attributes = {};
  return cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel)) == cudaSuccess &&
         attributes.ptxVersion >= architecture;
}

}  // namespace detail
SSM_NAMESPACE_END
