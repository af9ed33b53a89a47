#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "block/block_under_test.hpp"
#include "cuda/pinned.hpp"
#include "golden/read.hpp"
#include "ssm/cuda/causal_conv1d.hpp"
#include "ssm/cuda/embedding.hpp"
#include "ssm/cuda/graph.cuh"
#include "ssm/cuda/language_model_step.hpp"
#include "ssm/cuda/linear.hpp"
#include "ssm/cuda/rms_norm.hpp"
#include "ssm/cuda/selective_scan.hpp"
#include "ssm/cuda/state_matrix.hpp"
#include "ssm/io/huggingface.hpp"
#include "ssm/model/language_model.hpp"
#include "ssm/model/sampler.hpp"
#include "ssm/owned.hpp"

// Checkpoints and outputs of `transformers` (tests/golden/README.md) and the trained keyword
// spotter (shared/real/README.md) through the CUDA backend.
namespace ssm_test {
namespace {

class CudaLanguageModel : public OnPinnedMemory, public testing::WithParamInterface<const char*> {
 protected:
  using Model = ssm::LanguageModel<float, ssm::Cuda>;
  static constexpr double kTolerance = 1e-5;  // norm-relative, both sides computed in float

  void SetUp() override {
    const std::filesystem::path dir = std::filesystem::path(SSM_GOLDEN_DIR) / GetParam();
    SSM_ASSERT_READ(ssm::io::SafetensorsFile::open(dir / "expected.safetensors", &expected_));
    ssm::io::Checkpoint checkpoint;
    SSM_ASSERT_READ(ssm::io::Checkpoint::open(dir, &checkpoint));
    config_ = ssm::io::model_config<ssm::LanguageModelConfig>(checkpoint.config());
    const auto weights = pinned(&weight_memory_, [&](ssm::Arena& arena) {
      return ssm::LanguageModelParameters<float>::carve(config_, arena, arena);
    });
    SSM_ASSERT_READ(ssm::io::load_parameters(checkpoint, weights));
    const auto bytes = Model::prepared_bytes(cuda_, config_);
    host_memory_ = Pinned(bytes.host);
    data_memory_ = Pinned(bytes.data);
    done(model_.prepare(cuda_, config_, weights, host_memory_.arena(), data_memory_.arena()));
  }
  // Zero state for `batch` sequences and scratch for `length` tokens of each.
  void reset(index_t batch, index_t length) {
    state_ = pinned(&state_memory_, [&](ssm::Arena& arena) {
      return ssm::LanguageModelState<float>::carve(config_, batch, arena);
    });
    ssm::set_zero(state_);
    scratch_ = Pinned(model_.workspace_bytes(cuda_, batch, length));
  }
  std::vector<double> golden(const std::string& name) {
    const ssm::io::TensorInfo* info = expected_.find(name);
    if (info == nullptr) return {};
    ssm::Owned<double, 3> values({info->shape[0], info->shape[1], info->shape[2]});
    const ssm::io::Result read = expected_.copy_to(name, values.view());
    EXPECT_TRUE(read) << read.message();
    return flat(values.view());
  }
  View<index_t, 2> golden_ids(const std::string& name, Pinned* memory) {
    const ssm::io::TensorInfo* info = expected_.find(name);
    View<index_t, 2> ids;
    *memory = Pinned::of(&ids, {info->shape[0], info->shape[1]});
    const ssm::io::Result read = expected_.copy_to(name, ids);
    EXPECT_TRUE(read) << read.message();
    return ids;
  }

