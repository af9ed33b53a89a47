#include "ssm/core/status.hpp"

#include <gtest/gtest.h>

#include "ssm/core/check.hpp"

namespace {

TEST(Status, NamesTheArgumentTheValueAndWhatIsAllowed) {
  const ssm::Status status =
      ssm::Check("op").shape("x", ssm::View<float, 2>(nullptr, {0, 3}), {0, 4}).status();
  EXPECT_EQ(status.code(), ssm::ErrorCode::shape_mismatch);
  EXPECT_STREQ(status.message().text, "op: x.extent(1) is 3, must equal 4");
}

TEST(Check, ReportsTheFirstFailureOnly) {
  const ssm::Status status =
      ssm::Check("op").at_least("a", 1, 2).at_least("b", 0, 5).equal("c", 1, 2).status();
  EXPECT_STREQ(status.argument(), "a");
}

}  // namespace
