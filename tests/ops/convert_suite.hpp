#pragma once

#include <limits>

#include "ops/run.hpp"
#include "support/suite.hpp"
#include "support/target.hpp"

// What every backend's convert must do; every comparison is exact.
namespace ssm_test {

template <class Target_, class From_, class To_>
struct ConvertTypes {
  using Target = Target_;
  using From = From_;
  using To = To_;
  using Args = ssm::ConvertArgs<From, To>;
  static std::string name() { return type_name<From>() + "_" + type_name<To>(); }
};

template <class Types>
class ConvertSuite : public testing::Test {
 public:
  using From = typename Types::From;
  using To = typename Types::To;

  ConvertSuite() { make({2, 3, 5, 7}, Layout::contiguous); }

  // Among random values, what rounding can get wrong: ties to even from both sides, the largest
  // numbers, the smallest, zeros of both signs, infinities, not a number.
  void make(const ssm::Extents<4>& extents, Layout layout) {
    Random random;
    x = Tensor<From, 4>(extents, layout);
    x.fill(random, -3, 3);
    const float odd[] = {1.00390625f,
                         1.01171875f,
                         -1.00390625f,
                         1.00390637f,
                         1.00390613f,
                         std::numeric_limits<float>::max(),
                         1e-45f,
                         1e-39f,
                         -0.0f,
                         std::numeric_limits<float>::infinity(),
                         std::numeric_limits<float>::quiet_NaN()};
    std::size_t next = 0;
    x.for_each([&](From& v) {
      if (next < std::size(odd)) v = static_cast<From>(odd[next++]);
    });
    y = Tensor<To, 4>(extents, layout);
  }
  typename Types::Args args() const { return {x.view(), y.view()}; }
  void check() const {
    const ssm::Status status = run<typename Types::Target>(args());
    ASSERT_TRUE(status.is_ok()) << status.message().text;
    const auto& shape = y.view();
    for (index_t i = 0; i < shape.extent(0); ++i) {
      for (index_t j = 0; j < shape.extent(1); ++j) {
        for (index_t k = 0; k < shape.extent(2); ++k) {
          for (index_t l = 0; l < shape.extent(3); ++l) {
            const auto found = static_cast<float>(y(i, j, k, l));
            const auto wanted = static_cast<float>(nearest(static_cast<float>(x(i, j, k, l))));
            if (std::isnan(wanted)) {
              ASSERT_TRUE(std::isnan(found));
              continue;
            }
            ASSERT_EQ(found, wanted);
            ASSERT_EQ(std::signbit(found), std::signbit(wanted));
          }
        }
      }
    }
    EXPECT_TRUE(y.guards_intact());
  }
  // By arithmetic in double, not by bits: the multiple of the last place that is nearest, ties to
  // even.
  static double nearest(float v) {
    if (!std::isfinite(v) || v == 0 || sizeof(To) >= sizeof(float)) return v;
    const int exponent = std::max(std::ilogb(v), -126) - 7;
    const double rounded = std::ldexp(std::nearbyint(std::ldexp(double(v), -exponent)), exponent);
    const double most = std::ldexp(255.0, 120);
    if (std::abs(rounded) > most) return std::copysign(HUGE_VAL, rounded);
    return rounded;
  }

  Tensor<From, 4> x;
  Tensor<To, 4> y;
};

TYPED_TEST_SUITE_P(ConvertSuite);

TYPED_TEST_P(ConvertSuite, AnySizeAndStrides) {
  this->check();
  for (const Layout layout : kAllLayouts) {
    for (const ssm::Extents<4>& extents :
         {ssm::Extents<4>{1, 1, 1, 11}, {3, 2, 17, 16}, {2, 0, 3, 4}, {2, 2, 300, 1}}) {
      this->make(extents, layout);
      this->check();
    }
  }
}

TYPED_TEST_P(ConvertSuite, BadArgumentsAreNamedAndNothingIsWritten) {
  using Args = typename TypeParam::Args;
  const BadCall<Args> calls[] = {
      {"y", ssm::ErrorCode::invalid_argument,
       [](Args& a) {
         a.y = {nullptr, {2, 3, 5, 7}};
       }},
      {"x", ssm::ErrorCode::shape_mismatch, [](Args& a) { a.x = a.x.slice(2, 0, 4); }},
  };
  for (const BadCall<Args>& bad : calls) {
    SCOPED_TRACE(bad.argument);
    Args a = this->args();
    bad.spoil(a);
    expect_refused(run<typename TypeParam::Target>(a), "convert", bad.argument, bad.code);
  }
  EXPECT_TRUE(this->y.untouched());
}

REGISTER_TYPED_TEST_SUITE_P(ConvertSuite, AnySizeAndStrides,
                            BadArgumentsAreNamedAndNothingIsWritten);

}  // namespace ssm_test
