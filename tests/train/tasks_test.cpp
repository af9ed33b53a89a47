#include "ssm/train/tasks.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>
#include <vector>

namespace ssm_test {
namespace {

using ssm::index_t;

ssm::View<index_t, 1> view_of(std::vector<index_t>& v) {
  return ssm::View<index_t, 1>(v.data(), {static_cast<index_t>(v.size())});
}

TEST(SequenceRandom, IsTheNthWordOfTheStream) {
  ssm::Random words(7);
  std::set<std::uint64_t> first;
  for (index_t n = 0; n < 100; ++n) {
    const std::uint64_t word = words.next();
    EXPECT_EQ(ssm::sequence_random(7, n).state(), word);
    first.insert(ssm::sequence_random(7, n).next());
  }
  EXPECT_EQ(first.size(), 100u);
  ssm::Random resumed(words.state());
  EXPECT_EQ(resumed.next(), words.next());
}

TEST(InductionHeads, EndsInThePrefixAndAsksForWhatFollowedIt) {
  for (const index_t length : {3, 4, 17, 256}) {
    SCOPED_TRACE(length);
    ssm::InductionHeads task;
    task.length = length;
    ASSERT_TRUE(validate(task));
    std::set<index_t> answers, positions, tokens;
    for (index_t n = 0; n < 2000; ++n) {
      std::vector<index_t> ids(static_cast<std::size_t>(length), -1);
      const index_t answer = generate(task, ssm::sequence_random(5, n), view_of(ids));
      const auto first = std::find(ids.begin(), ids.end(), task.prefix());
      ASSERT_EQ(std::count(ids.begin(), ids.end(), task.prefix()), 2);
      ASSERT_EQ(ids.back(), task.prefix());
      ASSERT_LE(first - ids.begin(), length - 3);
      EXPECT_EQ(answer, *(first + 1));
      answers.insert(answer);
      positions.insert(first - ids.begin());
      for (const index_t id : ids) tokens.insert(id);
    }
    // Every ordinary token is an answer, every position but the last two has the prefix, and the
    // no-op never shows.
    EXPECT_EQ(answers.size(), 14u);
    EXPECT_EQ(*answers.rbegin(), 13);
    EXPECT_EQ(*tokens.rbegin(), 14);
    EXPECT_EQ(static_cast<index_t>(positions.size()), length - 2);
  }
}

TEST(SelectiveCopying, RepeatsTheDataInOrder) {
  for (const index_t length : {32, 33, 200}) {
    SCOPED_TRACE(length);
    ssm::SelectiveCopying task;
    task.length = length;
    ASSERT_TRUE(validate(task));
    std::vector<index_t> used(static_cast<std::size_t>(length), 0);
    std::set<index_t> values;
    for (index_t n = 0; n < 2000; ++n) {
      std::vector<index_t> ids(static_cast<std::size_t>(length), -1), targets(16, -1), data;
      generate(task, ssm::sequence_random(3, n), view_of(ids), view_of(targets));
      for (index_t t = 0; t < length; ++t) {
        const index_t id = ids[static_cast<std::size_t>(t)];
        if (t >= length - 16) {
          ASSERT_EQ(id, 15);
        } else if (id != 0) {
          data.push_back(id);
          ++used[static_cast<std::size_t>(t)];
        }
      }
      ASSERT_EQ(data, targets);
      values.insert(data.begin(), data.end());
    }
    EXPECT_EQ(values.size(), 14u);
    EXPECT_EQ(*values.begin(), 1);
    EXPECT_EQ(*values.rbegin(), 14);
    // Every position is as likely: 2000 p, give or take six standard deviations.
    const double p = 16.0 / static_cast<double>(length - 16);
    const double spread = 6 * std::sqrt(2000 * p * (1 - p));
    for (index_t t = 0; t < length - 16; ++t) {
      EXPECT_LE(std::abs(static_cast<double>(used[static_cast<std::size_t>(t)]) - 2000 * p), spread)
          << t;
    }
  }
}

TEST(Windows, ReachFromTheFirstByteToTheLast) {
  const std::string text = "0123456789";
  const ssm::View<const unsigned char, 1> bytes(reinterpret_cast<const unsigned char*>(text.data()),
                                                {10});
  std::set<index_t> begins;
  for (index_t n = 0; n < 500; ++n) {
    std::vector<index_t> ids(4), targets(4);
    ssm::generate_window(bytes, ssm::sequence_random(1, n), view_of(ids), view_of(targets));
    begins.insert(ids[0] - '0');
    for (std::size_t t = 0; t < 4; ++t) {
      EXPECT_EQ(ids[t], ids[0] + static_cast<index_t>(t));
      EXPECT_EQ(targets[t], ids[t] + 1);
    }
  }
  EXPECT_EQ(begins, (std::set<index_t>{0, 1, 2, 3, 4, 5}));
}

TEST(Tasks, BadSizesAreNamed) {
  ssm::InductionHeads heads;
  heads.length = 2;
  EXPECT_EQ(std::string(validate(heads).message().text),
            "InductionHeads: length is 2, must be at least 3");
  ssm::SelectiveCopying copying;
  copying.length = 31;
  EXPECT_EQ(std::string(validate(copying).message().text),
            "SelectiveCopying: length is 31, must be at least 32");
  copying.vocabulary = 2;
  EXPECT_EQ(std::string(validate(copying).message().text),
            "SelectiveCopying: vocabulary is 2, must be at least 3");
}

}  // namespace
}  // namespace ssm_test
