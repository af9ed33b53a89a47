#include <benchmark/benchmark.h>
#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include "ssm/cpu/thread_pool.hpp"
#include "ssm/owned.hpp"
#include "ssm/ssm.hpp"

// A Mamba-130m as a ggml graph, to be timed beside ours (bench/model/language_model.cpp is linked
// into the same program: run with --benchmark_enable_random_interleaving=true). The first benchmark
// feeds both the same weights and fails unless they agree, so the two do the same work.
namespace {

using ssm::index_t;

ssm::LanguageModelConfig mamba_130m() {
  ssm::LanguageModelConfig c;
  c.block = ssm::mamba_config(768);
  c.n_layer = 24;
  c.vocab_size = 50280;
  return c;
}

// The weights that both sides use.
class Weights {
 public:
  explicit Weights(const ssm::LanguageModelConfig& config) {
    parameters = memory_.carve([&](ssm::Arena& arena) {
      return ssm::LanguageModelParameters<float>::carve(config, arena, arena);
    });
    ssm::Random random(1);
    ssm::initialize(config, parameters, random);
  }
  ssm::LanguageModelParameters<float> parameters;

 private:
  ssm::OwnedWorkspace memory_;
};

// The model with weights of `type`, states that stay between calls, and a graph for `length`
// tokens whose head sees the last one.
class GgmlMamba {
 public:
  GgmlMamba(const ssm::LanguageModelConfig& config,
            const ssm::LanguageModelParameters<float>& weights, ggml_type type, int length,
            int threads)
      : c_(config.block), type_(type), length_(length) {
    backend_ = ggml_backend_cpu_init();
    ggml_threadpool_params params = ggml_threadpool_params_default(threads);
    pool_ = ggml_threadpool_new(&params);
    ggml_backend_cpu_set_threadpool(backend_, pool_);
    ggml_backend_cpu_set_n_threads(backend_, threads);

    const auto tensors = static_cast<std::size_t>(20 * config.n_layer + 10);
    stored_ = ggml_init({tensors * ggml_tensor_overhead(), nullptr, true});
    embedding_ = matrix(weights.embedding);
    norm_f_ = vector(weights.norm_f_weight);
    ids_ = ggml_new_tensor_1d(stored_, GGML_TYPE_I32, length);
    sequence_ = ggml_new_tensor_1d(stored_, GGML_TYPE_I32, 1);
    for (index_t i = 0; i < config.n_layer; ++i) layers_.push_back(declare(weights.layers[i]));
    memory_ = ggml_backend_alloc_ctx_tensors(stored_, backend_);
    ggml_backend_buffer_clear(memory_, 0);  // the states
    for (const Pending& p : pending_) write(p);
    pending_.clear();

    graph_context_ =
        ggml_init({tensors * 4 * ggml_tensor_overhead() + ggml_graph_overhead_custom(8192, false),
                   nullptr, true});
    graph_ = ggml_new_graph_custom(graph_context_, 8192, false);
    build();
    allocator_ = ggml_gallocr_new(ggml_backend_get_default_buffer_type(backend_));
    if (!ggml_gallocr_alloc_graph(allocator_, graph_)) std::abort();
  }
  ~GgmlMamba() {
    ggml_gallocr_free(allocator_);
    ggml_free(graph_context_);
    ggml_backend_buffer_free(memory_);
    ggml_free(stored_);
    ggml_backend_free(backend_);
    ggml_threadpool_free(pool_);
  }
  GgmlMamba(const GgmlMamba&) = delete;
  GgmlMamba& operator=(const GgmlMamba&) = delete;

  void set_ids(const std::vector<std::int32_t>& ids) {
    ggml_backend_tensor_set(ids_, ids.data(), 0, ids.size() * sizeof(ids[0]));
  }
  void run() {
    if (ggml_backend_graph_compute(backend_, graph_) != GGML_STATUS_SUCCESS) std::abort();
  }
  std::vector<float> logits() const {
    std::vector<float> out(static_cast<std::size_t>(ggml_nelements(logits_)));
    ggml_backend_tensor_get(logits_, out.data(), 0, out.size() * sizeof(float));
    return out;
  }

