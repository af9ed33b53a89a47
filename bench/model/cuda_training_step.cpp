#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>

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
#include "ssm/owned.hpp"
#include "ssm/train/training_step.hpp"
#include "support/cuda.hpp"

// A whole step of training on a GPU: forward, loss, backward, clipping and AdamW of the shape of
// mamba-130m (24 layers, d_model 768, 50,280 ids) in bf16 with random weights, one CUDA graph per
// step. Then the same step once more without the graph, an event before and after every operation:
// where the time goes. Operations on small arrays look dearer there than they are in the graph,
// because the host launches them one by one. Last, what is kept for backward.
//
//   cuda_training_step [batch [length]]      8 and 2048
namespace ssm_bench {

using T = ssm::bf16;
using ssm::Status;

// The CUDA backend with an event around every operation.
struct TimedCuda {
  struct Interval {
    std::string name;
    cudaEvent_t begin, end;
  };
  ssm::Cuda cuda;
  std::vector<Interval>* intervals;

  template <class F>
  Status time(const std::string& name, F call) const {
    Interval interval{name, nullptr, nullptr};
    check(cudaEventCreate(&interval.begin));
    check(cudaEventCreate(&interval.end));
    check(cudaEventRecord(interval.begin, cuda.stream));
    const Status status = call();
    check(cudaEventRecord(interval.end, cuda.stream));
    intervals->push_back(interval);
    return status;
  }
};

template <class Args>
std::size_t scratch_bytes(const TimedCuda& t, const Args& a) noexcept {
  return scratch_bytes(t.cuda, a);
}

// The operations, timed; a matrix product is named with its features out and in.
#define SSM_TIMED(operation, Args)                                   \
  template <class E>                                                 \
  Status operation(const TimedCuda& t, const Args<E>& a) {           \
    return t.time(#operation, [&] { return operation(t.cuda, a); }); \
  }
#define SSM_TIMED_GRADIENT(operation, Args)                                    \
  template <class E>                                                           \
  Status operation(const TimedCuda& t, const Args<E>& a, ssm::Arena scratch) { \
    return t.time(#operation, [&] { return operation(t.cuda, a, scratch); });  \
  }
SSM_TIMED(embedding, ssm::EmbeddingArgs)
SSM_TIMED(rms_norm, ssm::RmsNormArgs)
SSM_TIMED(causal_conv1d, ssm::CausalConv1dArgs)
SSM_TIMED(residual_add, ssm::ResidualAddArgs)
SSM_TIMED(adamw, ssm::AdamWArgs)
SSM_TIMED(state_matrix, ssm::StateMatrixArgs)
SSM_TIMED_GRADIENT(cross_entropy, ssm::CrossEntropyArgs)
SSM_TIMED_GRADIENT(embedding_backward, ssm::EmbeddingGradArgs)
SSM_TIMED_GRADIENT(causal_conv1d_backward, ssm::CausalConv1dGradArgs)
SSM_TIMED_GRADIENT(sum_of_squares, ssm::SumOfSquaresArgs)

template <class E, class S>
Status selective_scan(const TimedCuda& t, const ssm::SelectiveScanArgs<E, S>& a) {
  return t.time("selective_scan", [&] { return selective_scan(t.cuda, a); });
}
template <class E, class S>
Status selective_scan_backward(const TimedCuda& t, const ssm::SelectiveScanGradArgs<E, S>& a,
                               ssm::Arena scratch) {
  return t.time("selective_scan_backward",
                [&] { return selective_scan_backward(t.cuda, a, scratch); });
}
template <class E, class TGrad>
Status rms_norm_backward(const TimedCuda& t, const ssm::RmsNormGradArgs<E, TGrad>& a,
                         ssm::Arena scratch) {
  return t.time("rms_norm_backward", [&] { return rms_norm_backward(t.cuda, a, scratch); });
}

template <class E>
std::string product(const char* operation, const ssm::View<E, 2>& weight) {
  return std::string(operation) + " " + std::to_string(weight.extent(0)) + " x " +
         std::to_string(weight.extent(1));
}
template <class E, class TOut>
Status linear(const TimedCuda& t, const ssm::LinearArgs<E, TOut>& a) {
  return t.time(product("linear", a.weight), [&] { return linear(t.cuda, a); });
}
template <class E, class TOut, class TIn>
Status linear_backward(const TimedCuda& t, const ssm::LinearGradArgs<E, TOut, TIn>& a,
                       ssm::Arena scratch) {
  return t.time(product("linear_backward", a.weight),
                [&] { return linear_backward(t.cuda, a, scratch); });
}

}  // namespace ssm_bench

SSM_NAMESPACE_BEGIN
template <>
inline constexpr bool reads_on_host<ssm_bench::TimedCuda> = false;
SSM_NAMESPACE_END

namespace ssm_bench {
namespace {

void require(const Status& status) {
  if (status) return;
  std::fprintf(stderr, "%s\n", status.message().text);
  std::exit(1);
}

// A training in device memory: the state begins as on the host, batch and gradients after it.
class Training {
 public:
  explicit Training(const ssm::TrainingConfig& config_) : config(config_) {
    check(cudaStreamCreateWithFlags(&cuda.stream, cudaStreamNonBlocking));
    if (cublasLtCreate(&cuda.blas) != CUBLAS_STATUS_SUCCESS) std::exit(1);
    cuda.workspace = allocate(std::size_t{32} << 20);
    ssm::Arena counter;
    ssm::TrainingState<T>::carve(config, counter, counter);
    const std::size_t bytes = counter.bytes_needed();
    ssm::OwnedWorkspace host_lists(bytes), host(bytes);
    lists_ = ssm::OwnedWorkspace(bytes);
    const auto carve = [&](ssm::Arena lists, ssm::Arena data) {
      return ssm::TrainingState<T>::carve(config, lists, data);
    };
    ssm::Random random(1);
    ssm::initialize(config, carve(host_lists.arena(), host.arena()), random);
    // Both begin on a cache line, so that carving gives the same offsets.
    const ssm::Arena data = allocate(bytes);
    check(cudaMemcpy(memory_.back(), host.arena().allocate<char>(1), bytes - 63,
                     cudaMemcpyHostToDevice));
    state = carve(lists_.arena(), data);

    ssm::Arena batch_counter;
    ssm::TrainingBatch::carve(config, batch_counter);
    ssm::OwnedWorkspace host_batch(batch_counter.bytes_needed());
    ssm::Arena arena = host_batch.arena();
    const auto values = ssm::TrainingBatch::carve(config, arena);
    for (index_t i = 0; i < values.ids.size(); ++i) {
      values.ids.data()[i] = random.below(config.model.vocab_size);
      values.targets.data()[i] = random.below(config.model.vocab_size);
    }
    values.step(0) = {1e-4, 1};
    arena = allocate(batch_counter.bytes_needed());
    batch = ssm::TrainingBatch::carve(config, arena);
    const auto upload = [](const auto& to, const auto& from) {
      check(cudaMemcpy(to.data(), from.data(),
                       static_cast<std::size_t>(from.size()) * sizeof(*from.data()),
                       cudaMemcpyHostToDevice));
    };
    upload(batch.ids, values.ids);
    upload(batch.targets, values.targets);
    upload(batch.step, values.step);
    check(cudaDeviceSynchronize());
  }
  Training(const Training&) = delete;
  Training& operator=(const Training&) = delete;
  ~Training() {
    for (void* memory : memory_) check(cudaFree(memory));
    cublasLtDestroy(cuda.blas);
    check(cudaStreamDestroy(cuda.stream));
  }

  // Device memory, aligned as cudaMalloc aligns it.
  ssm::Arena allocate(std::size_t bytes) {
    void* memory = nullptr;
    check(cudaMalloc(&memory, bytes));
    memory_.push_back(memory);
    return ssm::Arena(memory, bytes);
  }
  template <class Backend>
  ssm::TrainingStep<T, Backend> prepared(const Backend& backend, ssm::OwnedWorkspace* lists) {
    using Step = ssm::TrainingStep<T, Backend>;
    const auto bytes = Step::bytes(backend, config, state);
    *lists = ssm::OwnedWorkspace(bytes.host);
    if (step_memory_.capacity() == 0) step_memory_ = allocate(bytes.data);
    Step step;
    require(step.prepare(backend, config, state, batch, lists->arena(), step_memory_));
    return step;
  }

  ssm::TrainingConfig config;
  ssm::Cuda cuda;
  ssm::TrainingState<T> state;
  ssm::TrainingBatch batch;

 private:
  std::vector<void*> memory_;
  ssm::OwnedWorkspace lists_;
  ssm::Arena step_memory_ = ssm::Arena(nullptr, 0);
};

double milliseconds(cudaEvent_t begin, cudaEvent_t end) {
  float value = 0;
  check(cudaEventElapsedTime(&value, begin, end));
  return static_cast<double>(value);
}

// The median over steps that each are one launch.
double time_graph(Training& training) {
  constexpr int kWarm = 3;
  constexpr int kSteps = 20;
  ssm::OwnedWorkspace lists;
  auto step = training.prepared(training.cuda, &lists);
  ssm::CudaGraph graph;
  require(graph.record(training.cuda, [&] { return step.run(training.cuda); }));
  std::vector<cudaEvent_t> events(kWarm + kSteps + 1);
  for (cudaEvent_t& e : events) check(cudaEventCreate(&e));
  check(cudaEventRecord(events[0], training.cuda.stream));
  for (std::size_t i = 1; i < events.size(); ++i) {
    require(graph.launch(training.cuda));
    check(cudaEventRecord(events[i], training.cuda.stream));
  }
  check(cudaStreamSynchronize(training.cuda.stream));
  std::vector<double> times;
  for (std::size_t i = kWarm; i + 1 < events.size(); ++i) {
    times.push_back(milliseconds(events[i], events[i + 1]));
  }
  for (const cudaEvent_t e : events) check(cudaEventDestroy(e));
  std::sort(times.begin(), times.end());
  return times[times.size() / 2];
}

void print_operations(Training& training) {
  std::vector<TimedCuda::Interval> intervals;
  const TimedCuda timed{training.cuda, &intervals};
  ssm::OwnedWorkspace lists;
  auto step = training.prepared(timed, &lists);
  require(step.run(timed));  // loads code and chooses the matrix products
  intervals.clear();
  check(cudaStreamSynchronize(training.cuda.stream));
  require(step.run(timed));
  check(cudaStreamSynchronize(training.cuda.stream));
  struct Sum {
    double ms = 0;
    int calls = 0;
  };
  std::map<std::string, Sum> sums;
  double total = 0;
  for (const TimedCuda::Interval& i : intervals) {
    const double ms = milliseconds(i.begin, i.end);
    sums[i.name].ms += ms;
    ++sums[i.name].calls;
    total += ms;
    check(cudaEventDestroy(i.begin));
    check(cudaEventDestroy(i.end));
  }
  std::vector<std::pair<std::string, Sum>> sorted(sums.begin(), sums.end());
  std::sort(sorted.begin(), sorted.end(),
            [](const auto& a, const auto& b) { return a.second.ms > b.second.ms; });
  std::printf("\n%-34s %6s %10s %9s %7s\n", "operation", "calls", "us a call", "ms", "%");
  for (const auto& [name, sum] : sorted) {
    std::printf("%-34s %6d %10.1f %9.3f %7.1f\n", name.c_str(), sum.calls, 1e3 * sum.ms / sum.calls,
                sum.ms, 100 * sum.ms / total);
  }
  std::printf("%-34s %6zu %10s %9.3f %7.1f\n", "all", intervals.size(), "", total, 100.0);
}

// mamba_ssm 2's MambaInnerFn (ops/selective_scan_interface.py, checkpoint_lvl 1) saves, per token
// and in the activations' type, xz (2 d_inner), x_dbl (dt_rank + 2 d_state), B and C once more
// (2 d_state) and the scan's output (d_inner), and, in f32 for every 2048 tokens, pairs of d_inner
// x d_state numbers; conv1d_out and delta it computes again, as this library does.
void print_memory(const Training& training) {
  const ssm::TrainingConfig& c = training.config;
  const ssm::MambaConfig& b = c.model.block;
  const double mib = 1 << 20;
  const double tokens = static_cast<double>(c.batch * c.length);
  const auto tape = static_cast<double>(ssm::MambaTape<T>::bytes(b, c.batch, c.length));
  const double chunks = static_cast<double>(c.batch * ((c.length + 2047) / 2048));
  const double peer =
      tokens * sizeof(T) * static_cast<double>(3 * b.d_inner + b.dt_rank + 4 * b.d_state) +
      chunks * 8 * static_cast<double>(b.d_inner * b.d_state);
  const auto all =
      static_cast<double>(ssm::LanguageModelTape<T>::bytes(c.model, c.batch, c.length));
  std::size_t free = 0;
  std::size_t total = 0;
  check(cudaMemGetInfo(&free, &total));
  std::printf(
      "\nkept for backward, MiB: a block %.1f (MambaInnerFn saves %.1f); the model with its "
      "residual stream %.1f\ndevice memory in use: %.0f MiB\n",
      tape / mib, peer / mib, all / mib, static_cast<double>(total - free) / mib);
}

int run(int argc, char** argv) {
  ssm::TrainingConfig config;
  config.model.block = ssm::mamba_config(768);
  config.model.n_layer = 24;
  config.model.vocab_size = 50280;
  config.batch = argc > 1 ? std::atoi(argv[1]) : 8;
  config.length = argc > 2 ? std::atoi(argv[2]) : 2048;
  require(ssm::validate(config));
  Training training(config);
  const double ms = time_graph(training);
  std::printf("mamba-130m, bf16, batch %lld, length %lld: %.2f ms a step, %.0f tokens/s\n",
              static_cast<long long>(config.batch), static_cast<long long>(config.length), ms,
              1e3 * static_cast<double>(config.batch * config.length) / ms);
  print_operations(training);
  print_memory(training);
  return 0;
}

}  // namespace
}  // namespace ssm_bench

int main(int argc, char** argv) { return ssm_bench::run(argc, argv); }
