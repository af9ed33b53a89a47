#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

#include "cuda/device_target.hpp"
#include "ssm/block/initialize.hpp"
#include "ssm/block/mamba_block.hpp"
#include "ssm/cuda/causal_conv1d.hpp"
#include "ssm/cuda/linear.hpp"
#include "ssm/cuda/mamba_step.hpp"
#include "ssm/cuda/rms_norm.hpp"
#include "ssm/cuda/selective_scan.hpp"
#include "ssm/cuda/state_matrix.hpp"
#include "ssm/reference/causal_conv1d.hpp"
#include "ssm/reference/linear.hpp"
#include "ssm/reference/rms_norm.hpp"
#include "ssm/reference/selective_scan.hpp"
#include "ssm/reference/state_matrix.hpp"

// MambaBlock<T, Cuda> against MambaBlock<T, Reference> on the same weights: prefill, a state
// carried through pieces and single tokens, and a step captured once and replayed.
namespace ssm_test {
namespace {

using ssm::index_t;

// The same bytes on the host and on the device, both cache-line aligned, so that carving either
// gives the same offsets.
class Twin {
 public:
  explicit Twin(std::size_t bytes) : bytes_(bytes + 64) {
    cuda_check(cudaMallocHost(&host_, bytes_), "host memory");
    cuda_check(cudaMalloc(&device_, bytes_), "device memory");
    std::memset(host_, kPoison, bytes_);
    upload();
  }
  Twin(const Twin&) = delete;
  Twin& operator=(const Twin&) = delete;
  ~Twin() {
    cuda_check(cudaFreeHost(host_), "free");
    cuda_check(cudaFree(device_), "free");
  }
  ssm::Arena host() const { return ssm::Arena(host_, bytes_); }
  ssm::Arena device() const { return ssm::Arena(device_, bytes_); }
  void upload() const {
    cuda_check(cudaMemcpy(device_, host_, bytes_, cudaMemcpyHostToDevice), "upload");
  }
  void download() const {
    cuda_check(cudaMemcpy(host_, device_, bytes_, cudaMemcpyDeviceToHost), "download");
  }

 private:
  std::size_t bytes_;
  void* host_ = nullptr;
  void* device_ = nullptr;
};

template <class F>
std::size_t counted(F carve) {
  ssm::Arena counter;
  carve(counter);
  return counter.bytes_needed();
}

template <class T>
double relative(const ssm::View<T, 3>& found, const ssm::View<T, 3>& wanted) {
  double difference = 0;
  double norm = 0;
  for (index_t b = 0; b < wanted.extent(0); ++b) {
    for (index_t t = 0; t < wanted.extent(1); ++t) {
      for (index_t i = 0; i < wanted.extent(2); ++i) {
        const double w = static_cast<double>(wanted(b, t, i));
        const double e = static_cast<double>(found(b, t, i)) - w;
        difference += e * e;
        norm += w * w;
      }
    }
  }
  return std::sqrt(difference / norm);
}

template <class T>
class CudaMambaBlock : public testing::Test {
 public:
  using Accum = ssm::accum_t<T>;
  using State = ssm::MambaState<T>;
  static constexpr index_t kBatch = 3;
  static constexpr index_t kLength = 75;

  // Sums of a few hundred terms in accum_t, and one rounding of each stored intermediate.
  static double tolerance() {
    if (std::is_same<T, double>::value) return 1e-13;
    if (std::is_same<T, float>::value) return 2e-6;
    return std::is_same<T, ssm::bf16>::value ? 2e-2 : 3e-3;
  }

  CudaMambaBlock() {
    config_ = ssm::mamba_config(48);
    const auto carve = [&](ssm::Arena& arena) {
      return ssm::MambaParameters<T>::carve(config_, arena);
    };
    weights_ = std::make_unique<Twin>(counted(carve));
    ssm::Arena host = weights_->host();
    ssm::Arena device = weights_->device();
    const auto parameters = carve(host);
    const auto on_device = carve(device);
    ssm::Random random(1);
    ssm::initialize(config_, parameters, random);
    weights_->upload();

    cuda_check(cudaStreamCreateWithFlags(&cuda_.stream, cudaStreamNonBlocking), "stream");
    if (cublasLtCreate(&cuda_.blas) != CUBLAS_STATUS_SUCCESS) std::abort();
    library_ = std::make_unique<Twin>(std::size_t{4} << 20);
    cuda_.workspace = library_->device();
    prepared_ = std::make_unique<Twin>(
        std::max(ssm::MambaBlock<T, ssm::Cuda>::prepared_bytes(cuda_, config_),
                 ssm::MambaBlock<T, ssm::Reference>::prepared_bytes(ssm::Reference{}, config_)));
    EXPECT_TRUE(block_.prepare(cuda_, config_, on_device, prepared_->device()));
    EXPECT_TRUE(reference_.prepare(ssm::Reference{}, config_, parameters, prepared_->host()));

    const ssm::Extents<3> shape{kBatch, kLength, config_.d_model};
    const auto activations = [&](ssm::Arena& arena) { return arena.view<T, 3>(shape); };
    input_ = std::make_unique<Twin>(counted(activations));
    output_ = std::make_unique<Twin>(counted(activations));
    ssm::Arena arena = input_->host();
    x_ = activations(arena);
    for (index_t i = 0; i < x_.size(); ++i) {
      x_.data()[i] = T(static_cast<Accum>(random.normal()));
    }
    input_->upload();
    arena = input_->device();
    x_device_ = activations(arena);
    arena = output_->host();
    y_ = activations(arena);
    arena = output_->device();
    y_device_ = activations(arena);
    scratch_ = std::make_unique<Twin>(
        std::max(block_.workspace_bytes(cuda_, kBatch, kLength),
                 reference_.workspace_bytes(ssm::Reference{}, kBatch, kLength)));
    wanted_.resize(static_cast<std::size_t>(x_.size()));
    wanted_view_ = ssm::View<T, 3>(wanted_.data(), shape);
    // The reference gives what is wanted, and the state that the device must end in.
    const auto states = [&](ssm::Arena& a) { return State::carve(config_, kBatch, a); };
    state_ = std::make_unique<Twin>(counted(states));
    reference_state_ = std::make_unique<Twin>(counted(states));
    arena = reference_state_->host();
    wanted_state_ = states(arena);
    ssm::set_zero(wanted_state_);
    EXPECT_TRUE(
        reference_.forward(ssm::Reference{}, x_, wanted_view_, wanted_state_, scratch_->host()));
    arena = state_->host();
    found_state_ = states(arena);
    ssm::set_zero(found_state_);
    state_->upload();
    arena = state_->device();
    device_state_ = states(arena);
  }
  ~CudaMambaBlock() override {
    cublasLtDestroy(cuda_.blas);
    cuda_check(cudaStreamDestroy(cuda_.stream), "stream");
  }

