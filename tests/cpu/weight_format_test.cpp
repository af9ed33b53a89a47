#include <cmath>
#include <fstream>
#include <iterator>

#include "golden/keyword_spotter.hpp"
#include "model/model_under_test.hpp"
#include "ssm/ssm.hpp"

// What storing the weights in fewer bits costs a whole model, beside the same model in float.
namespace ssm_test {

struct FormatBound {
  ssm::WeightFormat format;
  double bound;  // norm-relative error of the logits
};
// Rounding each weight to 8, 11 and 7 bits, and what layers make of it.
constexpr FormatBound kFormats[] = {{ssm::WeightFormat::f32, 1e-6},
                                    {ssm::WeightFormat::bf16, 1e-2},
                                    {ssm::WeightFormat::f16, 1e-3},
                                    {ssm::WeightFormat::int8, 2e-2}};

using TrainedSpotter = KeywordSpotter<On<ssm::Cpu, float>>;

TEST_F(TrainedSpotter, LogitsInEveryFormat) {
  const std::vector<double> exact = logits(100);
  for (const FormatBound& f : kFormats) {
    SCOPED_TRACE("format " + std::to_string(static_cast<int>(f.format)));
    prepare(f.format);
    const std::vector<double> found = logits(100);
    SSM_EXPECT_CLOSE(found, exact, f.bound);
    std::printf("format %d: logits differ by %.2e\n", static_cast<int>(f.format),
                relative_error(found, exact));
  }
}

// The bits per byte that the trained model of examples/generate needs for text it has not seen.
TEST(WeightFormat, BitsPerByteOfATrainedModelOnRealText) {
  const std::filesystem::path dir = SSM_TEXT_MODEL_DIR;
  std::ifstream file(dir / "held_out.txt", std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  ASSERT_GT(text.size(), 4096u) << "no text in " << dir;
  const auto length = static_cast<ssm::index_t>(text.size());
  ssm::Owned<ssm::index_t, 2> ids({1, length});
  for (ssm::index_t t = 0; t < length; ++t) {
    ids.view()(0, t) = static_cast<unsigned char>(text[static_cast<std::size_t>(t)]);
  }

  ssm::io::Checkpoint checkpoint;
  SSM_ASSERT_READ(ssm::io::Checkpoint::open(dir, &checkpoint));
  const auto config = ssm::io::model_config<ssm::LanguageModelConfig>(checkpoint.config());
  ASSERT_EQ(config.vocab_size, 256);
  ssm::OwnedWorkspace weight_memory, state_memory;
  const auto weights = weight_memory.carve([&](ssm::Arena& arena) {
    return ssm::LanguageModelParameters<float>::carve(config, arena, arena);
  });
  SSM_ASSERT_READ(ssm::io::load_parameters(checkpoint, weights));

  double exact = 0;
  for (const FormatBound& f : kFormats) {
    using Model = ssm::LanguageModel<float, ssm::Cpu>;
    const ssm::Cpu cpu;
    const auto bytes = Model::prepared_bytes(cpu, config, f.format);
    ssm::OwnedWorkspace host(bytes.host), data(bytes.data);
    Model model;
    SSM_EXPECT_OK(model.prepare(cpu, config, weights, host.arena(), data.arena(), f.format));
    const auto state = state_memory.carve(
        [&](ssm::Arena& arena) { return ssm::LanguageModelState<float>::carve(config, 1, arena); });
    ssm::set_zero(state);
    ssm::OwnedWorkspace scratch(model.workspace_bytes(cpu, 1, length));
    ssm::Owned<float, 3> logits({1, length, config.vocab_size});
    SSM_EXPECT_OK(model.forward(cpu, ids.view(), logits.view(), state, scratch.arena()));
    double nats = 0;
    for (ssm::index_t t = 0; t + 1 < length; ++t) {
      double sum = 0;
      for (ssm::index_t v = 0; v < config.vocab_size; ++v) {
        sum += std::exp(static_cast<double>(logits.view()(0, t, v)));
      }
      nats += std::log(sum) - static_cast<double>(logits.view()(0, t, ids.view()(0, t + 1)));
    }
    const double bits = nats / std::log(2.0) / static_cast<double>(length - 1);
    std::printf("format %d: %.5f bits per byte\n", static_cast<int>(f.format), bits);
    if (f.format == ssm::WeightFormat::f32) exact = bits;
    // Perplexity, 2^bits, within 1 %; and a model that has learnt something.
    EXPECT_LE(std::abs(std::exp2(bits - exact) - 1), 0.01);
    EXPECT_LE(bits, 2.5);
  }
}

TEST(WeightFormat, LogitsOfALanguageModel) {
  const ModelUnderTest<On<ssm::Cpu, float>> test;
  const auto ids = test.random_ids(2, 50);
  const auto exact = flat(test.run(ids.view(), {}).view());
  for (const FormatBound& f : kFormats) {
    SCOPED_TRACE("format " + std::to_string(static_cast<int>(f.format)));
    ModelUnderTest<On<ssm::Cpu, float>> packed;
    packed.prepare(f.format);
    const auto found = flat(packed.run(ids.view(), {}).view());
    SSM_EXPECT_CLOSE(found, exact, f.bound);
  }
}

}  // namespace ssm_test
