#pragma once

#include <ostream>

#include "ops/run.hpp"
#include "support/suite.hpp"
#include "support/target.hpp"

// What every backend's RMS normalisation must do, against the oracle of support/oracle.hpp:
//
//   using Types = testing::Types<NormTypes<HostTarget<ssm::Cpu>, float>, …>;
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, RmsNormSuite, Types, TypeNames);
namespace ssm_test {

struct NormCase {
  index_t batch = 2, length = 5, features = 24;
  bool x = true, residual = true, weight = true, gate = true, norm_before_gate = false;
  bool in_place = false;
  Layout layout = Layout::contiguous;
  double scale = 1;
  double eps = 1e-5;

  friend std::ostream& operator<<(std::ostream& out, const NormCase& c) {
    return out << "batch " << c.batch << " length " << c.length << " features " << c.features
               << " x " << c.x << " residual " << c.residual << " weight " << c.weight << " gate "
               << c.gate << " norm before gate " << c.norm_before_gate << " in place " << c.in_place
               << " layout " << static_cast<int>(c.layout) << " scale " << c.scale << " eps "
               << c.eps;
  }
};

template <class T>
class NormProblem {
 public:
  using Args = ssm::RmsNormArgs<T>;
  using Accum = ssm::accum_t<T>;

  explicit NormProblem(const NormCase& norm_case, std::uint64_t stream = 0) : c(norm_case) {
    Random random(stream);
    const ssm::Extents<3> shape{c.batch, c.length, c.features};
    if (c.x) x = Tensor<T, 3>(shape, c.layout), x.fill(random, -c.scale, c.scale);
    if (c.residual) {
      residual = Tensor<Accum, 3>(shape, c.layout);
      residual.fill(random, -c.scale, c.scale);
    }
    if (c.weight) weight = Tensor<T, 1>({c.features}, c.layout), weight.fill(random, -2, 2);
    if (c.gate) z = Tensor<T, 3>(shape, c.layout), z.fill(random, -3, 3);
    if (!c.in_place) y = Tensor<T, 3>(shape, c.layout);
  }

  Args args() const {
    Args a;
    a.x = x.view();
    a.residual = residual.view();
    a.weight = weight.view();
    a.z = z.view();
    a.y = c.in_place ? x.view() : y.view();
    a.eps = static_cast<Accum>(c.eps);
    a.norm_before_gate = c.norm_before_gate;
    return a;
  }

  // Row by row; to be asked before the run, which writes residual and perhaps x.
  std::vector<oracle::NormResult> expected() const {
    std::vector<oracle::NormResult> rows;
    for (index_t b = 0; b < c.batch; ++b) {
      for (index_t t = 0; t < c.length; ++t) {
        oracle::Norm p;
        if (c.x) p.x = real_values(x.view().select(0, b).select(0, t));
        if (c.residual) p.residual = real_values(residual.view().select(0, b).select(0, t));
        p.weight = real_values(weight.view());
        if (c.gate) p.z = real_values(z.view().select(0, b).select(0, t));
        p.eps = to_real(args().eps);
        p.norm_before_gate = c.norm_before_gate;
        rows.push_back(oracle::rms_norm(p));
      }
    }
    return rows;
  }

  void expect(const std::vector<oracle::NormResult>& wanted) const {
    ErrorMeter error(underflow<T>());
    ErrorMeter residual_error(underflow<Accum>());
    const ssm::View<const T, 3> found = args().y;
    for (index_t b = 0; b < c.batch; ++b) {
      for (index_t t = 0; t < c.length; ++t) {
        const oracle::NormResult& row = wanted[static_cast<std::size_t>(b * c.length + t)];
        for (index_t i = 0; i < c.features; ++i) {
          const auto k = static_cast<std::size_t>(i);
          error.add(to_real(found(b, t, i)), row.y[k], row.y_scale[k]);
          if (c.residual) {
            residual_error.add(to_real(residual(b, t, i)), row.residual[k],
                               std::abs(row.residual[k]));
          }
        }
      }
    }
    EXPECT_LE(error.worst(), tolerance<T>(Op::rms_norm)) << "y: " << error;
    EXPECT_LE(residual_error.worst(), unit_roundoff<Accum>()) << "residual: " << residual_error;
    EXPECT_TRUE(y.guards_intact());
    EXPECT_TRUE(residual.guards_intact());
  }

  std::vector<std::vector<unsigned char>> inputs() const {
    std::vector<std::vector<unsigned char>> all = {weight.snapshot(), z.snapshot()};
    if (!c.in_place) all.push_back(x.snapshot());
    return all;
  }