  void run(index_t begin, index_t length) {
    const ssm::Status status =
        block_.forward(cuda_, x_device_.slice(1, begin, length), y_device_.slice(1, begin, length),
                       device_state_, scratch_->device());
    EXPECT_TRUE(status) << status.message().text;
  }
  void compare() {
    cuda_check(cudaStreamSynchronize(cuda_.stream), "forward");
    output_->download();
    state_->download();
    EXPECT_TRUE(relative(y_, wanted_view_) <= tolerance()) << relative(y_, wanted_view_);
    const double conv = relative(found_state_.conv, wanted_state_.conv);
    const double ssm = relative(found_state_.ssm, wanted_state_.ssm);
    EXPECT_TRUE(conv <= tolerance()) << conv;
    EXPECT_TRUE(ssm <= tolerance()) << ssm;
  }

  ssm::MambaConfig config_;
  ssm::Cuda cuda_;
  ssm::MambaBlock<T, ssm::Cuda> block_;
  ssm::MambaBlock<T, ssm::Reference> reference_;
  std::unique_ptr<Twin> weights_, library_, prepared_, input_, output_, scratch_, state_,
      reference_state_;
  ssm::View<T, 3> x_, x_device_, y_, y_device_, wanted_view_;
  std::vector<T> wanted_;
  State wanted_state_, found_state_, device_state_;
};

using Elements = testing::Types<float, double, ssm::bf16, ssm::f16>;
TYPED_TEST_SUITE(CudaMambaBlock, Elements);

TYPED_TEST(CudaMambaBlock, PrefillEqualsTheReference) {
  this->run(0, this->kLength);
  this->compare();
}

TYPED_TEST(CudaMambaBlock, AnySplitEqualsTheReference) {
  this->run(0, 1);
  this->run(1, 2);
  this->run(3, 40);
  for (index_t t = 43; t < this->kLength; ++t) this->run(t, 1);
  this->compare();
}

// The decoding loop in a graph: a step captured once, replayed for every token. The token comes
// from, and its output goes to, the same place each time.
TYPED_TEST(CudaMambaBlock, CapturedStepDecodesTheSequence) {
  using T = TypeParam;
  const index_t d_model = this->config_.d_model;
  const auto slot = [&](ssm::Arena& arena) { return arena.view<T, 2>({this->kBatch, d_model}); };
  const Twin in(counted(slot));
  const Twin out(counted(slot));
  ssm::Arena arena = in.device();
  const ssm::View<T, 2> x = slot(arena);
  arena = out.device();
  const ssm::View<T, 2> y = slot(arena);

  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  cuda_check(cudaStreamBeginCapture(this->cuda_.stream, cudaStreamCaptureModeGlobal), "capture");
  const ssm::Status status =
      this->block_.step(this->cuda_, x, y, this->device_state_, this->scratch_->device());
  cuda_check(cudaStreamEndCapture(this->cuda_.stream, &graph), "capture");
  ASSERT_TRUE(status) << status.message().text;
  cuda_check(cudaGraphInstantiate(&executable, graph, 0), "graph");
  const std::size_t row = static_cast<std::size_t>(d_model) * sizeof(T);
  const std::size_t pitch = static_cast<std::size_t>(this->kLength) * row;
  for (index_t t = 0; t < this->kLength; ++t) {
    cuda_check(cudaMemcpy2DAsync(x.data(), row, &this->x_device_(0, t, 0), pitch, row,
                                 static_cast<std::size_t>(this->kBatch), cudaMemcpyDeviceToDevice,
                                 this->cuda_.stream),
               "token");
    cuda_check(cudaGraphLaunch(executable, this->cuda_.stream), "replay");
    cuda_check(cudaMemcpy2DAsync(&this->y_device_(0, t, 0), pitch, y.data(), row, row,
                                 static_cast<std::size_t>(this->kBatch), cudaMemcpyDeviceToDevice,
                                 this->cuda_.stream),
               "output");
  }
  this->compare();
  cuda_check(cudaGraphExecDestroy(executable), "graph");
  cuda_check(cudaGraphDestroy(graph), "graph");
}

}  // namespace
}  // namespace ssm_test
