#include "ssm/core/view.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <type_traits>

#include "ssm/core/check.hpp"
#include "ssm/ops/sequences.hpp"

namespace {

using ssm::index_t;
using ssm::View;

static_assert(std::is_trivially_copyable<View<float, 3>>::value, "passed to kernels by value");
static_assert(std::is_convertible<View<float, 2>, View<const float, 2>>::value, "");
static_assert(!std::is_convertible<View<const float, 2>, View<float, 2>>::value, "");
static_assert(!std::is_convertible<View<float, 2>, View<const double, 2>>::value, "");

// Twenty-four numbers whose value is their offset.
struct Numbers {
  Numbers() {
    for (int i = 0; i < 24; ++i) data[i] = i;
  }
  int data[24];
  View<int, 3> view() { return View<int, 3>(data, {2, 3, 4}); }
};

TEST(View, IsRowMajor) {
  Numbers n;
  const View<int, 3> v = n.view();
  EXPECT_EQ(v.size(), 24);
  EXPECT_TRUE(v.contiguous());
  EXPECT_TRUE(v.present());
  EXPECT_EQ(v(1, 2, 3), 23);
  EXPECT_EQ(v(0, 1, 2), 6);
  EXPECT_EQ(v.stride(0), 12);
  EXPECT_EQ(v.stride(2), 1);
}

TEST(View, SliceSelectTransposeReverseShareTheMemory) {
  Numbers n;
  const View<int, 3> v = n.view();
  EXPECT_EQ(v.slice(1, 1, 2)(1, 0, 0), v(1, 1, 0));
  EXPECT_FALSE(v.slice(1, 1, 2).contiguous());
  EXPECT_TRUE(v.slice(0, 1, 1).contiguous());
  EXPECT_EQ(v.select(1, 2)(1, 3), v(1, 2, 3));
  EXPECT_EQ(v.select(0, 1).extent(0), 3);
  EXPECT_EQ(v.select(2, 3).stride(1), 4);
  EXPECT_EQ(v.transpose(0, 2)(3, 1, 0), v(0, 1, 3));
  EXPECT_FALSE(v.transpose(0, 2).contiguous());
  EXPECT_EQ(v.reverse(1)(1, 0, 2), v(1, 2, 2));
  EXPECT_EQ(v.reverse(1).reverse(1).data(), v.data());
  v.reverse(2)(0, 0, 0) = -7;
  EXPECT_EQ(n.data[3], -7);
}

TEST(View, ReadsThroughZeroAndNegativeStrides) {
  int data[] = {1, 2, 3};
  const View<const int, 2> broadcast(data, {5, 3}, {0, 1});
  EXPECT_EQ(broadcast(4, 2), 3);
  const View<const int, 1> backwards(data + 2, {3}, {-1});
  EXPECT_EQ(backwards(0), 3);
  EXPECT_EQ(backwards(2), 1);
}

TEST(View, AbsentAndEmptyAreDifferent) {
  const View<float, 2> absent;
  EXPECT_FALSE(absent.present());
  const View<float, 2> empty(nullptr, {0, 4});
  EXPECT_TRUE(empty.present());
  EXPECT_EQ(empty.size(), 0);
  EXPECT_EQ(empty.slice(1, 2, 1).data(), nullptr);
  EXPECT_EQ(empty.select(1, 3).data(), nullptr);
  EXPECT_EQ(empty.reverse(0).data(), nullptr);
  const View<float, 2> empty_rows(nullptr, {4, 0});
  EXPECT_EQ(empty_rows.stride(0), 1);  // no stride of zero: slices stay apart
}

TEST(View, SizesSaturate) {
  constexpr index_t kMax = std::numeric_limits<index_t>::max();
  EXPECT_EQ(ssm::saturating_mul(kMax, 2), kMax);
  EXPECT_EQ(ssm::saturating_mul(kMax / 2, 2), kMax - 1);
  EXPECT_EQ(ssm::saturating_mul(-1, 5), 0);
  EXPECT_EQ(ssm::saturating_mul(0, kMax), 0);
  float x = 0;
  const View<float, 3> huge(&x, {index_t{1} << 40, index_t{1} << 40, 2});
  EXPECT_EQ(huge.size(), kMax);
  EXPECT_EQ(ssm::Check("op").array("x", huge).status().code(), ssm::ErrorCode::size_overflow);
}

TEST(Check, ArraysOfNegativeExtentOrNullData) {
  float x = 0;
  const ssm::Status negative = ssm::Check("op").array("x", View<float, 2>(&x, {3, -4})).status();
  EXPECT_STREQ(negative.message().text, "op: x.extent(1) is -4, must be at least 0");
  const ssm::Status null = ssm::Check("op").array("x", View<float, 1>(nullptr, {3})).status();
  EXPECT_STREQ(null.message().text, "op: x must not be null");
  EXPECT_TRUE(ssm::Check("op").array("x", View<float, 1>(nullptr, {0})).passed());
  EXPECT_TRUE(ssm::Check("op").optional_shape("x", View<float, 1>(), {3}).passed());
}

TEST(Sequences, RangesOfRowsLengthsAndPackedStarts) {
  const index_t lengths[] = {3, 0};
  const index_t starts[] = {0, 2, 2, 7};
  ssm::Sequences rows;
  EXPECT_EQ(rows.count(2), 2);
  EXPECT_EQ(rows.range(1, 9).row, 1);
  EXPECT_EQ(rows.range(1, 9).end, 9);
  ssm::Sequences padded{View<const index_t, 1>(lengths, {2}), {}};
  EXPECT_EQ(padded.count(2), 2);
  EXPECT_EQ(padded.range(0, 9).end, 3);
  EXPECT_EQ(padded.range(1, 9).end, 0);
  ssm::Sequences packed{{}, View<const index_t, 1>(starts, {4})};
  EXPECT_EQ(packed.count(1), 3);
  EXPECT_EQ(packed.range(2, 7).row, 0);
  EXPECT_EQ(packed.range(2, 7).begin, 2);
  EXPECT_EQ(packed.range(1, 7).end, 2);
  EXPECT_TRUE(check_shapes(packed, "op", 1).is_ok());
  EXPECT_TRUE(check_values(packed, "op", 1, 7).is_ok());
  EXPECT_STREQ(check_values(packed, "op", 1, 8).message().text,
               "op: sequences.starts(sequences) is 7, must equal 8");
  EXPECT_STREQ(check_values(padded, "op", 2, 2).message().text,
               "op: sequences.lengths value is 3, must be at most 2");
}

}  // namespace
