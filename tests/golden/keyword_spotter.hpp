#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "block/block_under_test.hpp"
#include "golden/read.hpp"
#include "ssm/io/huggingface.hpp"

// A trained keyword spotter and a real utterance (shared/real/README.md), on every host backend:
// Linear 40 -> 64, one Mamba block without norm or residual, mean over time, Linear 64 -> 10. The
// data lives beside the project; where it is not, the tests say so and are skipped.
namespace ssm_test {

template <class On>
class KeywordSpotter : public ::testing::Test {
 protected:
  using T = typename On::T;
  using Backend = typename On::Backend;
  using Block = ssm::MambaBlock<T, Backend>;

  void SetUp() override {
    const std::filesystem::path dir = std::filesystem::path(SSM_REAL_DIR) / "keyword_spotting";
    if (!std::filesystem::exists(dir)) GTEST_SKIP() << "no trained keyword spotter at " << dir;
    ssm::io::SafetensorsFile model, sample;
    SSM_ASSERT_READ(ssm::io::SafetensorsFile::open(dir / "model.safetensors", &model));
    SSM_ASSERT_READ(ssm::io::SafetensorsFile::open(dir / "sample.safetensors", &sample));

    SSM_ASSERT_READ(model.copy_to("linear_in.weight", linear_in_weight.view()));
    SSM_ASSERT_READ(model.copy_to("linear_in.bias", linear_in_bias.view()));
    SSM_ASSERT_READ(model.copy_to("classifier.weight", classifier_weight.view()));
    SSM_ASSERT_READ(model.copy_to("classifier.bias", classifier_bias.view()));
    SSM_ASSERT_READ(sample.copy_to("input", input.view().select(0, 0)));
    SSM_ASSERT_READ(sample.copy_to("logits", expected.view()));

    const ssm::MambaConfig config = ssm::mamba_config(64);
    const auto parameters = weight_memory.carve(
        [&](ssm::Arena& arena) { return ssm::MambaParameters<T>::carve(config, arena); });
    SSM_ASSERT_READ(ssm::io::load_parameters(model, parameters, "mamba."));
    weights = parameters;
    prepare(ssm::WeightFormat::native);
  }

  // Packs the projections as `format` and starts a new utterance.
  void prepare(ssm::WeightFormat format) {
    const ssm::MambaConfig config = ssm::mamba_config(64);
    prepared_memory = ssm::OwnedWorkspace(Block::prepared_bytes(backend, config, format));
    SSM_EXPECT_OK(block.prepare(backend, config, weights, prepared_memory.arena(), format));
    state = state_memory.carve(
        [&](ssm::Arena& arena) { return ssm::MambaState<T>::carve(config, 1, arena); });
    ssm::set_zero(state);
  }

  // The ten logits, the utterance cut into chunks of `chunk` frames.
  std::vector<double> logits(ssm::index_t chunk) {
    const ssm::index_t frames = input.extent(1);
    ssm::Owned<T, 3> projected({1, frames, 64}), mixed({1, frames, 64}), mean({1, 1, 64}),
        out({1, 1, 10});
    SSM_EXPECT_OK(linear(backend, ssm::LinearArgs<T>{input.view(), linear_in_weight.view(),
                                                     linear_in_bias.view(), projected.view()}));
    ssm::OwnedWorkspace scratch(block.workspace_bytes(backend, 1, chunk));
    for (ssm::index_t t = 0; t < frames; t += chunk) {
      const ssm::index_t n = std::min(chunk, frames - t);
      SSM_EXPECT_OK(block.forward(backend, projected.view().slice(1, t, n),
                                  mixed.view().slice(1, t, n), state, scratch.arena()));
    }
    for (ssm::index_t i = 0; i < 64; ++i) {
      double sum = 0;
      for (ssm::index_t t = 0; t < frames; ++t) sum += static_cast<double>(mixed.view()(0, t, i));
      mean.view()(0, 0, i) = T(static_cast<ssm::accum_t<T>>(sum / static_cast<double>(frames)));
    }
    SSM_EXPECT_OK(linear(backend, ssm::LinearArgs<T>{mean.view(), classifier_weight.view(),
                                                     classifier_bias.view(), out.view()}));
    return flat(out.view());
  }

  void expect_the_published_logits(ssm::index_t chunk) {
    const std::vector<double> found = logits(chunk);
    for (ssm::index_t i = 0; i < 10; ++i) {
      EXPECT_NEAR(found[static_cast<std::size_t>(i)], expected.view()(i), 1e-4) << "logit " << i;
    }
  }

  Backend backend;
  ssm::Owned<T, 2> linear_in_weight{{64, 40}}, classifier_weight{{10, 64}};
  ssm::Owned<T, 1> linear_in_bias{{64}}, classifier_bias{{10}};
  ssm::Owned<T, 3> input{{1, 100, 40}};
  ssm::Owned<double, 1> expected{{10}};
  ssm::OwnedWorkspace weight_memory, prepared_memory, state_memory;
  ssm::MambaWeights<T> weights;
  ssm::MambaState<T> state;
  Block block;
};

}  // namespace ssm_test
