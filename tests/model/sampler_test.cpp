#include "ssm/model/sampler.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "ssm/owned.hpp"

namespace {

using Logits = std::vector<float>;

ssm::View<const float, 1> view(const Logits& l) {
  return {l.data(), {static_cast<ssm::index_t>(l.size())}};
}

// Counts of each token over `draws` samples.
std::vector<double> frequencies(const ssm::SamplerConfig& config, const Logits& logits,
                                const std::vector<ssm::index_t>& history = {}, int draws = 20000) {
  ssm::Sampler sampler(config, 42);
  ssm::OwnedWorkspace scratch(
      ssm::Sampler::workspace_bytes(static_cast<ssm::index_t>(logits.size())));
  std::vector<double> counts(logits.size(), 0.0);
  const ssm::View<const ssm::index_t, 1> past(history.data(),
                                              {static_cast<ssm::index_t>(history.size())});
  for (int i = 0; i < draws; ++i) {
    ssm::index_t token = -1;
    const ssm::Status status = sampler.sample(view(logits), past, scratch.arena(), &token);
    EXPECT_TRUE(status) << status.message().text;
    counts.at(static_cast<std::size_t>(token)) += 1;
  }
  for (double& count : counts) count /= draws;
  return counts;
}

// softmax(logits / temperature) over the tokens in `kept`, in long double.
std::vector<double> expected(const Logits& logits, double temperature,
                             const std::vector<bool>& kept) {
  long double total = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (kept[i]) total += std::exp(static_cast<long double>(logits[i]) / temperature);
  }
  std::vector<double> p(logits.size(), 0.0);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (kept[i]) {
      p[i] =
          static_cast<double>(std::exp(static_cast<long double>(logits[i]) / temperature) / total);
    }
  }
  return p;
}

// Five standard deviations of a binomial share over 20000 draws, at most 0.018.
void expect_near(const std::vector<double>& found, const std::vector<double>& wanted) {
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_NEAR(found[i], wanted[i], 5 * std::sqrt(wanted[i] * (1 - wanted[i]) / 20000) + 1e-12)
        << "token " << i;
  }
}

const Logits kLogits = {1.0f, 3.0f, -2.0f, 2.5f, 0.0f, 1.5f};
const std::vector<bool> kAll(6, true);

TEST(Sampler, GreedyTakesTheLargestAndTheLowestTokenOnATie) {
  ssm::SamplerConfig config;
  config.temperature = 0;
  EXPECT_EQ(frequencies(config, kLogits, {}, 3)[1], 1.0);
  EXPECT_EQ(frequencies(config, {0.f, 7.f, 7.f, 7.f}, {}, 1)[1], 1.0);
}

TEST(Sampler, FollowsTheSoftmax) {
  expect_near(frequencies({}, kLogits), expected(kLogits, 1, kAll));
  ssm::SamplerConfig hot;
  hot.temperature = 2.5;
  expect_near(frequencies(hot, kLogits), expected(kLogits, 2.5, kAll));
}

TEST(Sampler, TopKKeepsTheKLargest) {
  ssm::SamplerConfig config;
  config.top_k = 3;
  expect_near(frequencies(config, kLogits),
              expected(kLogits, 1, {false, true, false, true, false, true}));
  config.top_k = 100;
  expect_near(frequencies(config, kLogits), expected(kLogits, 1, kAll));
}

TEST(Sampler, TopPKeepsTheSmallestSetThatReachesP) {
  // Probabilities in order: 0.4911 (1), 0.2979 (3), 0.1096 (5), 0.0665 (0), …
  ssm::SamplerConfig config;
  config.top_p = 0.78;
  expect_near(frequencies(config, kLogits),
              expected(kLogits, 1, {false, true, false, true, false, false}));
  config.top_p = 0.80;
  expect_near(frequencies(config, kLogits),
              expected(kLogits, 1, {false, true, false, true, false, true}));
  config.top_p = 1e-9;
  EXPECT_EQ(frequencies(config, kLogits, {}, 10)[1], 1.0);
}

TEST(Sampler, RepetitionPenaltyCountsOnceAndFollowsTheSign) {
  ssm::SamplerConfig config;
  config.repetition_penalty = 2;
  Logits penalized = kLogits;
  penalized[1] = 1.5f;   // positive: divided
  penalized[2] = -4.0f;  // negative: multiplied
  expect_near(frequencies(config, kLogits, {1, 2, 1, 1}), expected(penalized, 1, kAll));
  config.temperature = 0;
  EXPECT_EQ(frequencies(config, kLogits, {1}, 1)[3], 1.0);
}

TEST(Sampler, SameSeedSameTokens) {
  ssm::SamplerConfig config;
  config.top_p = 0.9;
  EXPECT_EQ(frequencies(config, kLogits, {}, 500), frequencies(config, kLogits, {}, 500));
}

TEST(Sampler, InfiniteLogitsAreOrdered) {
  const float inf = std::numeric_limits<float>::infinity();
  EXPECT_EQ(frequencies({}, {0.f, inf, 1.f}, {}, 50)[1], 1.0);
  const auto masked = frequencies({}, {0.f, -inf, 0.f}, {}, 2000);
  EXPECT_EQ(masked[1], 0.0);
  EXPECT_GT(masked[0], 0.4);
}

TEST(Sampler, BadInputIsNamed) {
  ssm::OwnedWorkspace scratch(ssm::Sampler::workspace_bytes(6));
  ssm::index_t token = -7;
  const auto outcome = [&](const ssm::SamplerConfig& config, const Logits& logits,
                           const std::vector<ssm::index_t>& history = {}) {
    ssm::Sampler sampler(config, 1);
    const ssm::Status status =
        sampler.sample(view(logits), {history.data(), {static_cast<ssm::index_t>(history.size())}},
                       scratch.arena(), &token);
    EXPECT_EQ(token, -7);
    return std::string(status.message().text);
  };
  ssm::SamplerConfig config;
  config.temperature = -1;
  EXPECT_EQ(outcome(config, kLogits), "SamplerConfig: temperature is -1, must be at least 0");
  config = {};
  config.top_p = 0;
  EXPECT_EQ(outcome(config, kLogits), "SamplerConfig: top_p is 0, must be greater than 0");
  EXPECT_EQ(outcome({}, {1.f, std::nanf("")}), "Sampler::sample: logits must not hold NaN");
  EXPECT_EQ(outcome({}, kLogits, {6}), "Sampler::sample: history value is 6, must be at most 5");
  EXPECT_EQ(outcome({}, {}), "Sampler::sample: logits.extent(0) is 0, must be at least 1");
  EXPECT_NE(outcome({}, Logits(4000, 0.f)).find("workspace bytes"), std::string::npos);
}

}  // namespace
