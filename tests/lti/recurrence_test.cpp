// The recurrent mode: exact integer systems against plain loops, splits, single steps, diagonal
// against dense, lengths 0 and 1.

#include "ssm/lti/recurrence.hpp"

#include <gtest/gtest.h>

#include "support.hpp"

namespace {

using lti_test::Matrix;
using lti_test::Random;
using lti_test::Vector;
using ssm::real_t;
using ssm::lti::DenseSystem;
using ssm::lti::DiagonalSystem;
using ssm::lti::State;

template <class T>
class Recurrence : public ::testing::Test {};
using Scalars =
    ::testing::Types<float, double, long double, std::complex<float>, std::complex<double>>;
TYPED_TEST_SUITE(Recurrence, Scalars);

// Entries in {-1, 0, 1} (and i times that): every sum below is exact, in any order.
template <class T>
Matrix<T> integers(Random& random, Eigen::Index rows, Eigen::Index cols) {
  const Matrix<T> m = random.matrix<T>(rows, cols) * T(real_t<T>(1.5));
  return m.unaryExpr([](const T& value) -> T {
    if constexpr (ssm::is_complex_v<T>) {
      return T(std::round(value.real()), std::round(value.imag()));
    } else {
      return std::round(value);
    }
  });
}

template <class T>
DenseSystem<T> integer_system(Random& random, bool memory, bool skip) {
  DenseSystem<T> system;
  // Strictly triangular: nothing grows with the length.
  system.Abar = integers<T>(random, 4, 4).template triangularView<Eigen::StrictlyLower>();
  system.Bbar = integers<T>(random, 4, 2);
  if (memory) system.Bbar_previous = integers<T>(random, 4, 2);
  system.C = integers<T>(random, 3, 4);
  if (skip) system.D = integers<T>(random, 3, 2);
  return system;
}

TYPED_TEST(Recurrence, EqualsPlainLoopsExactly) {
  using T = TypeParam;
  Random random(21);
  for (const bool memory : {false, true}) {
    for (const bool skip : {false, true}) {
      for (const Eigen::Index length : {1, 2, 9}) {
        SCOPED_TRACE(::testing::Message()
                     << "memory " << memory << " skip " << skip << " L " << length);
        const DenseSystem<T> s = integer_system<T>(random, memory, skip);
        const Matrix<T> u = integers<T>(random, 2, length);
        State<T> state{integers<T>(random, 4, 1), integers<T>(random, 2, 1)};
        Vector<T> x = state.x;
        const Vector<T> before = state.u_previous;

        Matrix<T> y = Matrix<T>::Constant(1, 1, T(std::numeric_limits<real_t<T>>::quiet_NaN()));
        ASSERT_TRUE(ssm::lti::run(s, u, state, y));
        ASSERT_EQ(y.rows(), 3);
        ASSERT_EQ(y.cols(), length);
        for (int k = 0; k < length; ++k) {
          Vector<T> next = Vector<T>::Zero(4);
          for (int n = 0; n < 4; ++n) {
            for (int i = 0; i < 4; ++i) next(n) += s.Abar(n, i) * x(i);
            for (int m = 0; m < 2; ++m) {
              next(n) += s.Bbar(n, m) * u(m, k);
              if (memory) {
                next(n) += s.Bbar_previous(n, m) * (k == 0 ? before(m) : u(m, k - 1));
              }
            }
          }
          x = next;
          for (int p = 0; p < 3; ++p) {
            T wanted(0);
            for (int n = 0; n < 4; ++n) wanted += s.C(p, n) * x(n);
            for (int m = 0; skip && m < 2; ++m) wanted += s.D(p, m) * u(m, k);
            EXPECT_EQ(y(p, k), wanted);
          }
        }
        EXPECT_EQ(state.x, x);
        if (memory) {
          EXPECT_EQ(state.u_previous, u.col(length - 1));
        } else {
          EXPECT_EQ(state.u_previous, before);
        }
      }
    }
  }
}

TYPED_TEST(Recurrence, AnySplitAndSingleStepsEqualTheWhole) {
  using T = TypeParam;
  Random random(22);
  DiagonalSystem<T> system;
  system.Abar.diagonal() = random.matrix<T>(5, 1);
  system.Bbar = random.matrix<T>(5, 2);
  system.Bbar_previous = random.matrix<T>(5, 2);
  system.C = random.matrix<T>(3, 5);
  system.D = random.matrix<T>(3, 2);
  const Eigen::Index length = 11;
  const Matrix<T> u = random.matrix<T>(2, length);
  const State<T> initial{random.matrix<T>(5, 1), random.matrix<T>(2, 1)};

  State<T> whole_state = initial;
  Matrix<T> whole;
  ASSERT_TRUE(ssm::lti::run(system, u, whole_state, whole));
  for (Eigen::Index split = 0; split <= length; ++split) {
    State<T> state = initial;
    Matrix<T> head, tail;
    ASSERT_TRUE(ssm::lti::run(system, u.leftCols(split), state, head));
    ASSERT_TRUE(ssm::lti::run(system, u.rightCols(length - split), state, tail));
    EXPECT_EQ(head, whole.leftCols(split));
    EXPECT_EQ(tail, whole.rightCols(length - split));
    EXPECT_EQ(state.x, whole_state.x);
    EXPECT_EQ(state.u_previous, whole_state.u_previous);
  }
  State<T> state = initial;
  for (Eigen::Index k = 0; k < length; ++k) {
    Vector<T> y;
    ASSERT_TRUE(ssm::lti::step(system, u.col(k), state, y));
    EXPECT_EQ(y, whole.col(k));
  }
  EXPECT_EQ(state.x, whole_state.x);
}

TYPED_TEST(Recurrence, DiagonalEqualsDense) {
  using T = TypeParam;
  Random random(23);
  DiagonalSystem<T> diagonal;
  diagonal.Abar.diagonal() = random.matrix<T>(6, 1);
  diagonal.Bbar = random.matrix<T>(6, 1);
  diagonal.C = random.matrix<T>(1, 6);
  const DenseSystem<T> dense{diagonal.Abar, diagonal.Bbar, {}, diagonal.C, {}};
  const Matrix<T> u = random.matrix<T>(1, 40);
  State<T> a = ssm::lti::zero_state(diagonal);
  State<T> b = ssm::lti::zero_state(dense);
  Matrix<T> ya, yb;
  ASSERT_TRUE(ssm::lti::run(diagonal, u, a, ya));
  ASSERT_TRUE(ssm::lti::run(dense, u, b, yb));
  const double epsilon = static_cast<double>(std::numeric_limits<real_t<T>>::epsilon());
  EXPECT_LE(lti_test::relative_error(ya, yb), 16 * epsilon);
  EXPECT_LE(lti_test::relative_error(a.x, b.x), 16 * epsilon);
}

TEST(RecurrenceEdges, LengthZeroLeavesTheState) {
  Random random(24);
  const DenseSystem<double> system = integer_system<double>(random, true, true);
  State<double> state{random.matrix<double>(4, 1), random.matrix<double>(2, 1)};
  const State<double> before = state;
  Matrix<double> y = Matrix<double>::Ones(2, 2);
  ASSERT_TRUE(ssm::lti::run(system, Matrix<double>(2, 0), state, y));
  EXPECT_EQ(y.rows(), 3);
  EXPECT_EQ(y.cols(), 0);
  EXPECT_EQ(state.x, before.x);
  EXPECT_EQ(state.u_previous, before.u_previous);
}

TEST(RecurrenceEdges, OutputMayBeTheInputAndTheInputAnyExpression) {
  Random random(25);
  DenseSystem<double> system = integer_system<double>(random, true, true);
  const Matrix<double> u = random.matrix<double>(2, 6);
  State<double> a = ssm::lti::zero_state(system);
  State<double> b = a;
  State<double> c = a;
  Matrix<double> y, in_place = u, from_strided;
  Matrix<double> wide = Matrix<double>::Constant(4, 6, std::nan(""));
  wide.row(0) = u.row(0);
  wide.row(3) = u.row(1);
  ASSERT_TRUE(ssm::lti::run(system, u, a, y));
  ASSERT_TRUE(ssm::lti::run(system, in_place, b, in_place));
  ASSERT_TRUE(ssm::lti::run(
      system, Eigen::Map<const Matrix<double>, 0, Eigen::Stride<4, 3>>(wide.data(), 2, 6), c,
      from_strided));
  EXPECT_EQ(in_place, y);
  EXPECT_EQ(from_strided, y);
}

TEST(RecurrenceEdges, NanShowsFromItsTimeOn) {
  DiagonalSystem<double> system;
  system.Abar.diagonal() = Vector<double>::Constant(1, 0.5);
  system.Bbar = system.C = Matrix<double>::Ones(1, 1);
  Matrix<double> u = Matrix<double>::Ones(1, 5), y;
  u(0, 3) = std::nan("");
  State<double> state = ssm::lti::zero_state(system);
  ASSERT_TRUE(ssm::lti::run(system, u, state, y));
  for (int k = 0; k < 5; ++k) EXPECT_EQ(std::isnan(y(0, k)), k >= 3);
}

}  // namespace
