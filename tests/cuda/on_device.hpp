#pragma once

#include "block/block_under_test.hpp"
#include "cuda/device_target.hpp"

namespace ssm_test {

// On (block/block_under_test.hpp) of the CUDA backend. Programs that use it link
// pinned_memory.cpp, so that the arrays of a suite are reached by host and device under one
// address.
template <class Scalar, Products kProducts = Products::blas>
struct OnDevice {
  using Backend = ssm::Cuda;
  using T = Scalar;
  template <class Other>
  using With = OnDevice<Other, kProducts>;

  // The same stream and workspace for all, kept until the program ends.
  static ssm::Cuda backend() {
    static const ssm::Cuda cuda = [] {
      constexpr std::size_t kWorkspace = std::size_t{4} << 20;
      ssm::Cuda made;
      void* workspace = nullptr;
      cuda_check(cudaStreamCreateWithFlags(&made.stream, cudaStreamNonBlocking), "stream");
      cuda_check(cudaMalloc(&workspace, kWorkspace), "workspace");
      cuda_check(cudaMemset(workspace, kPoison, kWorkspace), "poison");
      cuda_check(cudaDeviceSynchronize(), "poison");
      made.workspace = ssm::Arena(workspace, kWorkspace);
      if (kProducts == Products::blas) made.blas = blas_handle();
      return made;
    }();
    finish_calls = [] { cuda_check(cudaDeviceSynchronize(), "kernels"); };
    return cuda;
  }
};

}  // namespace ssm_test
