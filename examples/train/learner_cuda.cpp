#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <utility>

#include "learner_on.hpp"

#include <ssm/cuda/adamw.hpp>
#include <ssm/cuda/causal_conv1d.hpp>
#include <ssm/cuda/causal_conv1d_backward.hpp>
#include <ssm/cuda/cross_entropy.hpp>
#include <ssm/cuda/embedding.hpp>
#include <ssm/cuda/embedding_backward.hpp>
#include <ssm/cuda/graph.cuh>
#include <ssm/cuda/linear.hpp>
#include <ssm/cuda/linear_backward.hpp>
#include <ssm/cuda/residual_add.hpp>
#include <ssm/cuda/rms_norm.hpp>
#include <ssm/cuda/rms_norm_backward.hpp>
#include <ssm/cuda/selective_scan.hpp>
#include <ssm/cuda/selective_scan_backward.hpp>
#include <ssm/cuda/state_matrix.hpp>
#include <ssm/cuda/sum_of_squares.hpp>

namespace {

ssm::Status status_of(cudaError_t error) {
  if (error == cudaSuccess) return ssm::Status::ok();
  return ssm::Status::error(ssm::ErrorCode::device_error, "cuda",
                            "failed:", cudaGetErrorString(error));
}

// A GPU: one stream, and each step of training one graph.
class CudaDevice {
 public:
  using Backend = ssm::Cuda;

  class Twin {
   public:
    Twin() = default;
    Twin(CudaDevice& device, std::size_t bytes, bool with_host = true)
        : stream_(device.cuda_.stream), bytes_(bytes + ssm::Arena::kAlignment) {
      device.keep(cudaMalloc(&device_, bytes_));
      if (!with_host) return;
      device.keep(cudaMallocHost(&host_, bytes_));
      device.keep(cudaEventCreateWithFlags(&uploaded_, cudaEventDisableTiming));
    }
    Twin(Twin&& other) noexcept { swap(other); }
    Twin& operator=(Twin&& other) noexcept {
      swap(other);
      return *this;
    }
    ~Twin() {
      if (uploaded_ != nullptr) cudaEventDestroy(uploaded_);
      if (host_ != nullptr) cudaFreeHost(host_);
      if (device_ != nullptr) cudaFree(device_);
    }
    ssm::Arena host() const { return ssm::Arena(host_, bytes_); }
    ssm::Arena device() const { return ssm::Arena(device_, bytes_); }
    ssm::Status upload() const { return upload_to(*this); }
    ssm::Status upload_to(const Twin& other) const {
      const cudaError_t error =
          cudaMemcpyAsync(other.device_, host_, bytes_, cudaMemcpyHostToDevice, stream_);
      return status_of(error == cudaSuccess ? cudaEventRecord(uploaded_, stream_) : error);
    }
    ssm::Status wait_for_upload() const { return status_of(cudaEventSynchronize(uploaded_)); }
    ssm::Status download() const {
      return status_of(cudaMemcpyAsync(host_, device_, bytes_, cudaMemcpyDeviceToHost, stream_));
    }

   private:
    void swap(Twin& other) noexcept {
      std::swap(stream_, other.stream_);
      std::swap(bytes_, other.bytes_);
      std::swap(host_, other.host_);
      std::swap(device_, other.device_);
      std::swap(uploaded_, other.uploaded_);
    }
    cudaStream_t stream_ = nullptr;
    std::size_t bytes_ = 0;
    void* host_ = nullptr;
    void* device_ = nullptr;
    cudaEvent_t uploaded_ = nullptr;
  };

  CudaDevice() {
    keep(cudaStreamCreateWithFlags(&cuda_.stream, cudaStreamNonBlocking));
    if (cublasLtCreate(&cuda_.blas) != CUBLAS_STATUS_SUCCESS) keep(cudaErrorInitializationError);
    constexpr std::size_t kWorkspace = std::size_t{32} << 20;
    keep(cudaMalloc(&workspace_, kWorkspace));
    cuda_.workspace = ssm::Arena(workspace_, kWorkspace);
  }
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;
  ~CudaDevice() {
    if (workspace_ != nullptr) cudaFree(workspace_);
    if (cuda_.blas != nullptr) cublasLtDestroy(cuda_.blas);
    if (cuda_.stream != nullptr) cudaStreamDestroy(cuda_.stream);
  }

  ssm::Status status() const { return status_of(first_error_); }
  const ssm::Cuda& backend() const { return cuda_; }

  template <class F>
  ssm::Status run(ssm::index_t i, F&& f) {
    ssm::CudaGraph& graph = graphs_[i];
    if (!graph.recorded()) {
      const ssm::Status status = graph.record(cuda_, f);
      if (!status) return status;
    }
    return graph.launch(cuda_);
  }
  ssm::Status copy(const void* from, void* to, std::size_t bytes) {
    return status_of(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, cuda_.stream));
  }
  ssm::Status wait() { return status_of(cudaStreamSynchronize(cuda_.stream)); }

 private:
  void keep(cudaError_t error) {
    if (first_error_ == cudaSuccess) first_error_ = error;
  }

  ssm::Cuda cuda_;
  void* workspace_ = nullptr;
  cudaError_t first_error_ = cudaSuccess;
  ssm::CudaGraph graphs_[2];
};

}  // namespace

std::unique_ptr<Learner> make_cuda_learner(const std::string& dtype, const LearnerConfig& config) {
  auto device = std::make_unique<CudaDevice>();
  if (!succeeded(device->status())) return nullptr;
  if (dtype == "f32") return LearnerOn<float, CudaDevice>::make(std::move(device), config);
  if (dtype == "bf16") return LearnerOn<ssm::bf16, CudaDevice>::make(std::move(device), config);
  std::fprintf(stderr, "error: --dtype is '%s', must be f32 or bf16 on cuda\n", dtype.c_str());
  return nullptr;
}
