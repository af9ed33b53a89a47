#pragma once

#include <cuda_runtime.h>

#include <utility>

#include "ssm/cuda/context.hpp"

SSM_NAMESPACE_BEGIN

// Calls recorded once into a CUDA graph and played again: a whole training step, or a decoding
// step, costs one launch. What the calls read and write stays where it was recorded; new input is
// copied there before each launch. Movable, not copyable. Of the toolkit this header needs the
// runtime alone, so that plain C++ may include it too.
class CudaGraph {
 public:
  CudaGraph() = default;
  CudaGraph(const CudaGraph&) = delete;
  CudaGraph& operator=(const CudaGraph&) = delete;
  CudaGraph(CudaGraph&& other) noexcept : executable_(std::exchange(other.executable_, nullptr)) {}
  CudaGraph& operator=(CudaGraph&& other) noexcept {
    std::swap(executable_, other.executable_);
    return *this;
  }
  ~CudaGraph() {
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
  }

  bool recorded() const noexcept { return executable_ != nullptr; }

  // Records what queue() puts on cuda.stream, which must not be the default stream; nothing runs.
  // queue returns a Status, which is passed on. On error the graph is unchanged.
  template <class F>
  Status record(const Cuda& cuda, F&& queue) {
    cudaError_t error = cudaStreamBeginCapture(cuda.stream, cudaStreamCaptureModeThreadLocal);
    if (error != cudaSuccess) return status_of(error);
    Status status = queue();
    cudaGraph_t graph = nullptr;
    error = cudaStreamEndCapture(cuda.stream, &graph);
    if (!status) {
      if (graph != nullptr) cudaGraphDestroy(graph);
      return status;
    }
    cudaGraphExec_t executable = nullptr;
    if (error == cudaSuccess) error = cudaGraphInstantiate(&executable, graph, 0);
    if (graph != nullptr) cudaGraphDestroy(graph);
    if (error != cudaSuccess) return status_of(error);
    if (executable_ != nullptr) cudaGraphExecDestroy(executable_);
    executable_ = executable;
    return status;
  }

  // Queues the recorded calls on cuda.stream.
  Status launch(const Cuda& cuda) const noexcept {
    if (executable_ == nullptr) {
      return Status::error(ErrorCode::invalid_argument, "CudaGraph::launch", "graph",
                           "is not recorded");
    }
    return status_of(cudaGraphLaunch(executable_, cuda.stream));
  }

 private:
  static Status status_of(cudaError_t error) noexcept {
    if (error == cudaSuccess) return Status::ok();
    return Status::error(ErrorCode::device_error, "CudaGraph",
                         "failed:", cudaGetErrorString(error));
  }

  cudaGraphExec_t executable_ = nullptr;
};

SSM_NAMESPACE_END
