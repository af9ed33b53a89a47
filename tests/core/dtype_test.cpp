#include "ssm/core/dtype.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <type_traits>

#include "support/random.hpp"

namespace {

using ssm::bf16;
using ssm::f16;

// The formats by definition: sign, exponent field, fraction field.
template <class T>
struct Format;
template <>
struct Format<bf16> {
  static constexpr int kFraction = 7, kBias = 127;
};
template <>
struct Format<f16> {
  static constexpr int kFraction = 10, kBias = 15;
};

template <class T>
int exponent_field(unsigned bits) {
  return static_cast<int>((bits & 0x7fffu) >> Format<T>::kFraction);
}
template <class T>
unsigned fraction_field(unsigned bits) {
  return bits & ((1u << Format<T>::kFraction) - 1);
}
template <class T>
bool all_ones(unsigned bits) {
  return exponent_field<T>(bits) == (0x7fff >> Format<T>::kFraction);
}
template <class T>
bool is_nan(unsigned bits) {
  return all_ones<T>(bits) && fraction_field<T>(bits) != 0;
}

// The value of a bit pattern that is neither NaN nor infinite. The pattern of infinity gives the
// power of two that would follow the largest number, where rounding to infinity begins to count.
template <class T>
double value_of(unsigned bits) {
  const int exponent = exponent_field<T>(bits);
  const double fraction = static_cast<double>(fraction_field<T>(bits));
  const double one = std::ldexp(1.0, Format<T>::kFraction);
  const double magnitude =
      exponent == 0
          ? std::ldexp(fraction, 1 - Format<T>::kBias - Format<T>::kFraction)
          : std::ldexp(one + fraction, exponent - Format<T>::kBias - Format<T>::kFraction);
  return (bits & 0x8000u) != 0 ? -magnitude : magnitude;
}

template <class T>
T from_bits(unsigned bits) {
  T v;
  v.bits = static_cast<std::uint16_t>(bits);
  return v;
}

template <class T>
class TwoByteType : public testing::Test {};
struct Names {
  template <class T>
  static std::string GetName(int) {
    return std::is_same<T, bf16>::value ? "bf16" : "f16";
  }
};
using Types = testing::Types<bf16, f16>;
TYPED_TEST_SUITE(TwoByteType, Types, Names);

TYPED_TEST(TwoByteType, EveryPatternWidensToItsValueAndComesBack) {
  for (unsigned bits = 0; bits < 0x10000u; ++bits) {
    const float wide = from_bits<TypeParam>(bits);
    const unsigned back = TypeParam(wide).bits;
    ASSERT_EQ(std::signbit(wide), (bits & 0x8000u) != 0) << std::hex << bits;
    if (is_nan<TypeParam>(bits)) {
      ASSERT_TRUE(std::isnan(wide)) << std::hex << bits;
      ASSERT_TRUE(is_nan<TypeParam>(back)) << std::hex << bits;
      ASSERT_EQ(back & 0x8000u, bits & 0x8000u) << std::hex << bits;
      continue;
    }
    ASSERT_EQ(back, bits) << std::hex << bits;
    if (all_ones<TypeParam>(bits)) {
      ASSERT_TRUE(std::isinf(wide)) << std::hex << bits;
    } else {
      ASSERT_EQ(static_cast<double>(wide), value_of<TypeParam>(bits)) << std::hex << bits;
    }
  }
}

// Rounding is monotone, so its values at the midpoints between neighbours and one float to either
// side of them are its values everywhere.
TYPED_TEST(TwoByteType, EveryMidpointRoundsToEven) {
  const unsigned infinity = static_cast<unsigned>(0x7fff >> Format<TypeParam>::kFraction)
                            << Format<TypeParam>::kFraction;
  const float big = std::numeric_limits<float>::infinity();
  for (const unsigned sign : {0u, 0x8000u}) {
    for (unsigned bits = 0; bits < infinity; ++bits) {
      const double low = value_of<TypeParam>(bits);
      const double high = value_of<TypeParam>(bits + 1);
      const double exact = (low + high) / 2;
      const auto middle = static_cast<float>(exact);
      ASSERT_EQ(static_cast<double>(middle), exact) << std::hex << bits;
      const float flip = sign == 0 ? 1.0f : -1.0f;
      const unsigned even = (bits & 1u) == 0 ? bits : bits + 1;
      ASSERT_EQ(TypeParam(flip * middle).bits, sign | even) << std::hex << bits;
      ASSERT_EQ(TypeParam(flip * std::nextafter(middle, 0.0f)).bits, sign | bits)
          << std::hex << bits;
      ASSERT_EQ(TypeParam(flip * std::nextafter(middle, big)).bits, sign | (bits + 1))
          << std::hex << bits;
    }
    const float flip = sign == 0 ? 1.0f : -1.0f;
    EXPECT_EQ(TypeParam(flip * big).bits, sign | infinity);
    EXPECT_EQ(TypeParam(flip * std::numeric_limits<float>::max()).bits, sign | infinity);
  }
}

TYPED_TEST(TwoByteType, EveryNanStaysOne) {
  for (unsigned payload = 1; payload < 0x800000u; payload += 97) {
    for (const unsigned sign : {0u, 0x80000000u}) {
      const float nan = ssm::detail::bit_cast<float>(sign | 0x7f800000u | payload);
      const unsigned bits = TypeParam(nan).bits;
      ASSERT_TRUE(is_nan<TypeParam>(bits)) << std::hex << payload;
      ASSERT_EQ(bits >> 15, sign >> 31) << std::hex << payload;
    }
  }
}

TYPED_TEST(TwoByteType, NarrowRoundsOnceWidenIsExact) {
  static_assert(std::is_same<ssm::accum_t<TypeParam>, float>::value, "sums are float");
  ssm_test::Random random;
  for (int i = 0; i < 100000; ++i) {
    const auto x = static_cast<float>(random.uniform(-100, 100));
    const float near = ssm::widen(ssm::narrow<TypeParam>(x));
    EXPECT_LE(std::abs(near - x), std::ldexp(std::abs(x), -Format<TypeParam>::kFraction - 1));
  }
}

TEST(AccumulationType, IsFloatForTwoBytesAndTheTypeItselfOtherwise) {
  static_assert(std::is_same<ssm::accum_t<float>, float>::value, "");
  static_assert(std::is_same<ssm::accum_t<const double>, double>::value, "");
  static_assert(std::is_same<ssm::accum_t<long double>, long double>::value, "");
  static_assert(std::is_same<ssm::real_t<std::complex<float>>, float>::value, "");
  static_assert(ssm::is_complex_v<const std::complex<double>> && !ssm::is_complex_v<double>, "");
  EXPECT_EQ(ssm::widen(1.5), 1.5);
  EXPECT_EQ(ssm::narrow<double>(1.5), 1.5);
}

}  // namespace
