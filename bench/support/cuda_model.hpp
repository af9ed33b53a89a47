#pragma once

#include <cublasLt.h>

#include <cstdio>
#include <cstdlib>
#include <memory>

#include "support/cuda.hpp"

// What the benchmarks of blocks and models on a GPU share: memory for what they carve, and a
// backend that can multiply.
namespace ssm_bench {

// Device memory of zeros for what `carve` takes.
template <class Carve>
auto carved(std::unique_ptr<Device<unsigned char>>* memory, Carve carve) {
  ssm::Arena counter;
  carve(counter);
  const std::size_t bytes = counter.bytes_needed();
  *memory = std::make_unique<Device<unsigned char>>(static_cast<index_t>(bytes));
  check(cudaMemset((*memory)->data(), 0, bytes));
  ssm::Arena arena((*memory)->data(), bytes);
  return carve(arena);
}

// A stream with cuBLASLt and its workspace.
class Backend {
 public:
  explicit Backend(cudaStream_t stream) : memory_(kWorkspace) {
    if (cublasLtCreate(&blas_) != CUBLAS_STATUS_SUCCESS) {
      std::fprintf(stderr, "no cuBLASLt\n");
      std::exit(1);
    }
    cuda_ = {stream, blas_, ssm::Arena(memory_.data(), static_cast<std::size_t>(kWorkspace))};
  }
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  ~Backend() { cublasLtDestroy(blas_); }
  const ssm::Cuda& cuda() const { return cuda_; }

 private:
  static constexpr index_t kWorkspace = index_t{32} << 20;
  Device<unsigned char> memory_;
  cublasLtHandle_t blas_ = nullptr;
  ssm::Cuda cuda_;
};

}  // namespace ssm_bench
