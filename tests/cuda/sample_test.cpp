#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "cuda/pinned.hpp"
#include "ssm/cuda/sample.hpp"
#include "ssm/model/sampler.hpp"
#include "ssm/owned.hpp"
#include "support/random.hpp"

// Drawing the next token on the device against Sampler on the host: the same tokens.
namespace ssm_test {
namespace {

struct SampleCase {
  index_t vocab_size;
  ssm::SamplerConfig config;
};

std::vector<SampleCase> sample_cases() {
  std::vector<SampleCase> cases;
  const ssm::SamplerConfig configs[] = {{0, 0, 1, 1},     {1, 0, 1, 1},      {0.7, 5, 1, 1},
                                        {1.3, 0, 0.9, 1}, {0.8, 40, 0.5, 1}, {1, 1, 1, 1},
                                        {1, 0, 1e-9, 1},  {1, 3, 0.99, 1.5}, {0, 0, 1, 1.3}};
  for (const index_t vocab_size : {1, 2, 255, 1025, 50280}) {
    for (const ssm::SamplerConfig& config : configs) cases.push_back({vocab_size, config});
  }
  return cases;
}

class CudaSample : public OnPinnedMemory, public testing::WithParamInterface<SampleCase> {};

TEST_P(CudaSample, DrawsWhatTheSamplerDraws) {
  const SampleCase& p = GetParam();
  constexpr index_t kRows = 3;
  constexpr index_t kDraws = 40;
  View<float, 2> wide;
  View<std::uint64_t, 1> random;
  View<unsigned char, 2> seen;
  View<index_t, 1> token;
  // Logits as they leave a padded head.
  const Pinned logit_memory = Pinned::of(&wide, {kRows, p.vocab_size + 3});
  const Pinned random_memory = Pinned::of(&random, {kRows});
  const Pinned seen_memory = Pinned::of(&seen, {kRows, p.vocab_size});
  const Pinned token_memory = Pinned::of(&token, {kRows});
  const View<float, 2> logits = wide.slice(1, 0, p.vocab_size);
  for (index_t i = 0; i < seen.size(); ++i) seen.data()[i] = 0;
  std::vector<ssm::Sampler> samplers;
  std::vector<std::vector<index_t>> history(kRows);
  for (index_t b = 0; b < kRows; ++b) {
    const auto seed = test_seed() + static_cast<std::uint64_t>(b);
    random(b) = seed;
    samplers.emplace_back(p.config, seed);
  }
  const ssm::OwnedWorkspace scratch(ssm::Sampler::workspace_bytes(p.vocab_size));
  Random numbers(11);
  for (index_t n = 0; n < kDraws; ++n) {
    for (index_t b = 0; b < kRows; ++b) {
      for (index_t i = 0; i < p.vocab_size; ++i) {
        const double v = numbers.uniform(-6, 6);
        // Many equal logits in the first row.
        logits(b, i) = static_cast<float>(b == 0 ? std::floor(v) : v);
      }
    }
    ssm::SampleArgs<float> args;
    args.logits = logits;
    args.random = random;
    args.seen = seen;
    args.token = token;
    args.config = p.config;
    done(sample(cuda_, args));
    for (index_t b = 0; b < kRows; ++b) {
      auto& past = history[static_cast<std::size_t>(b)];
      index_t wanted = -1;
      const ssm::Status status = samplers[static_cast<std::size_t>(b)].sample<float>(
          logits.select(0, b),
          View<const index_t, 1>(past.data(), {static_cast<index_t>(past.size())}), scratch.arena(),
          &wanted);
      ASSERT_TRUE(status) << status.message().text;
      ASSERT_EQ(token(b), wanted) << "row " << b << ", draw " << n;
      past.push_back(wanted);
      EXPECT_EQ(seen(b, wanted), 1);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Configs, CudaSample, testing::ValuesIn(sample_cases()));

class CudaSampleInput : public OnPinnedMemory {
 protected:
  CudaSampleInput() {
    token_memory_ = Pinned::of(&args_.token, {2});
    logit_memory_ = Pinned::of(&logits_, {2, 4});
    random_memory_ = Pinned::of(&args_.random, {2});
    for (index_t i = 0; i < 8; ++i) logits_.data()[i] = static_cast<float>(i % 4);
    args_.logits = logits_;
  }
  std::string message() { return std::string(sample(cuda_, args_).message().text); }

  View<float, 2> logits_;
  ssm::SampleArgs<float> args_;
  Pinned logit_memory_, token_memory_, random_memory_;
};

TEST_F(CudaSampleInput, InfinityWinsAndNaNGivesNoToken) {
  logits_(0, 1) = std::numeric_limits<float>::infinity();
  logits_(1, 2) = std::numeric_limits<float>::quiet_NaN();
  for (const double temperature : {0.0, 1.0}) {
    args_.config.temperature = temperature;
    done(sample(cuda_, args_));
    EXPECT_EQ(args_.token(0), 1);
    EXPECT_EQ(args_.token(1), -1);
  }
  for (index_t i = 0; i < 4; ++i) logits_(0, i) = -std::numeric_limits<float>::infinity();
  done(sample(cuda_, args_));
  EXPECT_EQ(args_.token(0), 0);
}

TEST_F(CudaSampleInput, IsNamedWhereItIsBad) {
  args_.config.top_p = 0;
  EXPECT_EQ(message(), "SamplerConfig: top_p is 0, must be greater than 0");
  args_.config.top_p = 1;
  args_.config.repetition_penalty = 2;
  EXPECT_EQ(message(), "sample: seen must be present unless repetition_penalty is 1");
  args_.config.repetition_penalty = 1;
  args_.token = args_.token.slice(0, 0, 1);
  EXPECT_EQ(message(), "sample: token.extent(0) is 1, must equal 2");
  args_.random = {};
  EXPECT_EQ(message(), "sample: random must be present unless temperature is 0");
}

}  // namespace
}  // namespace ssm_test