 private:
  struct Layer {
    ggml_tensor *norm, *in_proj, *conv, *conv_bias, *x_proj, *dt_proj, *dt_bias, *A, *D, *out_proj;
    ggml_tensor *conv_state, *state;
  };
  // A tensor that gets its values once it has memory.
  struct Pending {
    ggml_tensor* tensor;
    std::vector<float> values;
  };

  template <class View>
  static std::vector<float> values_of(const View& v) {
    std::vector<float> out;
    out.reserve(static_cast<std::size_t>(v.size()));
    if constexpr (View::rank == 1) {
      for (index_t i = 0; i < v.extent(0); ++i) out.push_back(v(i));
    } else {
      for (index_t i = 0; i < v.extent(0); ++i) {
        for (index_t j = 0; j < v.extent(1); ++j) out.push_back(v(i, j));
      }
    }
    return out;
  }
  ggml_tensor* keep(ggml_tensor* tensor, std::vector<float> values) {
    pending_.push_back({tensor, std::move(values)});
    return tensor;
  }
  // ggml names the fastest dimension first. Rows that are no whole number of the type's blocks (48
  // inputs of dt_proj as q8_0) are kept in 16 bits.
  template <class View>
  ggml_tensor* matrix(const View& v) {
    const ggml_type type = v.extent(1) % ggml_blck_size(type_) == 0 ? type_ : GGML_TYPE_F16;
    return keep(ggml_new_tensor_2d(stored_, type, v.extent(1), v.extent(0)), values_of(v));
  }
  template <class View>
  ggml_tensor* vector(const View& v) {
    return keep(ggml_new_tensor_1d(stored_, GGML_TYPE_F32, v.extent(0)), values_of(v));
  }
  template <class View>
  ggml_tensor* table(const View& v, std::vector<float> values) {
    return keep(ggml_new_tensor_2d(stored_, GGML_TYPE_F32, v.extent(1), v.extent(0)),
                std::move(values));
  }
  static void write(const Pending& p) {
    std::vector<unsigned char> bytes(ggml_nbytes(p.tensor));
    ggml_quantize_chunk(p.tensor->type, p.values.data(), bytes.data(), 0, ggml_nrows(p.tensor),
                        p.tensor->ne[0], nullptr);
    ggml_backend_tensor_set(p.tensor, bytes.data(), 0, bytes.size());
  }

  template <class LayerWeights>
  Layer declare(const LayerWeights& weights) {
    const auto& w = weights.mixer;
    std::vector<float> A = values_of(w.A_log);
    for (float& a : A) a = -std::exp(a);
    Layer l{};
    l.norm = vector(weights.norm_weight);
    l.in_proj = matrix(w.in_proj_weight);
    l.conv = table(w.conv1d_weight, values_of(w.conv1d_weight));
    l.conv_bias = vector(w.conv1d_bias);
    l.x_proj = matrix(w.x_proj_weight);
    l.dt_proj = matrix(w.dt_proj_weight);
    l.dt_bias = vector(w.dt_proj_bias);
    l.A = table(w.A_log, std::move(A));
    l.D = vector(w.D);
    l.out_proj = matrix(w.out_proj_weight);
    l.conv_state = ggml_new_tensor_3d(stored_, GGML_TYPE_F32, c_.d_conv - 1, c_.d_inner, 1);
    l.state = ggml_new_tensor_4d(stored_, GGML_TYPE_F32, c_.d_state, 1, c_.d_inner, 1);
    return l;
  }

  ggml_tensor* norm(ggml_tensor* x, ggml_tensor* weight) {
    return ggml_mul(graph_context_, ggml_rms_norm(graph_context_, x, 1e-5f), weight);
  }

