#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "block/block_under_test.hpp"
#include "golden/read.hpp"
#include "ssm/io/huggingface.hpp"
#include "ssm/model/language_model.hpp"
#include "ssm/model/sampler.hpp"

// Checkpoints and outputs of `transformers` (tests/golden/README.md) through LanguageModel<float>,
// on every host backend: logits, every hidden state, every mixer's input and output, and greedy
// generation token for token.
namespace ssm_test {

template <class BackendType>
class LanguageModelGoldenSuite : public ::testing::Test {
 protected:
  using T = float;
  using Model = ssm::LanguageModel<T, BackendType>;
  static constexpr double kTolerance = 1e-5;  // norm-relative, both sides computed in float

  void load(const std::string& name) {
    const std::filesystem::path dir = std::filesystem::path(SSM_GOLDEN_DIR) / name;
    SSM_ASSERT_READ(ssm::io::SafetensorsFile::open(dir / "expected.safetensors", &expected));
    ssm::io::Checkpoint checkpoint;
    SSM_ASSERT_READ(ssm::io::Checkpoint::open(dir, &checkpoint));
    config = ssm::io::model_config<ssm::LanguageModelConfig>(checkpoint.config());
    const auto weights = weight_memory.carve([&](ssm::Arena& arena) {
      return ssm::LanguageModelParameters<T>::carve(config, arena, arena);
    });
    SSM_ASSERT_READ(ssm::io::load_parameters(checkpoint, weights));
    const auto bytes = Model::prepared_bytes(backend, config);
    host_memory = ssm::OwnedWorkspace(bytes.host);
    data_memory = ssm::OwnedWorkspace(bytes.data);
    SSM_EXPECT_OK(
        model.prepare(backend, config, weights, host_memory.arena(), data_memory.arena()));
  }

  // Zero state for `batch` sequences and scratch for `length` tokens of each.
  void reset(ssm::index_t batch, ssm::index_t length) {
    state = state_memory.carve(
        [&](ssm::Arena& arena) { return ssm::LanguageModelState<T>::carve(config, batch, arena); });
    ssm::set_zero(state);
    scratch = ssm::OwnedWorkspace(model.workspace_bytes(backend, batch, length));
  }

  std::vector<double> golden(const std::string& name) {
    const ssm::io::TensorInfo* info = expected.find(name);
    if (info == nullptr) return {};
    ssm::Owned<double, 3> values({info->shape[0], info->shape[1], info->shape[2]});
    const ssm::io::Result read = expected.copy_to(name, values.view());
    EXPECT_TRUE(read) << read.message();
    return flat(values.view());
  }

  ssm::Owned<ssm::index_t, 2> golden_ids(const std::string& name) {
    const ssm::io::TensorInfo* info = expected.find(name);
    ssm::Owned<ssm::index_t, 2> ids({info->shape[0], info->shape[1]});
    const ssm::io::Result read = expected.copy_to(name, ids.view());
    EXPECT_TRUE(read) << read.message();
    return ids;
  }

  void expect_logits_and_every_layer(const std::string& name) {
    ASSERT_NO_FATAL_FAILURE(load(name));
    const auto ids = golden_ids("input_ids");
    reset(ids.extent(0), ids.extent(1));
    ssm::Owned<float, 3> logits({ids.extent(0), ids.extent(1), config.vocab_size});
    // A backend may cut time into chunks: collect what the observer sees of each.
    const auto layers = static_cast<std::size_t>(config.n_layer) + 1;
    std::vector<ssm::Owned<float, 3>> residual(layers), in(layers), out(layers);
    for (auto* group : {&residual, &in, &out}) {
      for (auto& array : *group) {
        array = ssm::Owned<float, 3>({ids.extent(0), ids.extent(1), config.block.d_model});
      }
    }
    const auto keep = [](const ssm::View<const float, 3>& from, ssm::Owned<float, 3>& to,
                         ssm::index_t first) {
      for (ssm::index_t b = 0; b < from.extent(0); ++b) {
        for (ssm::index_t t = 0; t < from.extent(1); ++t) {
          for (ssm::index_t i = 0; i < from.extent(2); ++i) {
            to.view()(b, first + t, i) = from(b, t, i);
          }
        }
      }
    };
    SSM_EXPECT_OK(model.forward(backend, ids.view(), logits.view(), state, scratch.arena(),
                                ssm::Logits::all, {}, [&](const ssm::LayerTrace<float>& trace) {
                                  const auto l = static_cast<std::size_t>(trace.layer);
                                  keep(trace.residual, residual[l], trace.first_token);
                                  keep(trace.mixer_in, in[l], trace.first_token);
                                  if (trace.mixer_out.present()) {
                                    keep(trace.mixer_out, out[l], trace.first_token);
                                  }
                                }));
    SSM_EXPECT_CLOSE(flat(logits.view()), golden("logits"), kTolerance);
    for (std::size_t l = 0; l + 1 < layers; ++l) {
      SCOPED_TRACE("layer " + std::to_string(l));
      const std::string i = std::to_string(l);
      // The residual stream after the layer, which is the next layer's input.
      SSM_EXPECT_CLOSE(flat(residual[l + 1].view()), golden("hidden_states." + i), kTolerance);
      SSM_EXPECT_CLOSE(flat(in[l].view()), golden("mixer." + i + ".in"), kTolerance);
      SSM_EXPECT_CLOSE(flat(out[l].view()), golden("mixer." + i + ".out"), kTolerance);
    }
    SSM_EXPECT_CLOSE(flat(in[layers - 1].view()),
                     golden("hidden_states." + std::to_string(layers - 1)), kTolerance);
  }

