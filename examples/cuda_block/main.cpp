// One Mamba block on a GPU, from plain C++: a prompt at once, then token by token, each token one
// launch of a CUDA graph; and the same on the CPU, with the same result.

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdio>

#include <ssm/cuda/causal_conv1d.hpp>
#include <ssm/cuda/graph.cuh>
#include <ssm/cuda/linear.hpp>
#include <ssm/cuda/mamba_step.hpp>
#include <ssm/cuda/rms_norm.hpp>
#include <ssm/cuda/selective_scan.hpp>
#include <ssm/cuda/state_matrix.hpp>
#include <ssm/owned.hpp>
#include <ssm/ssm.hpp>

namespace {

using ssm::index_t;

bool succeeded(const ssm::Status& status) {
  if (!status) std::fprintf(stderr, "error: %s\n", status.message().text);
  return status.is_ok();
}
bool succeeded(cudaError_t error) {
  if (error != cudaSuccess) std::fprintf(stderr, "error: %s\n", cudaGetErrorString(error));
  return error == cudaSuccess;
}

// Device memory; null if there is none to be had.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t bytes) : bytes_(bytes) {
    if (!succeeded(cudaMalloc(&data_, bytes_))) data_ = nullptr;
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() { cudaFree(data_); }
  ssm::Arena arena() const { return ssm::Arena(data_, data_ == nullptr ? 0 : bytes_); }

 private:
  void* data_ = nullptr;
  std::size_t bytes_;
};

constexpr index_t kPrompt = 200;
constexpr index_t kSteps = 56;

// What the block reads and writes, carved alike on the host and on the device.
struct Data {
  ssm::MambaParameters<float> weights;
  ssm::MambaState<float> state;
  ssm::View<float, 3> x, y;          // (1, kPrompt + kSteps, d_model)
  ssm::View<float, 2> x_one, y_one;  // (1, d_model): where the recorded step reads and writes

  static Data carve(const ssm::MambaConfig& config, ssm::Arena& arena) {
    Data d;
    d.weights = ssm::MambaParameters<float>::carve(config, arena);
    d.state = ssm::MambaState<float>::carve(config, /*sequences=*/1, arena);
    d.x = arena.view<float, 3>({1, kPrompt + kSteps, config.d_model});
    d.y = arena.view<float, 3>({1, kPrompt + kSteps, config.d_model});
    d.x_one = arena.view<float, 2>({1, config.d_model});
    d.y_one = arena.view<float, 2>({1, config.d_model});
    return d;
  }
};

}  // namespace

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("there is no GPU here\n");
    return 0;
  }
  const ssm::MambaConfig config = ssm::mamba_config(/*d_model=*/512);

  // Weights, an input and a zero state, made on the host.
  ssm::Arena counter;
  Data::carve(config, counter);
  const std::size_t bytes = counter.bytes_needed();
  const ssm::OwnedWorkspace host_memory(bytes);
  ssm::Arena arena = host_memory.arena();
  const Data host = Data::carve(config, arena);
  ssm::Random random(/*seed=*/1);
  ssm::initialize(config, host.weights, random);
  ssm::set_zero(host.state);
  for (index_t i = 0; i < host.x.size(); ++i)
    host.x.data()[i] = static_cast<float>(random.normal());

  // One copy brings them all to the device: both memories begin on a cache line.
  const DeviceMemory device_memory(bytes);
  arena = device_memory.arena();
  const Data device = Data::carve(config, arena);
  if (!succeeded(arena.status("device memory"))) return 1;
  const std::size_t used = arena.used();
  if (!succeeded(cudaMemcpy(device.weights.in_proj_weight.data(),
                            host.weights.in_proj_weight.data(), used, cudaMemcpyHostToDevice))) {
    return 1;
  }

  // The backend: a stream, a cuBLASLt handle and workspace for both libraries.
  ssm::Cuda cuda;
  const DeviceMemory library_memory(std::size_t{32} << 20);
  cuda.workspace = library_memory.arena();
  if (!succeeded(cudaStreamCreateWithFlags(&cuda.stream, cudaStreamNonBlocking)) ||
      cublasLtCreate(&cuda.blas) != CUBLAS_STATUS_SUCCESS) {
    return 1;
  }
  using Block = ssm::MambaBlock<float, ssm::Cuda>;
  Block block;
  const DeviceMemory constants(Block::prepared_bytes(cuda, config));
  if (!succeeded(block.prepare(cuda, config, device.weights, constants.arena()))) return 1;
  const DeviceMemory scratch(block.workspace_bytes(cuda, /*batch=*/1, kPrompt));

  // The prompt.
  if (!succeeded(block.forward(cuda, device.x.slice(1, 0, kPrompt), device.y.slice(1, 0, kPrompt),
                               device.state, scratch.arena()))) {
    return 1;
  }
  // The step, recorded once. A token goes where it reads, its result comes from where it writes.
  ssm::CudaGraph step;
  if (!succeeded(step.record(cuda, [&] {
        return block.step(cuda, device.x_one, device.y_one, device.state, scratch.arena());
      }))) {
    return 1;
  }
  const std::size_t row = static_cast<std::size_t>(config.d_model) * sizeof(float);
  const auto copy = [&](float* to, const float* from) {
    return succeeded(cudaMemcpyAsync(to, from, row, cudaMemcpyDeviceToDevice, cuda.stream));
  };
  for (index_t t = kPrompt; t < kPrompt + kSteps; ++t) {
    if (!copy(device.x_one.data(), &device.x(0, t, 0)) || !succeeded(step.launch(cuda)) ||
        !copy(&device.y(0, t, 0), device.y_one.data())) {
      return 1;
    }
  }
  if (!succeeded(cudaMemcpyAsync(host.y.data(), device.y.data(),
                                 static_cast<std::size_t>(host.y.size()) * sizeof(float),
                                 cudaMemcpyDeviceToHost, cuda.stream)) ||
      !succeeded(cudaStreamSynchronize(cuda.stream))) {
    return 1;
  }

  // The same block on the CPU: only the backend differs.
  const ssm::Cpu cpu;
  ssm::MambaBlock<float> cpu_block;
  const ssm::OwnedWorkspace cpu_constants(ssm::MambaBlock<float>::prepared_bytes(cpu, config));
  if (!succeeded(cpu_block.prepare(cpu, config, host.weights, cpu_constants.arena()))) return 1;
  const ssm::OwnedWorkspace cpu_scratch(cpu_block.workspace_bytes(cpu, 1, kPrompt + kSteps));
  ssm::Owned<float, 3> expected({1, kPrompt + kSteps, config.d_model});
  if (!succeeded(
          cpu_block.forward(cpu, host.x, expected.view(), host.state, cpu_scratch.arena()))) {
    return 1;
  }
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const double wanted = static_cast<double>(expected.data()[i]);
    const double off = static_cast<double>(host.y.data()[i]) - wanted;
    difference += off * off;
    norm += wanted * wanted;
  }
  const double relative = std::sqrt(difference / norm);
  std::printf("%lld tokens at once and %lld steps on the GPU differ from the CPU by %.1e\n",
              static_cast<long long>(kPrompt), static_cast<long long>(kSteps), relative);
  cublasLtDestroy(cuda.blas);
  cudaStreamDestroy(cuda.stream);
  return relative <= 1e-5 ? 0 : 1;
}
