#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <vector>

#include "cuda/device_target.hpp"
#include "ssm/cuda/adamw.hpp"
#include "ssm/cuda/causal_conv1d.hpp"
#include "ssm/cuda/causal_conv1d_backward.hpp"
#include "ssm/cuda/cross_entropy.hpp"
#include "ssm/cuda/embedding.hpp"
#include "ssm/cuda/embedding_backward.hpp"
#include "ssm/cuda/graph.cuh"
#include "ssm/cuda/linear.hpp"
#include "ssm/cuda/linear_backward.hpp"
#include "ssm/cuda/residual_add.hpp"
#include "ssm/cuda/rms_norm.hpp"
#include "ssm/cuda/rms_norm_backward.hpp"
#include "ssm/cuda/selective_scan.hpp"
#include "ssm/cuda/selective_scan_backward.hpp"
#include "ssm/cuda/state_matrix.hpp"
#include "ssm/cuda/sum_of_squares.hpp"
#include "ssm/ssm.hpp"
#include "train/training_under_test.hpp"

// TrainingStep<T, Cuda>, recorded once and replayed on new batches, against TrainingStep<T,
// Reference>; and the same again, bit for bit.
namespace ssm_test {
namespace {

// A device's copy of the memory of a training on the host: carved by the same code, so that bytes
// go over one to one.
template <class T>
class DeviceTraining {
 public:
  using Step = ssm::TrainingStep<T, ssm::Cuda>;

  explicit DeviceTraining(const TrainingRun<On<ssm::Reference, T>>& host) : host_(host) {
    cuda_check(cudaStreamCreateWithFlags(&cuda_.stream, cudaStreamNonBlocking), "stream");
    if (cublasLtCreate(&cuda_.blas) != CUBLAS_STATUS_SUCCESS) std::abort();
    cuda_.workspace = allocate(std::size_t{8} << 20);
    state_memory_ = allocate(host_.memory[0].size());
    batch_memory_ = allocate(host_.memory[1].size());
    const std::size_t list_bytes = host_.memory[0].size();
    lists_ = ssm::OwnedWorkspace(list_bytes);
    ssm::Arena lists = lists_.arena();
    ssm::Arena arena = state_memory_;
    state_ = ssm::TrainingState<T>::carve(host_.config, lists, arena);
    arena = batch_memory_;
    batch_ = ssm::TrainingBatch::carve(host_.config, arena);
    upload_state();
    const auto bytes = Step::bytes(cuda_, host_.config, state_);
    step_lists_ = ssm::OwnedWorkspace(bytes.host);
    const ssm::Status status = step_.prepare(cuda_, host_.config, state_, batch_,
                                             step_lists_.arena(), allocate(bytes.data));
    EXPECT_TRUE(status) << status.message().text;
  }
  DeviceTraining(const DeviceTraining&) = delete;
  DeviceTraining& operator=(const DeviceTraining&) = delete;
  ~DeviceTraining() {
    for (void* memory : memory_) cuda_check(cudaFree(memory), "free");
    cublasLtDestroy(cuda_.blas);
    cuda_check(cudaStreamDestroy(cuda_.stream), "stream");
  }

  // Replays step `number` on the batch that the host training holds.
  void run(index_t number) {
    const auto copy = [&](const auto& to, const auto& from) {
      using V = typename std::decay_t<decltype(from)>::value_type;
      cuda_check(
          cudaMemcpyAsync(to.data(), from.data(), static_cast<std::size_t>(from.size()) * sizeof(V),
                          cudaMemcpyHostToDevice, cuda_.stream),
          "batch");
    };
    copy(batch_.ids, host_.batch.ids);
    copy(batch_.targets, host_.batch.targets);
    copy(batch_.step, host_.batch.step);
    const index_t turn = host_.config.carry_state ? number % 2 : 0;
    ssm::CudaGraph& graph = graphs_[turn];
    if (!graph.recorded()) {
      const ssm::Status status = graph.record(cuda_, [&] { return step_.run(cuda_, turn); });
      ASSERT_TRUE(status) << status.message().text;
    }
    const ssm::Status status = graph.launch(cuda_);
    ASSERT_TRUE(status) << status.message().text;
    cuda_check(cudaStreamSynchronize(cuda_.stream), "step");
  }

