#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include "generator.hpp"

#include <ssm/cuda/causal_conv1d.hpp>
#include <ssm/cuda/embedding.hpp>
#include <ssm/cuda/graph.cuh>
#include <ssm/cuda/language_model_step.hpp>
#include <ssm/cuda/linear.hpp>
#include <ssm/cuda/rms_norm.hpp>
#include <ssm/cuda/sample.hpp>
#include <ssm/cuda/selective_scan.hpp>
#include <ssm/cuda/state_matrix.hpp>
#include <ssm/owned.hpp>

namespace {

using ssm::index_t;

bool done(cudaError_t error) {
  if (error != cudaSuccess) std::fprintf(stderr, "error: %s\n", cudaGetErrorString(error));
  return error == cudaSuccess;
}

// Device memory, zeros. If there is not enough its arena is empty, and carving fails.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t bytes) : bytes_(bytes) {
    if (!done(cudaMalloc(&data_, bytes_)) || !done(cudaMemset(data_, 0, bytes_))) bytes_ = 0;
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() { cudaFree(data_); }
  ssm::Arena arena() const { return ssm::Arena(data_, bytes_); }

 private:
  void* data_ = nullptr;
  std::size_t bytes_;
};

// A stream, a cuBLASLt handle and workspace for both libraries.
struct Device {
  Device() : memory(std::size_t{32} << 20) {
    cuda.workspace = memory.arena();
    ready = done(cudaStreamCreateWithFlags(&cuda.stream, cudaStreamNonBlocking)) &&
            cublasLtCreate(&cuda.blas) == CUBLAS_STATUS_SUCCESS;
  }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  ~Device() {
    if (cuda.blas != nullptr) cublasLtDestroy(cuda.blas);
    if (cuda.stream != nullptr) cudaStreamDestroy(cuda.stream);
  }
  DeviceMemory memory;
  ssm::Cuda cuda;
  bool ready = false;
};

// What the recorded step reads and writes; the state before the first token is zeros.
struct Decoding {
  ssm::LanguageModelState<float> state;
  ssm::View<index_t, 2> prompt;        // (1, tokens)
  ssm::View<float, 2> logits;          // (1, vocab_size), padding included
  ssm::View<index_t, 1> token;         // (1)
  ssm::View<std::uint64_t, 1> random;  // (1)
  ssm::View<unsigned char, 2> seen;    // (1, vocab_size)

  static Decoding carve(const ssm::LanguageModelConfig& config, index_t prompt, index_t vocab_size,
                        ssm::Arena& arena) {
    Decoding d;
    d.state = ssm::LanguageModelState<float>::carve(config, /*sequences=*/1, arena);
    d.prompt = arena.view<index_t, 2>({1, prompt});
    d.logits = arena.view<float, 2>({1, config.vocab_size});
    d.token = arena.view<index_t, 1>({1});
    d.random = arena.view<std::uint64_t, 1>({1});
    d.seen = arena.view<unsigned char, 2>({1, vocab_size});
    return d;
  }
};

template <class T>
bool upload(const T* from, T* to, index_t count) {
  return done(
      cudaMemcpy(to, from, static_cast<std::size_t>(count) * sizeof(T), cudaMemcpyHostToDevice));
}

}  // namespace

bool cuda_device_present() {
  int devices = 0;
  return cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0;
}

