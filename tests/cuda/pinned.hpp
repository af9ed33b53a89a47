#pragma once

#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#include "cuda/device_target.hpp"
#include "ssm/core/arena.hpp"

// Whole models on a GPU: everything lies in pinned memory, which host and device reach under one
// address, so that the host fills it, runs the reference on it, and looks at it after waiting for
// the stream.
namespace ssm_test {

using ssm::index_t;
using ssm::View;

class Pinned {
 public:
  Pinned() = default;
  explicit Pinned(std::size_t bytes) : bytes_(bytes + ssm::Arena::kAlignment) {
    void* memory = nullptr;
    cuda_check(cudaMallocHost(&memory, bytes_), "pinned memory");
    std::memset(memory, kPoison, bytes_);
    memory_.reset(memory);
  }
  ssm::Arena arena() const { return ssm::Arena(memory_.get(), bytes_); }
  template <class T, int Rank>
  static Pinned of(View<T, Rank>* view, const ssm::Extents<Rank>& extents) {
    Pinned p(static_cast<std::size_t>(View<T, Rank>(nullptr, extents).size()) * sizeof(T));
    ssm::Arena arena = p.arena();
    *view = arena.view<T, Rank>(extents);
    return p;
  }

 private:
  struct Free {
    void operator()(void* memory) const { cuda_check(cudaFreeHost(memory), "free"); }
  };
  std::unique_ptr<void, Free> memory_;
  std::size_t bytes_ = 0;
};

template <class Carve>
auto pinned(Pinned* memory, Carve carve) {
  ssm::Arena counter;
  carve(counter);
  *memory = Pinned(counter.bytes_needed());
  ssm::Arena arena = memory->arena();
  return carve(arena);
}

class OnPinnedMemory : public ::testing::Test {
 protected:
  OnPinnedMemory() {
    cuda_check(cudaStreamCreateWithFlags(&cuda_.stream, cudaStreamNonBlocking), "stream");
    if (cublasLtCreate(&cuda_.blas) != CUBLAS_STATUS_SUCCESS) std::abort();
    workspace_ = Pinned(std::size_t{4} << 20);
    cuda_.workspace = workspace_.arena();
  }
  ~OnPinnedMemory() override {
    cublasLtDestroy(cuda_.blas);
    cuda_check(cudaStreamDestroy(cuda_.stream), "stream");
  }
  // Waits for what was queued, which must have been accepted.
  void done(const ssm::Status& status) const {
    EXPECT_TRUE(status.is_ok()) << status.message().text;
    cuda_check(cudaStreamSynchronize(cuda_.stream), "kernels");
  }

  ssm::Cuda cuda_;
  Pinned workspace_;
};

}  // namespace ssm_test