  double loss() const {
    std::vector<ssm::accum_t<T>> losses(static_cast<std::size_t>(step_.losses().size()));
    download(losses.data(), step_.losses());
    double sum = 0;
    for (const auto l : losses) sum += static_cast<double>(l);
    return sum;
  }
  std::vector<double> values() const {
    std::vector<double> out;
    state_.for_each([&](const char*, const auto& v) { append_device(v, &out); });
    return out;
  }
  std::vector<double> gradients() const {
    std::vector<double> out;
    step_.grads().for_each([&](const char*, const auto& v) { append_device(v, &out); });
    return out;
  }

 private:
  template <class U, class V>
  static void download(U* to, const V& from) {
    cuda_check(cudaMemcpy(to, from.data(), static_cast<std::size_t>(from.size()) * sizeof(U),
                          cudaMemcpyDeviceToHost),
               "download");
  }
  template <class V>
  static void append_device(const V& v, std::vector<double>* out) {
    std::vector<typename V::value_type> values(static_cast<std::size_t>(v.size()));
    download(values.data(), v);
    for (const auto& x : values) out->push_back(static_cast<double>(x));
  }
  ssm::Arena allocate(std::size_t bytes) {
    void* memory = nullptr;
    cuda_check(cudaMalloc(&memory, bytes + 64), "memory");
    cuda_check(cudaMemset(memory, kPoison, bytes + 64), "poison");
    cuda_check(cudaDeviceSynchronize(), "poison");  // the step has a stream of its own
    memory_.push_back(memory);
    return ssm::Arena(memory, bytes + 64);
  }
  void upload_state() {
    std::vector<std::pair<const void*, std::size_t>> from;
    host_.state.for_each([&](const char*, const auto& v) {
      using V = typename std::decay_t<decltype(v)>::value_type;
      from.emplace_back(v.data(), static_cast<std::size_t>(v.size()) * sizeof(V));
    });
    std::size_t next = 0;
    state_.for_each([&](const char*, const auto& v) {
      cuda_check(cudaMemcpy(v.data(), from[next].first, from[next].second, cudaMemcpyHostToDevice),
                 "upload");
      ++next;
    });
    cuda_check(cudaDeviceSynchronize(), "upload");
  }

  const TrainingRun<On<ssm::Reference, T>>& host_;
  ssm::Cuda cuda_;
  std::vector<void*> memory_;
  ssm::Arena state_memory_, batch_memory_;
  ssm::OwnedWorkspace lists_, step_lists_;
  ssm::TrainingState<T> state_;
  ssm::TrainingBatch batch_;
  Step step_;
  ssm::CudaGraph graphs_[2];
};

template <class T>
class CudaTrainingStep : public ::testing::Test {
 public:
  // Of the gradients; one rounding of each stored intermediate in two bytes.
  static double tolerance() {
    if (std::is_same<T, double>::value) return 1e-11;
    return std::is_same<T, float>::value ? 1e-5 : 2e-2;
  }
};
using Elements = ::testing::Types<float, double, ssm::bf16>;
TYPED_TEST_SUITE(CudaTrainingStep, Elements);

TYPED_TEST(CudaTrainingStep, ReplayedStepsEqualTheReferenceAndThemselves) {
  for (const bool carry : {false, true}) {
    for (const bool gate : {true, false}) {
      SCOPED_TRACE(carry ? "state carried" : "fresh state");
      SCOPED_TRACE(gate ? "gate" : "no gate");
      ssm::TrainingConfig config = small_training();
      config.carry_state = carry;
      config.micro_batches = 2;
      config.length = 19;
      config.model.block.gate = gate;
      TrainingRun<On<ssm::Reference, TypeParam>> host(config);
      DeviceTraining<TypeParam> first(host), second(host);
      for (index_t number = 1; number <= 4; ++number) {
        const double loss = host.run(number);
        first.run(number);
        second.run(number);
        EXPECT_NEAR(first.loss(), loss, this->tolerance() * loss);
        // Later gradients are those of other parameters: AdamW turns the sign of a tiny gradient
        // into a step.
        if (number == 1) {
          SSM_EXPECT_CLOSE(first.gradients(), host.gradients(), this->tolerance());
        }
      }
      EXPECT_EQ(first.values(), second.values());
    }
  }
}

}  // namespace
}  // namespace ssm_test
