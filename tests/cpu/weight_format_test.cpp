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