  ggml_tensor* mixer(const Layer& l, ggml_tensor* input) {
    ggml_context* const g = graph_context_;
    const index_t D = c_.d_inner;
    const index_t N = c_.d_state;
    const index_t R = c_.dt_rank;
    const index_t L = length_;
    const auto f = sizeof(float);

    ggml_tensor* xz = ggml_mul_mat(g, l.in_proj, input);
    ggml_tensor* x = ggml_view_3d(g, xz, D, L, 1, xz->nb[1], xz->nb[1] * static_cast<size_t>(L), 0);
    ggml_tensor* z = ggml_view_2d(g, xz, D, L, xz->nb[1], static_cast<size_t>(D) * f);

    ggml_tensor* window = ggml_concat(g, l.conv_state, ggml_transpose(g, x), 0);
    ggml_tensor* last = ggml_view_3d(g, window, c_.d_conv - 1, D, 1, window->nb[1], window->nb[2],
                                     static_cast<size_t>(L) * f);
    ggml_build_forward_expand(graph_, ggml_cpy(g, last, l.conv_state));
    x = ggml_ssm_conv(g, window, l.conv);
    x = ggml_silu(g, ggml_add(g, x, l.conv_bias));

    ggml_tensor* dtBC = ggml_mul_mat(g, l.x_proj, ggml_reshape_2d(g, x, D, L));
    const size_t row = dtBC->nb[1];
    ggml_tensor* dt = ggml_view_2d(g, dtBC, R, L, row, 0);
    ggml_tensor* B = ggml_view_4d(g, dtBC, N, 1, L, 1, static_cast<size_t>(N) * f, row,
                                  row * static_cast<size_t>(L), static_cast<size_t>(R) * f);
    ggml_tensor* C = ggml_view_4d(g, dtBC, N, 1, L, 1, static_cast<size_t>(N) * f, row,
                                  row * static_cast<size_t>(L), static_cast<size_t>(R + N) * f);
    dt = ggml_add(g, ggml_mul_mat(g, l.dt_proj, dt), l.dt_bias);
    dt = ggml_reshape_3d(g, dt, D, L, 1);

    ggml_tensor* scan =
        ggml_ssm_scan(g, l.state, ggml_reshape_4d(g, x, 1, D, L, 1), dt, l.A, B, C, sequence_, 1);
    ggml_tensor* state = ggml_view_1d(g, scan, D * N, static_cast<size_t>(D * L) * f);
    ggml_build_forward_expand(graph_, ggml_cpy(g, state, l.state));
    ggml_tensor* y = ggml_view_2d(g, scan, D, L, static_cast<size_t>(D) * f, 0);
    y = ggml_add(g, y, ggml_mul(g, ggml_reshape_2d(g, x, D, L), l.D));
    y = ggml_swiglu_split(g, ggml_cont(g, z), y);
    return ggml_mul_mat(g, l.out_proj, y);
  }

  void build() {
    ggml_context* const g = graph_context_;
    ggml_tensor* h = ggml_get_rows(g, embedding_, ids_);
    for (const Layer& l : layers_) h = ggml_add(g, h, mixer(l, norm(h, l.norm)));
    h = ggml_view_2d(g, h, c_.d_model, 1, h->nb[1], h->nb[1] * static_cast<size_t>(length_ - 1));
    logits_ = ggml_mul_mat(g, embedding_, norm(h, norm_f_));
    ggml_set_output(logits_);
    ggml_build_forward_expand(graph_, logits_);
  }

