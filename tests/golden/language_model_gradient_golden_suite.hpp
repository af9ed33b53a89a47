#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "block/gradient_checks.hpp"
#include "golden/read.hpp"
#include "ssm/io/huggingface.hpp"
#include "ssm/model/language_model.hpp"
#include "ssm/ops/cross_entropy.hpp"

// The loss of `transformers` checkpoints (tests/golden/README.md) and its gradient with respect to
// every parameter, through LanguageModel<T>, on every backend. A device backend runs it on memory
// that the host reaches too.
namespace ssm_test {

template <class On>
class LanguageModelGradientGoldenSuite : public ::testing::Test {
 protected:
  using T = typename On::T;
  using Model = ssm::LanguageModel<T, typename On::Backend>;
  // Norm-relative, of each gradient; the golden side was computed in float.
  static constexpr double kTolerance = 1e-4;

  void expect_loss_and_every_gradient(const std::string& name) {
    const std::filesystem::path dir = std::filesystem::path(SSM_GOLDEN_DIR) / name;
    ssm::io::SafetensorsFile expected;
    SSM_ASSERT_READ(ssm::io::SafetensorsFile::open(dir / "expected.safetensors", &expected));
    ssm::io::Checkpoint checkpoint;
    SSM_ASSERT_READ(ssm::io::Checkpoint::open(dir, &checkpoint));
    const auto config = ssm::io::model_config<ssm::LanguageModelConfig>(checkpoint.config());

    ssm::OwnedWorkspace memory[6];
    const auto parameters = [&](ssm::OwnedWorkspace& m) {
      return m.carve([&](ssm::Arena& arena) {
        return ssm::LanguageModelParameters<T>::carve(config, arena, arena);
      });
    };
    const auto weights = parameters(memory[0]);
    const auto grads = parameters(memory[1]);
    const auto wanted = parameters(memory[2]);
    SSM_ASSERT_READ(ssm::io::load_parameters(checkpoint, weights));
    SSM_ASSERT_READ(ssm::io::load_parameters(expected, wanted, "grad."));
    grads.for_each([](const char*, const auto& v) { fill_nan(v); });
    const typename On::Backend backend = On::backend();
    Model model;
    const auto bytes = Model::prepared_bytes(backend, config);
    memory[3] = ssm::OwnedWorkspace(bytes.host);
    memory[4] = ssm::OwnedWorkspace(bytes.data);
    SSM_EXPECT_OK(model.prepare(backend, config, weights, memory[3].arena(), memory[4].arena()));

    const ssm::io::TensorInfo* const info = expected.find("input_ids");
    ASSERT_NE(info, nullptr);
    const ssm::index_t batch = info->shape[0], length = info->shape[1];
    ssm::Owned<ssm::index_t, 2> ids({batch, length}), targets({batch, length});
    SSM_ASSERT_READ(expected.copy_to("input_ids", ids.view()));
    for (ssm::index_t b = 0; b < batch; ++b) {
      for (ssm::index_t t = 0; t < length; ++t) {
        targets.view()(b, t) = t + 1 < length ? ids.view()(b, t + 1) : -100;
      }
    }

    const auto tape = memory[5].carve([&](ssm::Arena& arena) {
      return ssm::LanguageModelTape<T>::carve(config, batch, length, arena);
    });
    ssm::OwnedWorkspace scratch(model.training_workspace_bytes(backend, batch, length));
    ssm::Owned<T, 3> logits({batch, length, config.vocab_size});
    SSM_EXPECT_OK(
        model.forward_train(backend, ids.view(), logits.view(), {}, {}, tape, scratch.arena()));
    ssm::Owned<T, 1> loss({1}), wanted_loss({1});
    ssm::CrossEntropyArgs<T> ce;
    ce.logits = logits.view();
    ce.targets = targets.view();
    ce.loss = loss.view();
    ce.dlogits = logits.view();
    const ssm::OwnedWorkspace loss_scratch(scratch_bytes(backend, ce));
    SSM_EXPECT_OK(cross_entropy(backend, ce, loss_scratch.arena()));
    SSM_ASSERT_READ(expected.copy_to("loss", wanted_loss.view()));
    EXPECT_NEAR(loss.view()(0), wanted_loss.view()(0), 1e-5 * std::abs(wanted_loss.view()(0)));

    ssm::LanguageModelGradArgs<T> args;
    args.ids = ids.view();
    args.dlogits = logits.view();
    args.grads = grads;
    SSM_EXPECT_OK(model.backward(backend, args, tape, scratch.arena()));
    std::vector<std::vector<double>> all;
    wanted.for_each([&](const char*, const auto& v) { all.push_back(values_of(v)); });
    std::size_t next = 0;
    grads.for_each([&](const char* parameter, const auto& v) {
      SCOPED_TRACE(parameter);
      SSM_EXPECT_CLOSE(values_of(v), all[next++], kTolerance);
    });
    EXPECT_EQ(next, all.size());
  }
};
TYPED_TEST_SUITE_P(LanguageModelGradientGoldenSuite);

TYPED_TEST_P(LanguageModelGradientGoldenSuite, Mamba1) {
  this->expect_loss_and_every_gradient("mamba1_dev");
}
TYPED_TEST_P(LanguageModelGradientGoldenSuite, Mamba1Untied) {
  this->expect_loss_and_every_gradient("mamba1_untied_dev");
}
TYPED_TEST_P(LanguageModelGradientGoldenSuite, FalconMamba) {
  this->expect_loss_and_every_gradient("falcon_mamba_dev");
}

REGISTER_TYPED_TEST_SUITE_P(LanguageModelGradientGoldenSuite, Mamba1, Mamba1Untied, FalconMamba);

}  // namespace ssm_test
