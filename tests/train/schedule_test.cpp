#include "ssm/train/schedule.hpp"

#include <gtest/gtest.h>

#include <string>

namespace {

TEST(LearningRate, WarmsUpAndStays) {
  ssm::LearningRate rate;
  rate.peak = 2;
  EXPECT_EQ(rate.at(1), 2);
  rate.warmup = 4;
  const double wanted[] = {0, 0.5, 1, 1.5, 2, 2, 2};
  for (int k = 0; k < 7; ++k) EXPECT_EQ(rate.at(k), wanted[k]) << k;
  EXPECT_EQ(rate.at(ssm::index_t{1} << 40), 2);
}

TEST(LearningRate, FallsAlongACosine) {
  ssm::LearningRate rate;
  rate.peak = 1;
  rate.shape = ssm::LearningRate::Shape::cosine;
  rate.warmup = 10;
  rate.total = 110;
  rate.floor = 0.1;
  EXPECT_EQ(rate.at(5), 0.5);
  EXPECT_EQ(rate.at(10), 1);
  EXPECT_NEAR(rate.at(35), 0.1 + 0.9 * 0.5 * (1 + std::sqrt(0.5)), 1e-15);
  EXPECT_NEAR(rate.at(60), 0.55, 1e-15);
  EXPECT_EQ(rate.at(110), 0.1);
  EXPECT_EQ(rate.at(1000), 0.1);
  for (int k = 11; k <= 110; ++k) EXPECT_LT(rate.at(k), rate.at(k - 1));
}

TEST(LearningRate, BadValuesAreNamed) {
  const auto text = [](const ssm::LearningRate& rate) {
    return std::string(ssm::validate(rate).message().text);
  };
  ssm::LearningRate rate;
  EXPECT_TRUE(ssm::validate(rate));
  rate.peak = 0;
  EXPECT_EQ(text(rate), "LearningRate: peak is 0, must be greater than 0");
  rate = {};
  rate.warmup = -1;
  EXPECT_EQ(text(rate), "LearningRate: warmup is -1, must be at least 0");
  rate = {};
  rate.shape = ssm::LearningRate::Shape::cosine;
  EXPECT_EQ(text(rate), "LearningRate: total is 0, must be greater than 0");
  rate.total = 10;
  rate.floor = 1;
  EXPECT_NE(text(rate).find("floor is 1, must be at most"), std::string::npos);
}

}  // namespace
