#include <cstdio>
#include <cstring>
#include <type_traits>

#include "learner_on.hpp"

#include <ssm/cpu/thread_pool.hpp>
#include <ssm/ssm.hpp>

bool succeeded(const ssm::Status& status) {
  if (!status) std::fprintf(stderr, "error: %s\n", status.message().text);
  return status.is_ok();
}
bool succeeded(const ssm::io::Result& result) {
  if (!result) std::fprintf(stderr, "error: %s\n", result.message().c_str());
  return result.is_ok();
}

namespace {

// The host as a device: one memory, and work that is done when the call returns.
template <class B>
class HostDevice {
 public:
  using Backend = B;

  class Twin {
   public:
    Twin() = default;
    Twin(HostDevice&, std::size_t bytes, bool /*with_host*/ = true) : memory_(bytes) {}
    ssm::Arena host() const { return memory_.arena(); }
    ssm::Arena device() const { return memory_.arena(); }
    ssm::Status upload() const { return ssm::Status::ok(); }
    ssm::Status download() const { return ssm::Status::ok(); }
    ssm::Status upload_to(const Twin& other) const {
      ssm::Arena from = memory_.arena();
      ssm::Arena to = other.memory_.arena();
      if (this != &other) {
        std::memcpy(to.allocate<unsigned char>(1), from.allocate<unsigned char>(1), memory_.size());
      }
      return ssm::Status::ok();
    }
    ssm::Status wait_for_upload() const { return ssm::Status::ok(); }

   private:
    ssm::OwnedWorkspace memory_;
  };

  explicit HostDevice(int threads) : pool_(threads) {}
  Backend backend() {
    if constexpr (std::is_same_v<Backend, ssm::Cpu>) {
      return Backend{pool_.parallel()};
    } else {
      return Backend{};
    }
  }
  ssm::Status status() const { return ssm::Status::ok(); }
  template <class F>
  ssm::Status run(ssm::index_t, F&& f) {
    return f();
  }
  ssm::Status copy(const void* from, void* to, std::size_t bytes) {
    std::memcpy(to, from, bytes);
    return ssm::Status::ok();
  }
  ssm::Status wait() { return ssm::Status::ok(); }

 private:
  ssm::ThreadPool pool_;
};

}  // namespace

std::unique_ptr<Learner> make_learner(const std::string& device, const std::string& dtype,
                                      const LearnerConfig& config) {
#if defined(SSM_TRAIN_WITH_CUDA)
  if (device == "cuda") return make_cuda_learner(dtype, config);
#endif
  if (device != "cpu" && device != "reference") {
    std::fprintf(stderr, "error: --device is '%s', must be cpu, reference%s\n", device.c_str(),
#if defined(SSM_TRAIN_WITH_CUDA)
                 " or cuda"
#else
                 "; this program was built without cuda"
#endif
    );
    return nullptr;
  }
  if (dtype != "f32") {
    std::fprintf(stderr, "error: --dtype is '%s', must be f32 on %s\n", dtype.c_str(),
                 device.c_str());
    return nullptr;
  }
  if (device == "reference") {
    using Reference = HostDevice<ssm::Reference>;
    return LearnerOn<float, Reference>::make(std::make_unique<Reference>(1), config);
  }
  using Cpu = HostDevice<ssm::Cpu>;
  return LearnerOn<float, Cpu>::make(std::make_unique<Cpu>(config.threads), config);
}