  void expect_logits_in_chunks(const std::string& name) {
    ASSERT_NO_FATAL_FAILURE(load(name));
    const auto ids = golden_ids("input_ids");
    for (ssm::index_t chunk : {1, 2, 3, 7}) {
      SCOPED_TRACE("chunks of " + std::to_string(chunk));
      reset(ids.extent(0), chunk);
      ssm::Owned<float, 3> logits({ids.extent(0), ids.extent(1), config.vocab_size});
      for (ssm::index_t t = 0; t < ids.extent(1); t += chunk) {
        const ssm::index_t n = std::min(chunk, ids.extent(1) - t);
        SSM_EXPECT_OK(model.forward(backend, ids.view().slice(1, t, n),
                                    logits.view().slice(1, t, n), state, scratch.arena()));
      }
      SSM_EXPECT_CLOSE(flat(logits.view()), golden("logits"), kTolerance);
    }
    reset(ids.extent(0), 1);
    ssm::Owned<float, 3> logits({ids.extent(0), ids.extent(1), config.vocab_size});
    for (ssm::index_t t = 0; t < ids.extent(1); ++t) {
      SSM_EXPECT_OK(model.step(backend, ids.view().select(1, t), logits.view().select(1, t), state,
                               scratch.arena()));
    }
    SSM_EXPECT_CLOSE(flat(logits.view()), golden("logits"), kTolerance);
  }

  void expect_greedy_generation(const std::string& name) {
    ASSERT_NO_FATAL_FAILURE(load(name));
    const auto wanted = golden_ids("generated");
    constexpr ssm::index_t kPrompt = 8;
    reset(1, kPrompt);
    ssm::SamplerConfig greedy;
    greedy.temperature = 0;
    ssm::Sampler sampler(greedy, 0);
    ssm::OwnedWorkspace sampling(ssm::Sampler::workspace_bytes(config.vocab_size));
    ssm::Owned<float, 3> logits({1, 1, config.vocab_size});
    SSM_EXPECT_OK(model.forward(backend, wanted.view().slice(1, 0, kPrompt), logits.view(), state,
                                scratch.arena(), ssm::Logits::last));
    for (ssm::index_t t = kPrompt; t < wanted.extent(1); ++t) {
      ssm::index_t token = -1;
      SSM_EXPECT_OK(sampler.sample<float>(logits.view().select(0, 0).select(0, 0), {},
                                          sampling.arena(), &token));
      ASSERT_EQ(token, wanted.view()(0, t)) << "at position " << t;
      SSM_EXPECT_OK(model.step(backend, ssm::View<const ssm::index_t, 1>(&token, {1}),
                               logits.view().select(1, 0), state, scratch.arena()));
    }
  }

  BackendType backend;
  ssm::io::SafetensorsFile expected;
  ssm::LanguageModelConfig config;
  ssm::OwnedWorkspace weight_memory, host_memory, data_memory, state_memory, scratch;
  ssm::LanguageModelState<T> state;
  Model model;
};
TYPED_TEST_SUITE_P(LanguageModelGoldenSuite);

TYPED_TEST_P(LanguageModelGoldenSuite, Mamba1) {
  this->expect_logits_and_every_layer("mamba1_dev");
  this->expect_logits_in_chunks("mamba1_dev");
  this->expect_greedy_generation("mamba1_dev");
}
TYPED_TEST_P(LanguageModelGoldenSuite, Mamba1Untied) {
  this->expect_logits_and_every_layer("mamba1_untied_dev");
  this->expect_logits_in_chunks("mamba1_untied_dev");
  this->expect_greedy_generation("mamba1_untied_dev");
}
TYPED_TEST_P(LanguageModelGoldenSuite, FalconMamba) {
  this->expect_logits_and_every_layer("falcon_mamba_dev");
  this->expect_logits_in_chunks("falcon_mamba_dev");
  this->expect_greedy_generation("falcon_mamba_dev");
}

REGISTER_TYPED_TEST_SUITE_P(LanguageModelGoldenSuite, Mamba1, Mamba1Untied, FalconMamba);

}  // namespace ssm_test