bool generate_on_cuda(const Request& request, Generated* out) {
  using Model = ssm::LanguageModel<float, ssm::Cuda>;
  const ssm::LanguageModelConfig& config = request.config;
  const Device device;
  if (!device.ready) return false;
  const ssm::Cuda& cuda = device.cuda;

  // The checkpoint, converted to float, and its copy on the device.
  ssm::OwnedWorkspace weight_memory;
  const auto weights = weight_memory.carve([&](ssm::Arena& arena) {
    return ssm::LanguageModelParameters<float>::carve(config, arena, arena);
  });
  if (!succeeded(load_parameters(request.checkpoint, weights))) return false;
  ssm::Arena list_counter;
  ssm::Arena data_counter;
  ssm::LanguageModelParameters<float>::carve(config, list_counter, data_counter);
  const ssm::OwnedWorkspace lists(list_counter.bytes_needed());
  const DeviceMemory device_weights(data_counter.bytes_needed());
  ssm::Arena list_arena = lists.arena();
  ssm::Arena arena = device_weights.arena();
  const auto on_device = ssm::LanguageModelParameters<float>::carve(config, list_arena, arena);
  if (!succeeded(arena.status("device memory for weights"))) return false;
  bool copied = true;
  visit_together(
      [&](const char*, const auto& from, const auto& to) {
        copied = copied && upload(from.data(), to.data(), from.size());
      },
      weights, on_device);
  if (!copied) return false;

  Model model;
  const Model::PreparedBytes prepared = Model::prepared_bytes(cuda, config);
  const ssm::OwnedWorkspace host(prepared.host);
  const DeviceMemory constants(prepared.data);
  if (!succeeded(model.prepare(cuda, config, on_device, host.arena(), constants.arena()))) {
    return false;
  }

  const auto prompt_length = static_cast<index_t>(request.prompt.size());
  const index_t vocab_size = request.checkpoint.config().vocab_size;
  ssm::Arena counter;
  Decoding::carve(config, prompt_length, vocab_size, counter);
  const DeviceMemory decoding_memory(counter.bytes_needed());
  arena = decoding_memory.arena();
  const Decoding d = Decoding::carve(config, prompt_length, vocab_size, arena);
  const DeviceMemory workspace(model.workspace_bytes(cuda, /*batch=*/1, prompt_length));
  std::vector<unsigned char> seen(static_cast<std::size_t>(vocab_size), 0);
  for (const index_t token : request.prompt) {
    if (token < 0 || token >= vocab_size) {
      std::fprintf(stderr, "error: prompt token is %lld, must be in [0, %lld)\n",
                   static_cast<long long>(token), static_cast<long long>(vocab_size));
      return false;
    }
    seen[static_cast<std::size_t>(token)] = 1;
  }
  if (!succeeded(arena.status("device memory")) ||
      !upload(request.prompt.data(), d.prompt.data(), prompt_length) ||
      !upload(&request.seed, d.random.data(), 1) ||
      !upload(seen.data(), d.seen.data(), vocab_size)) {
    return false;
  }

  // The prompt in one call …
  auto start = std::chrono::steady_clock::now();
  const ssm::View<float, 3> last_logits(d.logits.data(), {1, 1, config.vocab_size});
  if (!succeeded(model.forward(cuda, d.prompt, last_logits, d.state, workspace.arena(),
                               ssm::Logits::last)) ||
      !done(cudaStreamSynchronize(cuda.stream))) {
    return false;
  }
  out->prompt_seconds = seconds_since(start);

  // … then token by token: the step and the drawing of the token after it are one graph, recorded
  // once.
  ssm::SampleArgs<float> draw;
  draw.logits = d.logits.slice(1, 0, vocab_size);
  draw.random = d.random;
  draw.seen = d.seen;
  draw.token = d.token;
  draw.config = request.sampler;
  ssm::CudaGraph step;
  if (!succeeded(step.record(cuda, [&] {
        const ssm::Status status = model.step(cuda, d.token, d.logits, d.state, workspace.arena());
        return status ? sample(cuda, draw) : status;
      }))) {
    return false;
  }
  start = std::chrono::steady_clock::now();
  for (index_t n = 0; n < request.tokens; ++n) {
    index_t token = 0;
    if (!succeeded(n == 0 ? sample(cuda, draw) : step.launch(cuda)) ||
        !done(cudaMemcpyAsync(&token, d.token.data(), sizeof(token), cudaMemcpyDeviceToHost,
                              cuda.stream)) ||
        !done(cudaStreamSynchronize(cuda.stream))) {
      return false;
    }
    if (token < 0) {  // not to be looked up by a step
      std::fprintf(stderr, "error: the model's logits hold NaN\n");
      return false;
    }
    out->tokens.push_back(token);
    if (request.ends_with(token)) break;
  }
  out->seconds = seconds_since(start);
  return true;
}