  ssm::io::SafetensorsFile expected_;
  ssm::LanguageModelConfig config_;
  Pinned weight_memory_, host_memory_, data_memory_, state_memory_, scratch_;
  ssm::LanguageModelState<float> state_;
  Model model_;
};

TEST_P(CudaLanguageModel, LogitsAndEveryLayer) {
  Pinned ids_memory, logits_memory;
  const View<index_t, 2> ids = golden_ids("input_ids", &ids_memory);
  View<float, 3> logits;
  logits_memory = Pinned::of(&logits, {ids.extent(0), ids.extent(1), config_.vocab_size});
  reset(ids.extent(0), ids.extent(1));
  int layers = 0;
  done(model_.forward(
      cuda_, ids, logits, state_, scratch_.arena(), ssm::Logits::all, {},
      [&](const ssm::LayerTrace<float>& trace) {
        cuda_check(cudaStreamSynchronize(cuda_.stream), "layer");
        const std::string i = std::to_string(trace.layer);
        SCOPED_TRACE("layer " + i);
        ++layers;
        if (trace.layer == config_.n_layer) {
          SSM_EXPECT_CLOSE(flat(trace.mixer_in), golden("hidden_states." + i), kTolerance);
          return;
        }
        SSM_EXPECT_CLOSE(flat(trace.mixer_in), golden("mixer." + i + ".in"), kTolerance);
        SSM_EXPECT_CLOSE(flat(trace.mixer_out), golden("mixer." + i + ".out"), kTolerance);
      }));
  EXPECT_EQ(layers, config_.n_layer + 1);
  SSM_EXPECT_CLOSE(flat(logits), golden("logits"), kTolerance);
}

TEST_P(CudaLanguageModel, ChunksAndSteps) {
  Pinned ids_memory, logits_memory;
  const View<index_t, 2> ids = golden_ids("input_ids", &ids_memory);
  View<float, 3> logits;
  for (const index_t chunk : {1, 2, 3, 7}) {
    SCOPED_TRACE("chunks of " + std::to_string(chunk));
    logits_memory = Pinned::of(&logits, {ids.extent(0), ids.extent(1), config_.vocab_size});
    reset(ids.extent(0), chunk);
    for (index_t t = 0; t < ids.extent(1); t += chunk) {
      const index_t n = std::min(chunk, ids.extent(1) - t);
      done(model_.forward(cuda_, ids.slice(1, t, n), logits.slice(1, t, n), state_,
                          scratch_.arena()));
    }
    SSM_EXPECT_CLOSE(flat(logits), golden("logits"), kTolerance);
  }
  logits_memory = Pinned::of(&logits, {ids.extent(0), ids.extent(1), config_.vocab_size});
  reset(ids.extent(0), 1);
  for (index_t t = 0; t < ids.extent(1); ++t) {
    done(model_.step(cuda_, ids.select(1, t), logits.select(1, t), state_, scratch_.arena()));
  }
  SSM_EXPECT_CLOSE(flat(logits), golden("logits"), kTolerance);
}

// The decoding step recorded once: every token replays it.
TEST_P(CudaLanguageModel, GeneratedTokenForToken) {
  Pinned ids_memory, logits_memory, token_memory;
  const View<index_t, 2> wanted = golden_ids("generated", &ids_memory);
  constexpr index_t kPrompt = 8;
  reset(1, kPrompt);
  View<float, 3> logits;
  logits_memory = Pinned::of(&logits, {1, 1, config_.vocab_size});
  View<index_t, 1> token;
  token_memory = Pinned::of(&token, {1});
  done(model_.forward(cuda_, wanted.slice(1, 0, kPrompt), logits, state_, scratch_.arena(),
                      ssm::Logits::last));
  ssm::CudaGraph step;
  done(step.record(cuda_, [&] {
    return model_.step(cuda_, token, logits.select(1, 0), state_, scratch_.arena());
  }));
  ssm::SamplerConfig greedy;
  greedy.temperature = 0;
  ssm::Sampler sampler(greedy, 0);
  Pinned sampling(ssm::Sampler::workspace_bytes(config_.vocab_size));
  for (index_t t = kPrompt; t < wanted.extent(1); ++t) {
    const ssm::Status status =
        sampler.sample<float>(logits.select(0, 0).select(0, 0), {}, sampling.arena(), token.data());
    ASSERT_TRUE(status.is_ok()) << status.message().text;
    ASSERT_EQ(token(0), wanted(0, t)) << "at position " << t;
    done(step.launch(cuda_));
  }
}

INSTANTIATE_TEST_SUITE_P(Golden, CudaLanguageModel,
                         testing::Values("mamba1_dev", "mamba1_untied_dev", "falcon_mamba_dev"));

class CudaKeywordSpotter : public OnPinnedMemory, public testing::WithParamInterface<int> {};

TEST_P(CudaKeywordSpotter, PublishedLogits) {
  const std::filesystem::path dir = std::filesystem::path(SSM_REAL_DIR) / "keyword_spotting";
  if (!std::filesystem::exists(dir)) GTEST_SKIP() << "no trained keyword spotter at " << dir;
  ssm::io::SafetensorsFile model, sample;
  SSM_ASSERT_READ(ssm::io::SafetensorsFile::open(dir / "model.safetensors", &model));
  SSM_ASSERT_READ(ssm::io::SafetensorsFile::open(dir / "sample.safetensors", &sample));
  constexpr index_t kFrames = 100;
  const ssm::MambaConfig config = ssm::mamba_config(64);
  Pinned memory(std::size_t{1} << 22);
  ssm::Arena arena = memory.arena();
  const auto weight_in = arena.view<float, 2>({64, 40});
  const auto bias_in = arena.view<float, 1>({64});
  const auto weight_out = arena.view<float, 2>({10, 64});
  const auto bias_out = arena.view<float, 1>({10});
  const auto input = arena.view<float, 3>({1, kFrames, 40});
  const auto projected = arena.view<float, 3>({1, kFrames, 64});
  const auto mixed = arena.view<float, 3>({1, kFrames, 64});
  const auto mean = arena.view<float, 3>({1, 1, 64});
  const auto out = arena.view<float, 3>({1, 1, 10});
  ssm::Owned<double, 1> expected({10});
  SSM_ASSERT_READ(model.copy_to("linear_in.weight", weight_in));
  SSM_ASSERT_READ(model.copy_to("linear_in.bias", bias_in));
  SSM_ASSERT_READ(model.copy_to("classifier.weight", weight_out));
  SSM_ASSERT_READ(model.copy_to("classifier.bias", bias_out));
  SSM_ASSERT_READ(sample.copy_to("input", input.select(0, 0)));
  SSM_ASSERT_READ(sample.copy_to("logits", expected.view()));
  const auto weights = ssm::MambaParameters<float>::carve(config, arena);
  SSM_ASSERT_READ(ssm::io::load_parameters(model, weights, "mamba."));
  const auto state = ssm::MambaState<float>::carve(config, 1, arena);
  ssm::set_zero(state);

  ssm::MambaBlock<float, ssm::Cuda> block;
  const Pinned prepared(block.prepared_bytes(cuda_, config));
  done(block.prepare(cuda_, config, weights, prepared.arena()));
  done(linear(cuda_, ssm::LinearArgs<float>{input, weight_in, bias_in, projected}));
  const index_t chunk = GetParam();
  const Pinned scratch(block.workspace_bytes(cuda_, 1, chunk));
  for (index_t t = 0; t < kFrames; t += chunk) {
    const index_t n = std::min(chunk, kFrames - t);
    done(block.forward(cuda_, projected.slice(1, t, n), mixed.slice(1, t, n), state,
                       scratch.arena()));
  }
  for (index_t i = 0; i < 64; ++i) {
    double sum = 0;
    for (index_t t = 0; t < kFrames; ++t) sum += static_cast<double>(mixed(0, t, i));
    mean(0, 0, i) = static_cast<float>(sum / kFrames);
  }
  done(linear(cuda_, ssm::LinearArgs<float>{mean, weight_out, bias_out, out}));
  for (index_t i = 0; i < 10; ++i) {
    EXPECT_NEAR(static_cast<double>(out(0, 0, i)), expected.view()(i), 1e-4) << "logit " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(WholeChunksAndFrames, CudaKeywordSpotter, testing::Values(100, 7, 1));

}  // namespace
}  // namespace ssm_test
