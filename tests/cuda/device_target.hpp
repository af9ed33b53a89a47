#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

#include "ssm/cuda/context.hpp"
#include "support/tensor.hpp"

namespace ssm_test {

// Stops the test program: a failed runtime call leaves nothing to compare.
inline void cuda_check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::abort();
}

// One cuBLASLt handle for all tests.
inline cublasLtHandle_t blas_handle() {
  static const cublasLtHandle_t handle = [] {
    cublasLtHandle_t made = nullptr;
    if (cublasLtCreate(&made) != CUBLAS_STATUS_SUCCESS) std::abort();
    return made;
  }();
  return handle;
}

// How a DeviceTarget runs a call: on a non-blocking stream, or captured into a graph that is then
// launched (a capture forbids synchronisation and allocation).
enum class Execution { stream, graph };

// With a cuBLASLt handle, or with this library's own products.
enum class Products { blas, own };

// Target (support/target.hpp) of the CUDA backend: mirrors whole test allocations, guard bands and
// poison included.
template <Execution kExecution = Execution::stream, Products kProducts = Products::blas>
class DeviceTarget {
 public:
  static constexpr bool kChecksValues = false;

  DeviceTarget() {
    cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
    cuda_check(cudaMalloc(&workspace_, kWorkspace), "workspace");
    cuda_check(cudaMemset(workspace_, kPoison, kWorkspace), "poison");
    blas_handle();  // not during a capture
  }
  DeviceTarget(const DeviceTarget&) = delete;
  DeviceTarget& operator=(const DeviceTarget&) = delete;
  ~DeviceTarget() {
    if (capturing_) {  // nobody called finish()
      cudaGraph_t graph = nullptr;
      cuda_check(cudaStreamEndCapture(stream_, &graph), "end of capture");
      cuda_check(cudaGraphDestroy(graph), "graph");
    }
    for (const auto& mirror : mirrors_) cuda_check(cudaFree(mirror.second.device), "free");
    cuda_check(cudaFree(workspace_), "free");
    cuda_check(cudaStreamDestroy(stream_), "stream");
  }

  ssm::Cuda backend() {
    if (!capturing_) cuda_check(cudaDeviceSynchronize(), "copies");
    if (kExecution == Execution::graph && !capturing_) {
      cuda_check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), "capture");
      capturing_ = true;
    }
    ssm::Cuda cuda;
    cuda.stream = stream_;
    cuda.workspace = ssm::Arena(workspace_, kWorkspace);
    if (kProducts == Products::blas) cuda.blas = blas_handle();
    return cuda;
  }

  template <class T, int Rank>
  ssm::View<T, Rank> map(const ssm::View<T, Rank>& view) {
    if (view.data() == nullptr) return view;
    const TestMemory::Block block = TestMemory::find(view.data());
    // A pointer into no test allocation stays as it is: only calls that must be refused have one.
    if (block.begin == nullptr) return view;
    const Mirror& mirror = mirror_of(block);
    const auto* const from = reinterpret_cast<const unsigned char*>(view.data());
    ssm::Extents<Rank> extents{};
    ssm::Extents<Rank> strides{};
    for (int i = 0; i < Rank; ++i) {
      extents[i] = view.extent(i);
      strides[i] = view.stride(i);
    }
    return ssm::View<T, Rank>(reinterpret_cast<T*>(mirror.device + (from - block.begin)), extents,
                              strides);
  }

  void finish() {
    if (kExecution == Execution::graph) {
      cudaGraph_t graph = nullptr;
      cudaGraphExec_t executable = nullptr;
      cuda_check(cudaStreamEndCapture(stream_, &graph), "end of capture");
      capturing_ = false;
      cuda_check(cudaGraphInstantiate(&executable, graph, 0), "graph");
      cuda_check(cudaGraphLaunch(executable, stream_), "replay");
      cuda_check(cudaStreamSynchronize(stream_), "replay");
      cuda_check(cudaGraphExecDestroy(executable), "graph");
      cuda_check(cudaGraphDestroy(graph), "graph");
    }
    cuda_check(cudaStreamSynchronize(stream_), "kernels");
    cuda_check(cudaGetLastError(), "kernels");
    for (const auto& mirror : mirrors_) {
      cuda_check(cudaMemcpy(mirror.first, mirror.second.device, mirror.second.bytes,
                            cudaMemcpyDeviceToHost),
                 "copy back");
    }
  }

  template <class Args>
  static bool supports(const Args&) {
    return true;
  }

 private:
  struct Mirror {
    unsigned char* device;
    std::size_t bytes;
  };
  static constexpr std::size_t kWorkspace = std::size_t{4} << 20;

  const Mirror& mirror_of(const TestMemory::Block& block) {
    const auto found = mirrors_.find(block.begin);
    if (found != mirrors_.end()) return found->second;
    Mirror mirror{nullptr, block.bytes};
    // A mirror may be asked for after the capture has begun; the test, not the call, allocates.
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cuda_check(cudaThreadExchangeStreamCaptureMode(&mode), "capture mode");
    cuda_check(cudaMalloc(reinterpret_cast<void**>(&mirror.device), mirror.bytes), "mirror");
    cuda_check(cudaMemcpy(mirror.device, block.begin, mirror.bytes, cudaMemcpyHostToDevice),
               "mirror");
    cuda_check(cudaThreadExchangeStreamCaptureMode(&mode), "capture mode");
    return mirrors_.emplace(block.begin, mirror).first->second;
  }

  cudaStream_t stream_ = nullptr;
  bool capturing_ = false;
  void* workspace_ = nullptr;
  std::map<unsigned char*, Mirror> mirrors_;
};

}  // namespace ssm_test