  ssm::MambaConfig c_;
  ggml_type type_;
  index_t length_;
  ggml_backend_t backend_ = nullptr;
  ggml_threadpool_t pool_ = nullptr;
  ggml_context* stored_ = nullptr;
  ggml_context* graph_context_ = nullptr;
  ggml_backend_buffer_t memory_ = nullptr;
  ggml_gallocr_t allocator_ = nullptr;
  ggml_cgraph* graph_ = nullptr;
  ggml_tensor *embedding_ = nullptr, *norm_f_ = nullptr, *ids_ = nullptr, *sequence_ = nullptr;
  ggml_tensor* logits_ = nullptr;
  std::vector<Layer> layers_;
  std::vector<Pending> pending_;
};

std::vector<std::int32_t> some_ids(int count) {
  std::vector<std::int32_t> ids;
  for (int i = 0; i < count; ++i) ids.push_back((i * 7919 + 13) % 50280);
  return ids;
}

// Five tokens at once, then two more one by one: states included, both sides must say the same.
void agreement(benchmark::State& bench) {
  const ssm::LanguageModelConfig config = mamba_130m();
  const Weights weights(config);
  using Model = ssm::LanguageModel<float>;
  const ssm::Cpu cpu;
  Model model;
  const auto bytes = Model::prepared_bytes(cpu, config, ssm::WeightFormat::f32);
  ssm::OwnedWorkspace host(bytes.host);
  ssm::OwnedWorkspace data(bytes.data);
  ssm::Status status = model.prepare(cpu, config, weights.parameters, host.arena(), data.arena(),
                                     ssm::WeightFormat::f32);
  ssm::OwnedWorkspace state_memory;
  auto state = state_memory.carve(
      [&](ssm::Arena& arena) { return ssm::LanguageModelState<float>::carve(config, 1, arena); });
  ssm::set_zero(state);
  ssm::OwnedWorkspace scratch(model.workspace_bytes(cpu, 1, 5));
  ssm::Owned<float, 3> logits({1, 1, config.vocab_size});

  const std::vector<std::int32_t> ids = some_ids(7);
  double worst = 0;
  for (const int length : {5, 1}) {
    GgmlMamba peer(config, weights.parameters, GGML_TYPE_F32, length, 1);
    if (length == 1) ssm::set_zero(state);
    for (int t = 0; t + length <= 7 && status; t += length) {
      ssm::Owned<index_t, 2> mine({1, length});
      for (int i = 0; i < length; ++i) mine.data()[i] = ids[static_cast<std::size_t>(t + i)];
      status =
          model.forward(cpu, mine.view(), logits.view(), state, scratch.arena(), ssm::Logits::last);
      peer.set_ids(std::vector<std::int32_t>(ids.begin() + t, ids.begin() + t + length));
      peer.run();
      const std::vector<float> theirs = peer.logits();
      double difference = 0;
      double norm = 0;
      for (std::size_t i = 0; i < theirs.size(); ++i) {
        const double d = static_cast<double>(theirs[i]) - static_cast<double>(logits.data()[i]);
        difference += d * d;
        norm += static_cast<double>(theirs[i]) * static_cast<double>(theirs[i]);
      }
      const double error = std::sqrt(difference / norm);
      worst = std::isnan(error) ? HUGE_VAL : std::max(worst, error);
    }
  }
  for (auto _ : bench) {
  }
  bench.counters["norm-relative difference"] = worst;
  if (!status) bench.SkipWithError(status.message().text);
  if (!(worst <= 1e-4)) bench.SkipWithError("the two models do not agree");
}
BENCHMARK(agreement)->Name("ggml/agreement")->Iterations(1);

void run(benchmark::State& bench, ggml_type type, int length, int threads) {
  const ssm::LanguageModelConfig config = mamba_130m();
  const Weights weights(config);
  GgmlMamba model(config, weights.parameters, type, length, threads);
  model.set_ids(some_ids(length));
  for (auto _ : bench) model.run();
  bench.counters["tokens/s"] = benchmark::Counter(static_cast<double>(bench.iterations()) * length,
                                                  benchmark::Counter::kIsRate);
}

const int kRegistered = [] {
  struct Named {
    const char* name;
    ggml_type type;
  };
  constexpr Named kTypes[] = {{"f32", GGML_TYPE_F32},
                              {"bf16", GGML_TYPE_BF16},
                              {"f16", GGML_TYPE_F16},
                              {"q8_0", GGML_TYPE_Q8_0}};
  for (const int threads : {1, 2}) {
    for (const Named& t : kTypes) {
      for (const int length : {1, 128, 512}) {
        const std::string what =
            length == 1 ? "decode/130m/" + std::string(t.name)
                        : "prefill/130m/" + std::string(t.name) + "/L:" + std::to_string(length);
        benchmark::RegisterBenchmark(
            ("ggml/" + what + "/threads:" + std::to_string(threads)).c_str(),
            [=](benchmark::State& s) { run(s, t.type, length, threads); })
            ->Unit(benchmark::kMillisecond)
            ->UseRealTime();
      }
    }
  }
  return 0;
}();

}  // namespace