  NormCase c;
  Tensor<T, 3> x, z, y;
  Tensor<Accum, 3> residual;
  Tensor<T, 1> weight;
};

template <class Target_, class T_>
struct NormTypes {
  using Target = Target_;
  using T = T_;
  using Args = ssm::RmsNormArgs<T>;
  using Problem = NormProblem<T>;
  static std::string name() { return type_name<T>(); }
};

template <class Types>
class RmsNormSuite : public testing::Test {
 public:
  static void check(const NormCase& c) {
    SCOPED_TRACE(testing::Message() << c);
    const typename Types::Problem p(c);
    const auto wanted = p.expected();
    const auto inputs = p.inputs();
    const ssm::Status status = run<typename Types::Target>(p.args());
    ASSERT_TRUE(status.is_ok()) << status.message().text;
    p.expect(wanted);
    EXPECT_EQ(p.inputs(), inputs) << "an input was written";
  }
};

TYPED_TEST_SUITE_P(RmsNormSuite);

TYPED_TEST_P(RmsNormSuite, EveryCombinationOfOptions) {
  for (int bits = 0; bits < 64; ++bits) {
    NormCase c;
    c.x = (bits & 1) != 0;
    c.residual = !c.x || (bits & 2) != 0;
    c.weight = (bits & 4) != 0;
    c.gate = (bits & 8) != 0;
    c.norm_before_gate = (bits & 16) != 0;
    c.in_place = c.x && (bits & 32) != 0;
    this->check(c);
  }
}

TYPED_TEST_P(RmsNormSuite, AnySize) {
  for (const index_t features :
       {1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 768, 1025, 4097}) {
    NormCase c;
    c.features = features;
    this->check(c);
  }
  for (const index_t rows : {0, 1, 3, 33}) {
    NormCase c;
    c.length = rows;
    this->check(c);
    c.batch = rows;
    c.length = 2;
    this->check(c);
  }
}

TYPED_TEST_P(RmsNormSuite, AnyStrides) {
  for (const Layout layout : kAllLayouts) {
    for (const bool in_place : {false, true}) {
      NormCase c;
      c.layout = layout;
      c.in_place = in_place;
      c.features = 37;
      this->check(c);
    }
  }
}

// eps decides when the row is small; a large row does not overflow.
TYPED_TEST_P(RmsNormSuite, ScalesAndEps) {
  for (const double scale : {1e-4, 1e-2, 1e2, 1e4}) {
    for (const double eps : {0.0, 1e-6, 1e-1}) {
      NormCase c;
      c.scale = scale;
      c.eps = eps;
      this->check(c);
    }
  }
}

// A row of zeros is zeros, not 0 / 0.
TYPED_TEST_P(RmsNormSuite, ZeroRow) {
  NormCase c;
  c.residual = false;
  const typename TypeParam::Problem p(c);
  p.x.fill(0);
  ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
  p.y.for_each([](const typename TypeParam::T& v) { EXPECT_EQ(to_real(v), 0); });
}

TYPED_TEST_P(RmsNormSuite, NanStaysInItsRow) {
  using T = typename TypeParam::T;
  NormCase c;
  const typename TypeParam::Problem clean(c);
  ASSERT_TRUE(run<typename TypeParam::Target>(clean.args()).is_ok());
  const typename TypeParam::Problem p(c);
  p.x(1, 3, 7) = test_nan<T>();
  ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
  for (index_t b = 0; b < c.batch; ++b) {
    for (index_t t = 0; t < c.length; ++t) {
      for (index_t i = 0; i < c.features; ++i) {
        if (b == 1 && t == 3) {
          EXPECT_TRUE(std::isnan(to_real(p.y(b, t, i)))) << i;
        } else {
          EXPECT_TRUE(same_bits<T>(p.y(b, t, i), clean.y(b, t, i))) << b << " " << t << " " << i;
        }
      }
    }
  }
}

TYPED_TEST_P(RmsNormSuite, BadArgumentsAreNamedAndNothingIsWritten) {
  using Args = typename TypeParam::Args;
  using T = typename TypeParam::T;
  using Accum = ssm::accum_t<T>;
  using ssm::ErrorCode;
  using ssm::View;
  const ErrorCode shape = ErrorCode::shape_mismatch;
  const ErrorCode invalid = ErrorCode::invalid_argument;
  const BadCall<Args> calls[] = {
      {"y", invalid,
       [](Args& a) {
         a.y = View<T, 3>(nullptr, {2, 5, 24});
       }},
      {"features", invalid, [](Args& a) { a.y = View<T, 3>(); }},
      {"x", shape, [](Args& a) { a.x = a.x.slice(1, 0, 4); }},
      {"x", invalid, [](Args& a) { a.x = {}, a.residual = {}; }},
      {"residual", shape, [](Args& a) { a.residual = a.residual.slice(2, 0, 23); }},
      {"weight", shape, [](Args& a) { a.weight = a.weight.slice(0, 0, 23); }},
      {"z", shape, [](Args& a) { a.z = a.z.slice(0, 0, 1); }},
      {"eps", invalid, [](Args& a) { a.eps = Accum(-1); }},
      {"eps", invalid, [](Args& a) { a.eps = test_nan<Accum>(); }},
  };
  for (const BadCall<Args>& bad : calls) {
    SCOPED_TRACE(bad.argument);
    const typename TypeParam::Problem p(NormCase{});
    Args a = p.args();
    bad.spoil(a);
    const auto residual = p.residual.snapshot();
    expect_refused(run<typename TypeParam::Target>(a), "rms_norm", bad.argument, bad.code);
    EXPECT_TRUE(p.y.untouched());
    EXPECT_EQ(p.residual.snapshot(), residual);
  }
}

REGISTER_TYPED_TEST_SUITE_P(RmsNormSuite, EveryCombinationOfOptions, AnySize, AnyStrides,
                            ScalesAndEps, ZeroRow, NanStaysInItsRow,
                            BadArgumentsAreNamedAndNothingIsWritten);

}  // namespace ssm_test
