#pragma once

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

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

// How a DeviceTarget runs a call: on a non-blocking stream, or captured into a graph that is then
// launched (a capture forbids synchronisation and allocation).
enum class Execution { stream, graph };

// Target (support/target.hpp) of the CUDA backend: mirrors whole test allocations, guard bands and
// poison included.
template <Execution kExecution = Execution::stream>
class DeviceTarget {
 public:
  static constexpr bool kChecksValues = false;

  DeviceTarget() {
    cuda_check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "stream");
    cuda_check(cudaMalloc(&workspace_, kWorkspace), "workspace");
    cuda_check(cudaMemset(workspace_, kPoison, kWorkspace), "poison");
  }
  DeviceTarget(const DeviceTarget&) = delete;
  DeviceTarget& operator=(const DeviceTarget&) = delete;
  ~DeviceTarget() {
    for (const auto& mirror : mirrors_) cuda_check(cudaFree(mirror.second.device), "free");
    cuda_check(cudaFree(workspace_), "free");
    cuda_check(cudaStreamDestroy(stream_), "stream");
  }

  ssm::Cuda backend() {
    cuda_check(cudaDeviceSynchronize(), "copies");
    if (kExecution == Execution::graph) {
      cuda_check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeGlobal), "capture");
    }
    ssm::Cuda cuda;
    cuda.stream = stream_;
    cuda.workspace = ssm::Arena(workspace_, kWorkspace);
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
  static constexpr std::size_t kWorkspace = std::size_t{1} << 20;

  const Mirror& mirror_of(const TestMemory::Block& block) {
    const auto found = mirrors_.find(block.begin);
    if (found != mirrors_.end()) return found->second;
    Mirror mirror{nullptr, block.bytes};
    cuda_check(cudaMalloc(reinterpret_cast<void**>(&mirror.device), mirror.bytes), "mirror");
    cuda_check(cudaMemcpy(mirror.device, block.begin, mirror.bytes, cudaMemcpyHostToDevice),
               "mirror");
    return mirrors_.emplace(block.begin, mirror).first->second;
  }

  cudaStream_t stream_ = nullptr;
  void* workspace_ = nullptr;
  std::map<unsigned char*, Mirror> mirrors_;
};

}  // namespace ssm_test
