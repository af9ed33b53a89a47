#include "ssm/cpu/simd.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "ssm/core/dtype.hpp"

namespace {

using ssm::detail::Vec;

template <class T>
class VecTest : public ::testing::Test {};
using Scalars = ::testing::Types<float, double>;
TYPED_TEST_SUITE(VecTest, Scalars);

template <class T>
std::vector<T> lanes_of(Vec<T> v) {
  std::vector<T> lanes(static_cast<std::size_t>(Vec<T>::kWidth));
  v.store(lanes.data());
  return lanes;
}

// Distinct exact values, of both signs.
template <class T>
Vec<T> ramp(T first, T step) {
  T lanes[Vec<T>::kWidth];
  for (int i = 0; i < Vec<T>::kWidth; ++i) lanes[i] = first + step * static_cast<T>(i);
  return Vec<T>::load(lanes);
}

TYPED_TEST(VecTest, ArithmeticIsLaneByLane) {
  using T = TypeParam;
  const Vec<T> a = ramp<T>(T(-3), T(1));
  const Vec<T> b = ramp<T>(T(8), T(-1) / 4);
  const auto added = lanes_of(a + b);
  const auto subtracted = lanes_of(a - b);
  const auto multiplied = lanes_of(a * b);
  const auto divided = lanes_of(a / b);
  const auto fused = lanes_of(fma(a, b, Vec<T>(T(5))));
  const auto negated = lanes_of(fnma(a, b, Vec<T>(T(5))));
  const auto least = lanes_of(min(a, b));
  const auto most = lanes_of(max(a, b));
  const auto magnitude = lanes_of(abs(a));
  const auto root = lanes_of(sqrt(a * a));
  const auto chosen = lanes_of(Vec<T>::select(less(a, Vec<T>(T(0))), a, b));
  const auto chosen_equal = lanes_of(Vec<T>::select(equal(a, Vec<T>(T(-3))), a, b));
  const auto chosen_le = lanes_of(Vec<T>::select(less_equal(a, Vec<T>(T(-3))), a, b));
  T total = 0;
  T top = -100;
  for (int i = 0; i < Vec<T>::kWidth; ++i) {
    const T x = T(-3) + static_cast<T>(i);
    const T y = T(8) - static_cast<T>(i) / 4;
    const auto k = static_cast<std::size_t>(i);
    EXPECT_EQ(added[k], x + y);
    EXPECT_EQ(subtracted[k], x - y);
    EXPECT_EQ(root[k], std::abs(x));
    EXPECT_EQ(multiplied[k], x * y);
    EXPECT_EQ(divided[k], x / y);
    EXPECT_EQ(fused[k], x * y + T(5));
    EXPECT_EQ(negated[k], T(5) - x * y);
    EXPECT_EQ(least[k], x < y ? x : y);
    EXPECT_EQ(most[k], x < y ? y : x);
    EXPECT_EQ(magnitude[k], std::abs(x));
    EXPECT_EQ(chosen[k], x < 0 ? x : y);
    EXPECT_EQ(chosen_equal[k], i == 0 ? x : y);
    EXPECT_EQ(chosen_le[k], i == 0 ? x : y);
    total += x;
    top = std::max(top, x);
  }
  EXPECT_EQ(sum(a), total);
  EXPECT_EQ(max_lane(a), top);
  EXPECT_TRUE(Vec<T>::all(less(a, Vec<T>(T(100)))));
  EXPECT_FALSE(Vec<T>::all(less(Vec<T>(T(-3)), a)));
}

TYPED_TEST(VecTest, MinAndMaxReturnTheSecondOperandBesideNan) {
  using T = TypeParam;
  const Vec<T> nan(std::numeric_limits<T>::quiet_NaN());
  const Vec<T> one(T(1));
  EXPECT_EQ(lanes_of(min(nan, one))[0], T(1));
  EXPECT_EQ(lanes_of(max(nan, one))[0], T(1));
  EXPECT_TRUE(std::isnan(lanes_of(min(one, nan))[0]));
  EXPECT_TRUE(std::isnan(lanes_of(max(one, nan))[0]));
  EXPECT_FALSE(Vec<T>::all(less_equal(nan, nan)));
  EXPECT_FALSE(Vec<T>::all(equal(nan, nan)));
}

TYPED_TEST(VecTest, AddExponentScalesByPowersOfTwo) {
  using T = TypeParam;
  const T magic = sizeof(T) == 4 ? T(12582912) : T(6755399441055744);
  for (int k = -100; k <= 100; k += 7) {
    const Vec<T> a = ramp<T>(T(1), T(0.125));
    const auto scaled = lanes_of(add_exponent(a, Vec<T>(magic + static_cast<T>(k))));
    for (int i = 0; i < Vec<T>::kWidth; ++i) {
      EXPECT_EQ(scaled[static_cast<std::size_t>(i)],
                std::ldexp(T(1) + T(0.125) * static_cast<T>(i), k));
    }
  }
}

TYPED_TEST(VecTest, PartialAndStridedAccessTouchNothingElse) {
  using T = TypeParam;
  constexpr int kWidth = Vec<T>::kWidth;
  for (int n = 0; n <= kWidth; ++n) {
    for (const ssm::index_t stride : {1, 3, -2}) {
      std::vector<T> memory(static_cast<std::size_t>(3 * kWidth + 8), T(-1));
      T* const origin = memory.data() + (stride < 0 ? 2 * kWidth : 4);
      for (int i = 0; i < n; ++i) origin[i * stride] = static_cast<T>(i + 1);
      const auto loaded = lanes_of(ssm::detail::load_strided<Vec<T>>(origin, stride, n));
      for (int i = 0; i < kWidth; ++i) {
        EXPECT_EQ(loaded[static_cast<std::size_t>(i)], i < n ? static_cast<T>(i + 1) : T(0));
      }
      std::vector<T> expected = memory;
      T* const target = expected.data() + (origin - memory.data());
      for (int i = 0; i < n; ++i) target[i * stride] = static_cast<T>(10 + i);
      ssm::detail::store_strided(ramp<T>(T(10), T(1)), origin, stride, n);
      EXPECT_EQ(memory, expected) << "n " << n << " stride " << stride;
    }
  }
}

TYPED_TEST(VecTest, AddSums4AddsTheLanesOfEach) {
  using T = TypeParam;
  const Vec<T> v[4] = {ramp<T>(1, 2), ramp<T>(-3, 1), ramp<T>(10, -4), ramp<T>(0, 3)};
  T sums[6] = {-1, 1, 2, 3, 4, -1};
  ssm::detail::add_sums4(v, sums + 1);
  for (int k = 0; k < 4; ++k) {
    T wanted = static_cast<T>(k + 1);
    for (const T lane : lanes_of(v[k])) wanted += lane;
    EXPECT_EQ(sums[k + 1], wanted);
  }
  EXPECT_EQ(sums[0], T(-1));
  EXPECT_EQ(sums[5], T(-1));
}

TYPED_TEST(VecTest, Deinterleave4TakesColumns) {
  using T = TypeParam;
  constexpr int kWidth = Vec<T>::kWidth;
  Vec<T> v[4];
  for (int k = 0; k < 4; ++k) v[k] = ramp<T>(static_cast<T>(k * kWidth), T(1));
  deinterleave4(v);
  for (int k = 0; k < 4; ++k) {
    const auto column = lanes_of(v[k]);
    for (int i = 0; i < kWidth; ++i) {
      EXPECT_EQ(column[static_cast<std::size_t>(i)], static_cast<T>(4 * i + k));
    }
  }
}

// Every two-byte pattern widens as dtype.hpp says and comes back; NaN stays NaN.
template <class Stored>
void every_pattern_survives() {
  constexpr int kWidth = Vec<float>::kWidth;
  for (std::uint32_t first = 0; first < 65536; first += kWidth) {
    Stored in[kWidth];
    Stored out[kWidth];
    float wide[kWidth];
    for (int i = 0; i < kWidth; ++i) {
      in[i].bits = static_cast<std::uint16_t>(first + static_cast<std::uint32_t>(i));
    }
    const Vec<float> v = Vec<float>::load(in);
    v.store(wide);
    v.store(out);
    for (int i = 0; i < kWidth; ++i) {
      const float expected = in[i];
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(wide[i])) << in[i].bits;
        ASSERT_TRUE(std::isnan(static_cast<float>(out[i]))) << in[i].bits;
      } else {
        ASSERT_EQ(wide[i], expected) << in[i].bits;
        ASSERT_EQ(out[i].bits, in[i].bits);
      }
    }
  }
}

