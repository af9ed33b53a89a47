#include <gtest/gtest.h>

#include <complex>

#include "ssm/ops/selective_scan.hpp"
#include "support/error.hpp"
#include "support/random.hpp"

namespace ssm_test {
namespace {

using Map = ssm::AffineMap<double>;
using MapMinusOne = ssm::AffineMapMinusOne<double>;

double apply(const Map& m, double h) { return m.a * h + m.b; }

// Small integers: exact in every order, so equality needs no tolerance.
Map integer_map(Random& random) {
  return {static_cast<double>(random.integer(-4, 4)), static_cast<double>(random.integer(-9, 9))};
}

TEST(ComposeAffine, AppliesTheFirstMapFirst) {
  Random random;
  for (int i = 0; i < 1000; ++i) {
    const Map first = integer_map(random);
    const Map second = integer_map(random);
    const double h = static_cast<double>(random.integer(-9, 9));
    EXPECT_EQ(apply(ssm::ComposeAffine()(first, second), h), apply(second, apply(first, h)));
  }
}

TEST(ComposeAffine, IsAssociativeAndHasTheIdentity) {
  Random random;
  const ssm::ComposeAffine compose;
  for (int i = 0; i < 1000; ++i) {
    const Map p = integer_map(random);
    const Map q = integer_map(random);
    const Map r = integer_map(random);
    const Map left = compose(compose(p, q), r);
    const Map right = compose(p, compose(q, r));
    EXPECT_EQ(left.a, right.a);
    EXPECT_EQ(left.b, right.b);
    for (const Map& same : {compose(p, Map()), compose(Map(), p)}) {
      EXPECT_EQ(same.a, p.a);
      EXPECT_EQ(same.b, p.b);
    }
  }
}

TEST(ComposeAffine, DoesNotCommute) {
  const ssm::ComposeAffine compose;
  EXPECT_EQ(compose(Map{2, 1}, Map{3, 5}).b, 8);
  EXPECT_EQ(compose(Map{3, 5}, Map{2, 1}).b, 11);
}

TEST(ComposeAffineMinusOne, IsTheSameOperatorOnAMinusOne) {
  Random random;
  for (int i = 0; i < 1000; ++i) {
    const Map p = integer_map(random);
    const Map q = integer_map(random);
    const Map wanted = ssm::ComposeAffine()(p, q);
    const MapMinusOne found =
        ssm::ComposeAffineMinusOne()(MapMinusOne{p.a - 1, p.b}, MapMinusOne{q.a - 1, q.b});
    EXPECT_EQ(found.e + 1, wanted.a);
    EXPECT_EQ(found.b, wanted.b);
  }
}

TEST(ComposeAffineMinusOne, IsAssociativeAndHasTheIdentity) {
  Random random;
  const ssm::ComposeAffineMinusOne compose;
  const auto draw = [&random] {
    const Map m = integer_map(random);
    return MapMinusOne{m.a, m.b};
  };
  for (int i = 0; i < 1000; ++i) {
    const MapMinusOne p = draw();
    const MapMinusOne q = draw();
    const MapMinusOne r = draw();
    const MapMinusOne left = compose(compose(p, q), r);
    const MapMinusOne right = compose(p, compose(q, r));
    EXPECT_EQ(left.e, right.e);
    EXPECT_EQ(left.b, right.b);
    for (const MapMinusOne& same : {compose(p, MapMinusOne()), compose(MapMinusOne(), p)}) {
      EXPECT_EQ(same.e, p.e);
      EXPECT_EQ(same.b, p.b);
    }
  }
}

// 2^20 equal decays of 1 - 1e-6 in float, composed as a tree: only e = a - 1 keeps their digits.
TEST(ComposeAffineMinusOne, KeepsTheDigitsOfADecayNextToOne) {
  ssm::AffineMapMinusOne<float> accurate{std::expm1(-1e-6f), 1};
  ssm::AffineMap<float> plain{std::exp(-1e-6f), 1};
  for (int doubling = 0; doubling < 20; ++doubling) {
    accurate = ssm::ComposeAffineMinusOne()(accurate, accurate);
    plain = ssm::ComposeAffine()(plain, plain);
  }
  const double rate = static_cast<double>(-1e-6f);
  const double sum = std::expm1(rate * 0x1p20) / std::expm1(rate);
  EXPECT_LE(std::abs(static_cast<double>(accurate.b) / sum - 1), 2e-6);
  EXPECT_GE(std::abs(static_cast<double>(plain.b) / sum - 1), 1e-3);
}

TEST(ComposeAffine, WorksOnComplexDecays) {
  using C = std::complex<double>;
  const ssm::AffineMap<C> quarter_turn{C(0, 1), C(1, 0)};
  const ssm::ComposeAffine compose;
  const auto half = compose(quarter_turn, quarter_turn);
  const auto whole = compose(half, half);
  EXPECT_EQ(whole.a, C(1, 0));
  EXPECT_EQ(whole.b, C(0, 0));
}

}  // namespace
}  // namespace ssm_test
