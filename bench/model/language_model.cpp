#include "ssm/model/language_model.hpp"

#include <benchmark/benchmark.h>

#include <string>

#include "ssm/cpu/thread_pool.hpp"
#include "ssm/owned.hpp"
#include "ssm/ssm.hpp"

// Whole models on the CPU backend with random weights: decoding one token at a time, prefill with
// the head on the last token, small models. "floor" counters: decoding reads every weight once per
// token, so weight bytes per second stands beside the machine's read bandwidth; prefill does
// 2 flops per weight and token, so flop/s stands beside its multiply-add rate (both measured by
// bench_floors).
namespace {

using ssm::index_t;

ssm::LanguageModelConfig shape(index_t d_model, index_t n_layer, index_t vocab_size) {
  ssm::LanguageModelConfig c;
  c.block = ssm::mamba_config(d_model);
  c.n_layer = n_layer;
  c.vocab_size = vocab_size;
  return c;
}
ssm::LanguageModelConfig mamba_130m() { return shape(768, 24, 50280); }

// A model on weights of its own, prepared for `threads` threads.
class Instance {
 public:
  using Model = ssm::LanguageModel<float>;

  Instance(const ssm::LanguageModelConfig& config, ssm::WeightFormat format, int threads,
           index_t batch, index_t length)
      : pool_(threads), config_(config) {
    cpu.parallel = pool_.parallel();
    weights_ = weight_memory_.carve([&](ssm::Arena& arena) {
      return ssm::LanguageModelParameters<float>::carve(config, arena, arena);
    });
    ssm::Random random(1);
    ssm::initialize(config, weights_, random);
    const auto bytes = Model::prepared_bytes(cpu, config, format);
    host_ = ssm::OwnedWorkspace(bytes.host);
    data_ = ssm::OwnedWorkspace(bytes.data);
    status = model.prepare(cpu, config, weights_, host_.arena(), data_.arena(), format);
    state = state_memory_.carve([&](ssm::Arena& arena) {
      return ssm::LanguageModelState<float>::carve(config, batch, arena);
    });
    ssm::set_zero(state);
    scratch = ssm::OwnedWorkspace(model.workspace_bytes(cpu, batch, length));
    logits = ssm::Owned<float, 3>({batch, 1, config.vocab_size});
    ids = ssm::Owned<index_t, 2>({batch, length});
    for (std::size_t i = 0; i < ids.size(); ++i) ids.data()[i] = random.below(config.vocab_size);
  }

  // Multiplications by weights per token, the head included or not.
  double weights_per_token(bool head) const {
    const ssm::MambaConfig& b = config_.block;
    const index_t block = 3 * b.d_model * b.d_inner + b.d_inner * (2 * b.dt_rank + 2 * b.d_state);
    return static_cast<double>(config_.n_layer * block +
                               (head ? config_.vocab_size * b.d_model : 0));
  }

  ssm::Cpu cpu;
  ssm::Status status;
  Model model;
  ssm::LanguageModelState<float> state;
  ssm::OwnedWorkspace scratch;
  ssm::Owned<float, 3> logits;
  ssm::Owned<index_t, 2> ids;

 private:
  ssm::ThreadPool pool_;
  ssm::LanguageModelConfig config_;
  ssm::OwnedWorkspace weight_memory_, host_, data_, state_memory_;
  ssm::LanguageModelParameters<float> weights_;
};

double bytes_per_weight(ssm::WeightFormat format) {
  switch (format) {
    case ssm::WeightFormat::int8:
      return 1;
    case ssm::WeightFormat::bf16:
    case ssm::WeightFormat::f16:
      return 2;
    case ssm::WeightFormat::f32:
    case ssm::WeightFormat::native:
      break;
  }
  return 4;
}

void decode(benchmark::State& bench, const ssm::LanguageModelConfig& config,
            ssm::WeightFormat format, int threads, index_t batch) {
  Instance m(config, format, threads, batch, 1);
  for (auto _ : bench) {
    if (m.status) {
      m.status = m.model.step(m.cpu, m.ids.view().select(1, 0), m.logits.view().select(1, 0),
                              m.state, m.scratch.arena());
    }
    benchmark::ClobberMemory();
  }
  if (!m.status) bench.SkipWithError(m.status.message().text);
  const double steps = static_cast<double>(bench.iterations());
  bench.counters["tokens/s"] =
      benchmark::Counter(steps * static_cast<double>(batch), benchmark::Counter::kIsRate);
  bench.counters["weight_B/s"] = benchmark::Counter(
      steps * m.weights_per_token(true) * bytes_per_weight(format), benchmark::Counter::kIsRate);
}

void prefill(benchmark::State& bench, const ssm::LanguageModelConfig& config,
             ssm::WeightFormat format, int threads, index_t length) {
  Instance m(config, format, threads, 1, length);
  for (auto _ : bench) {
    if (m.status) {
      m.status = m.model.forward(m.cpu, m.ids.view(), m.logits.view(), m.state, m.scratch.arena(),
                                 ssm::Logits::last);
    }
    benchmark::ClobberMemory();
  }
  if (!m.status) bench.SkipWithError(m.status.message().text);
  const double tokens = static_cast<double>(bench.iterations() * length);
  bench.counters["tokens/s"] = benchmark::Counter(tokens, benchmark::Counter::kIsRate);
  bench.counters["flop/s"] =
      benchmark::Counter(2 * tokens * m.weights_per_token(false), benchmark::Counter::kIsRate);
}

struct NamedFormat {
  const char* name;
  ssm::WeightFormat format;
};
constexpr NamedFormat kFormats[] = {{"f32", ssm::WeightFormat::f32},
                                    {"bf16", ssm::WeightFormat::bf16},
                                    {"f16", ssm::WeightFormat::f16},
                                    {"int8", ssm::WeightFormat::int8}};

const int kRegistered = [] {
  for (int threads : {1, 2}) {
    const std::string suffix = "/threads:" + std::to_string(threads);
    for (const NamedFormat& f : kFormats) {
      for (index_t batch : {1, 8}) {
        benchmark::RegisterBenchmark(
            ("decode/130m/" + std::string(f.name) + "/batch:" + std::to_string(batch) + suffix)
                .c_str(),
            [=](benchmark::State& s) { decode(s, mamba_130m(), f.format, threads, batch); })
            ->Unit(benchmark::kMillisecond)
            ->UseRealTime();
      }
    }
    for (const NamedFormat& f : {kFormats[0], kFormats[1]}) {
      for (index_t length : {128, 512, 2048}) {
        benchmark::RegisterBenchmark(
            ("prefill/130m/" + std::string(f.name) + "/L:" + std::to_string(length) + suffix)
                .c_str(),
            [=](benchmark::State& s) { prefill(s, mamba_130m(), f.format, threads, length); })
            ->Unit(benchmark::kMillisecond)
            ->UseRealTime();
      }
    }
  }
  benchmark::RegisterBenchmark("decode/small/d_model:64/layers:4", [](benchmark::State& s) {
    decode(s, shape(64, 4, 256), ssm::WeightFormat::f32, 1, 1);
  });
  benchmark::RegisterBenchmark("decode/small/d_model:16/layers:1", [](benchmark::State& s) {
    decode(s, shape(16, 1, 16), ssm::WeightFormat::f32, 1, 1);
  });
  return 0;
}();

}  // namespace