TEST(VecStorage, EveryBf16Pattern) { every_pattern_survives<ssm::bf16>(); }
TEST(VecStorage, EveryF16Pattern) { every_pattern_survives<ssm::f16>(); }

// Floats of every exponent, and near every rounding boundary, narrow to the bits of dtype.hpp.
template <class Stored>
void narrows_like_the_scalar_code() {
  constexpr int kWidth = Vec<float>::kWidth;
  float in[kWidth];
  Stored out[kWidth];
  int filled = 0;
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32); bits += 40503) {
    for (const std::uint32_t low : {0u, 0x7fffu, 0x8000u, 0x8001u, 0xfffu, 0x1000u, 0x1001u}) {
      const std::uint32_t pattern = (static_cast<std::uint32_t>(bits) & 0xffff0000u) | low;
      in[filled++] = ssm::detail::bit_cast<float>(pattern);
      if (filled < kWidth) continue;
      filled = 0;
      Vec<float>::load(in).store(out);
      for (int i = 0; i < kWidth; ++i) {
        const Stored expected(in[i]);
        if (std::isnan(in[i])) {
          ASSERT_TRUE(std::isnan(static_cast<float>(out[i])));
        } else {
          ASSERT_EQ(out[i].bits, expected.bits) << in[i];
        }
      }
    }
  }
}

TEST(VecStorage, NarrowsToBf16) { narrows_like_the_scalar_code<ssm::bf16>(); }
TEST(VecStorage, NarrowsToF16) { narrows_like_the_scalar_code<ssm::f16>(); }

TEST(VecStorage, WidensInt8) {
  constexpr int kWidth = Vec<float>::kWidth;
  for (int first = -128; first + kWidth <= 128; ++first) {
    std::int8_t in[kWidth];
    float out[kWidth];
    for (int i = 0; i < kWidth; ++i) in[i] = static_cast<std::int8_t>(first + i);
    Vec<float>::load(in).store(out);
    for (int i = 0; i < kWidth; ++i) ASSERT_EQ(out[i], static_cast<float>(first + i));
  }
}

}  // namespace
