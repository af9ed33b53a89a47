#include "ssm/cuda/causal_conv1d.hpp"
#include "ssm/cuda/embedding.hpp"
#include "ssm/cuda/graph.cuh"
#include "ssm/cuda/language_model_step.hpp"
#include "ssm/cuda/linear.hpp"
#include "ssm/cuda/rms_norm.hpp"
#include "ssm/cuda/selective_scan.hpp"
#include "ssm/cuda/state_matrix.hpp"
#include "ssm/model/language_model.hpp"
#include "ssm/owned.hpp"
#include "support/cuda_model.hpp"

// Decoding of whole models on a GPU: one token of every sequence, bf16 weights, states in float or
// in bf16, the step played from a CUDA graph, step after step as in generation. Weights are random,
// in the shapes of the published models.
//
//   Time        of one step
//   tokens/s    batch over time
//   floor_ms    the weights once, and the states in and out, at the device's peak bandwidth
//   %memory     floor over time
namespace {

using ssm::index_t;
using ssm_bench::carved;
using ssm_bench::check;
using ssm_bench::Device;

using Model = ssm::LanguageModel<ssm::bf16, ssm::Cuda>;

struct Shape {
  const char* name;
  index_t d_model, n_layer;
};
constexpr Shape kShapes[] = {{"130m", 768, 24}, {"1.4b", 2048, 48}, {"2.8b", 2560, 64}};

ssm::LanguageModelConfig config_of(const Shape& shape) {
  ssm::LanguageModelConfig c;
  c.block = ssm::mamba_config(shape.d_model);
  c.n_layer = shape.n_layer;
  c.vocab_size = 50280;
  return c;
}

// Repeats a stretch of random values of about the size that a trained model's have.
class Filler {
 public:
  template <class T, int Rank>
  void operator()(const char* name, const ssm::View<T, Rank>& v) const {
    const bool rates = std::string(name).find("A_log") != std::string::npos;
    static const std::vector<T> values = ssm_bench::uniform<T>(1 << 20, -0.05f, 0.05f, 1);
    static const std::vector<T> logs = ssm_bench::uniform<T>(1 << 20, 0.0f, 2.7f, 2);
    const std::vector<T>& from = rates ? logs : values;
    const auto stretch = static_cast<index_t>(from.size());
    for (index_t done = 0; done < v.size(); done += stretch) {
      const T* const source = done == 0 ? from.data() : v.data();
      const auto n = static_cast<std::size_t>(std::min(v.size() - done, stretch));
      check(cudaMemcpy(v.data() + done, source, n * sizeof(T), cudaMemcpyDefault));
    }
  }
};

// H: of the states.
template <class H>
void decode(benchmark::State& bench, const Shape& shape) {
  const index_t batch = bench.range(0);
  const ssm::LanguageModelConfig config = config_of(shape);
  const ssm_bench::Stream stream;
  const ssm_bench::Backend backend(stream.get());
  const ssm::Cuda& cuda = backend.cuda();

  std::unique_ptr<Device<unsigned char>> weight_memory, state_memory, io_memory;
  ssm::OwnedWorkspace lists(1 << 20);
  const auto weights = carved(&weight_memory, [&](ssm::Arena& arena) {
    ssm::Arena host = arena.counting() ? ssm::Arena() : lists.arena();
    return ssm::LanguageModelParameters<ssm::bf16>::carve(config, host, arena);
  });
  weights.for_each(Filler());
  check(cudaDeviceSynchronize());
  const auto prepared = Model::prepared_bytes(cuda, config);
  const ssm::OwnedWorkspace host(prepared.host);
  const Device<unsigned char> constants(static_cast<index_t>(prepared.data));
  Model model;
  ssm::Status status = model.prepare(cuda, config, weights, host.arena(),
                                     ssm::Arena(constants.data(), prepared.data));
  const auto state = carved(&state_memory, [&](ssm::Arena& arena) {
    return ssm::LanguageModelState<ssm::bf16, H>::carve(config, batch, arena);
  });
  struct Io {
    ssm::View<index_t, 1> ids;
    ssm::View<float, 2> logits;
  };
  const Io io = carved(&io_memory, [&](ssm::Arena& arena) {
    return Io{arena.view<index_t, 1>({batch}), arena.view<float, 2>({batch, config.vocab_size})};
  });
  const std::size_t bytes = model.workspace_bytes(cuda, batch, 1);
  const Device<unsigned char> scratch(static_cast<index_t>(bytes));

  ssm::CudaGraph step;
  if (status) {
    status = step.record(cuda, [&] {
      return model.step(cuda, io.ids, io.logits, state, ssm::Arena(scratch.data(), bytes));
    });
  }
  const double seconds = stream.time_repeated(bench, [&] { return step.launch(cuda); });
  if (!status) bench.SkipWithError(status.message().text);

  const double states = static_cast<double>(state.conv.size() + state.ssm.size());
  const double moved = 2.0 * static_cast<double>(ssm::parameter_count(config)) +
                       2.0 * static_cast<double>(sizeof(H)) * states;
  const double floor = moved / ssm_bench::peak_bandwidth();
  bench.counters["tokens/s"] = static_cast<double>(batch) / seconds;
  bench.counters["floor_ms"] = 1e3 * floor;
  bench.counters["%memory"] = 100 * floor / seconds;
}

template <class H>
void add(const char* name, std::initializer_list<index_t> batches) {
  for (const Shape& shape : kShapes) {
    auto* const b =
        benchmark::RegisterBenchmark((std::string(name) + "/" + shape.name).c_str(),
                                     [shape](benchmark::State& state) { decode<H>(state, shape); });
    b->ArgName("batch")->UseManualTime()->Unit(benchmark::kMillisecond);
    for (const index_t batch : batches) b->Arg(batch);
  }
}
const int kRegistered = [] {
  add<float>("decode", {1, 2, 4, 16, 64, 128});
  add<ssm::bf16>("decode_bf16_state", {16, 64, 128});
  return 0;
}();

}  // namespace
