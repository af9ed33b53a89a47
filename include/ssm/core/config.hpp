#pragma once

#include <cstddef>
#include <cstdint>

// SSM_BOUNDS_CHECK=1 makes View::operator() assert its indices. It changes generated code, so it
// changes the inline namespace too: translation units with and without it link together safely.
#ifndef SSM_BOUNDS_CHECK
#define SSM_BOUNDS_CHECK 0
#endif

#if SSM_BOUNDS_CHECK
#define SSM_ABI_NAMESPACE v0_checked
#else
#define SSM_ABI_NAMESPACE v0
#endif

#define SSM_NAMESPACE_BEGIN \
  namespace ssm {           \
  inline namespace SSM_ABI_NAMESPACE {
#define SSM_NAMESPACE_END \
  }                       \
  }

#if defined(__CUDACC__)
#define SSM_HOST_DEVICE __host__ __device__
#else
#define SSM_HOST_DEVICE
#endif

SSM_NAMESPACE_BEGIN

// Every extent, stride and index. Signed 64-bit: activations pass 2^31 elements in practice, and
// negative values must be representable to be reported.
using index_t = std::int64_t;

SSM_NAMESPACE_END
