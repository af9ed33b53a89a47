#pragma once

#include "ssm/cuda/detail/launch.cuh"

// Launches that overlap with the end of the kernel before them (programmatic dependent launch, on
// sm_90 and later with CUDA 12.3 and later; elsewhere an ordinary launch). Such a kernel calls
// wait_for_kernel_before() in every thread before it touches anything that an earlier kernel writes
// or reads; what it does until then, such as fetching weights, costs no time. It calls
// allow_kernel_after() first of all, or after its wait where the kernel after fetches nothing.

SSM_NAMESPACE_BEGIN
namespace detail {

__device__ __forceinline__ void allow_kernel_after() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}

// All kernels before this one have ended, and what they wrote is there.
__device__ __forceinline__ void wait_for_kernel_before() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

template <class... Params, class... Args>
cudaError_t launch_dependent(const Cuda& cuda, void (*kernel)(Params...), index_t blocks,
                             dim3 threads, std::size_t shared_bytes, const Args&... args) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = cuda.stream;
#if CUDART_VERSION >= 12030
  cudaLaunchAttribute overlap = {};
  if (device_attribute(cudaDevAttrComputeCapabilityMajor) >= 9) {
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.attrs = &overlap;
    config.numAttrs = 1;
  }
#endif
  return cudaLaunchKernelEx(&config, kernel, Params(args)...);
}

}  // namespace detail
SSM_NAMESPACE_END
