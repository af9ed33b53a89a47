#pragma once

#include "ops/run_backward.hpp"
#include "support/gradient.hpp"

// What every backend's gradient of the linear layer must be. Small integers, so that every order of
// summation is exact and comparisons are too; and once random numbers.
//
//   using Types = testing::Types<LinearGradTypes<HostTarget<ssm::Cpu>, float>, …>;
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, LinearBackwardSuite, Types, TypeNames);
namespace ssm_test {

struct LinearGradCase {
  index_t batch = 2, length = 3, in = 5, out = 7;
  bool dx = true, dweight = true, dbias = true, integers = true;
  Layout layout = Layout::contiguous;
  ssm::GradMode inputs = ssm::GradMode::overwrite, parameters = ssm::GradMode::overwrite;

  friend std::ostream& operator<<(std::ostream& o, const LinearGradCase& c) {
    return o << "batch " << c.batch << " length " << c.length << " in " << c.in << " out " << c.out
             << " dx " << c.dx << " dweight " << c.dweight << " dbias " << c.dbias << " layout "
             << static_cast<int>(c.layout) << " inputs " << static_cast<int>(c.inputs)
             << " parameters " << static_cast<int>(c.parameters);
  }
};

template <class Target_, class T_, class TOut_ = T_, class TIn_ = T_>
struct LinearGradTypes {
  using Target = Target_;
  using T = T_;
  using TOut = TOut_;
  using TIn = TIn_;
  using Args = ssm::LinearGradArgs<T, TOut, TIn>;
  static std::string name() {
    return type_name<T>() + "_" + type_name<TOut>() + "_" + type_name<TIn>();
  }
};

template <class Types>
class LinearBackwardSuite : public testing::Test {
 public:
  using T = typename Types::T;
  using TOut = typename Types::TOut;
  using TIn = typename Types::TIn;
  using Accum = ssm::accum_t<T>;
  using Args = typename Types::Args;

  struct Problem {
    explicit Problem(const LinearGradCase& c)
        : x({c.batch, c.length, c.in}, c.layout),
          weight({c.out, c.in}, c.layout),
          dy({c.batch, c.length, c.out}, c.layout) {
      Random random(5);
      const auto fill = [&](const auto& tensor) {
        c.integers ? tensor.fill_integers(random, -2, 2) : tensor.fill(random, -1, 1);
      };
      fill(x);
      fill(weight);
      fill(dy);
      if (c.dx) dx = {{c.batch, c.length, c.in}, c.layout, c.inputs, random};
      if (c.dweight) dweight = {{c.out, c.in}, c.layout, c.parameters, random};
      if (c.dbias) dbias = {{c.out}, c.layout, c.parameters, random};
      a.x = x.view();
      a.weight = weight.view();
      a.dy = dy.view();
      a.dx = dx.view();
      a.dweight = dweight.view();
      a.dbias = dbias.view();
      a.inputs = c.inputs;
      a.parameters = c.parameters;
    }
    Tensor<T, 3> x;
    Tensor<T, 2> weight;
    Tensor<TOut, 3> dy;
    GradientArray<TIn, 3> dx;
    GradientArray<Accum, 2> dweight;
    GradientArray<Accum, 1> dbias;
    Args a;
  };

  static void check(const LinearGradCase& c) {
    SCOPED_TRACE(testing::Message() << c);
    const Problem p(c);
    std::vector<oracle::Real> dx, dweight(static_cast<std::size_t>(c.in * c.out), 0),
        dbias(static_cast<std::size_t>(c.out), 0);
    for (index_t b = 0; b < c.batch; ++b) {
      for (index_t t = 0; t < c.length; ++t) {
        for (index_t i = 0; i < c.in; ++i) {
          oracle::Real sum = 0;
          for (index_t o = 0; o < c.out; ++o) {
            sum += to_real(p.dy(b, t, o)) * to_real(p.weight(o, i));
            dweight[static_cast<std::size_t>(o * c.in + i)] +=
                to_real(p.dy(b, t, o)) * to_real(p.x(b, t, i));
          }
          dx.push_back(sum);
        }
        for (index_t o = 0; o < c.out; ++o) {
          dbias[static_cast<std::size_t>(o)] += to_real(p.dy(b, t, o));
        }
      }
    }
    const ssm::Status status = run<typename Types::Target>(p.a);
    ASSERT_TRUE(status.is_ok()) << status.message().text;
    // Integers to 256 are exact in every type; what accumulates to random numbers rounds once.
    const bool exact = c.integers && c.inputs != ssm::GradMode::accumulate;
    p.dx.expect("dx", dx, exact ? 0 : tolerance<T>(Op::linear) + unit_roundoff<TIn>());
    const bool exact_sum = c.integers && c.parameters != ssm::GradMode::accumulate;
    p.dweight.expect("dweight", dweight, exact_sum ? 0 : accum_tolerance<T>(Op::linear));
    p.dbias.expect("dbias", dbias, exact_sum ? 0 : accum_tolerance<T>(Op::linear));
  }
};

TYPED_TEST_SUITE_P(LinearBackwardSuite);

TYPED_TEST_P(LinearBackwardSuite, EveryCombination) {
  for (const ssm::GradMode inputs : kGradModes) {
    for (const ssm::GradMode parameters : kGradModes) {
      for (int bits = 0; bits < 16; ++bits) {
        LinearGradCase c;
        c.inputs = inputs;
        c.parameters = parameters;
        c.dx = (bits & 1) != 0;
        c.dweight = (bits & 2) != 0;
        c.dbias = (bits & 4) != 0;
        c.integers = (bits & 8) != 0;
        this->check(c);
      }
    }
  }
}

TYPED_TEST_P(LinearBackwardSuite, AnySizeAndStrides) {
  for (const Layout layout : kAllLayouts) {
    for (const index_t size : {1, 2, 3, 7, 8, 9, 16, 17, 31}) {
      LinearGradCase c;
      c.layout = layout;
      c.in = size;
      this->check(c);
      c.in = 5;
      c.out = size;
      this->check(c);
      c.out = 7;
      c.length = size;
      this->check(c);
    }
  }
}

TYPED_TEST_P(LinearBackwardSuite, NothingToDo) {
  for (index_t LinearGradCase::*const extent : {&LinearGradCase::batch, &LinearGradCase::length,
                                                &LinearGradCase::in, &LinearGradCase::out}) {
    LinearGradCase c;
    c.*extent = 0;
    this->check(c);
  }
}

TYPED_TEST_P(LinearBackwardSuite, BadArgumentsAreNamedAndNothingIsWritten) {
  using Call = typename TypeParam::Args;
  using ssm::ErrorCode;
  const ErrorCode shape = ErrorCode::shape_mismatch;
  const BadCall<Call> calls[] = {
      {"dy", shape, [](Call& a) { a.dy = a.dy.slice(2, 0, 6); }},
      {"x", shape, [](Call& a) { a.x = a.x.slice(2, 0, 4); }},
      {"weight", ErrorCode::invalid_argument,
       [](Call& a) {
         a.weight = {nullptr, {7, 5}};
       }},
      {"dx", shape, [](Call& a) { a.dx = a.dx.slice(1, 0, 2); }},
      {"dweight", shape, [](Call& a) { a.dweight = a.dweight.slice(1, 0, 4); }},
      {"dbias", shape, [](Call& a) { a.dbias = a.dbias.slice(0, 0, 6); }},
  };
  for (const BadCall<Call>& bad : calls) {
    SCOPED_TRACE(bad.argument);
    typename TestFixture::Problem p(LinearGradCase{});
    bad.spoil(p.a);
    expect_refused(run<typename TypeParam::Target>(p.a), "linear_backward", bad.argument, bad.code);
    EXPECT_TRUE(p.dx.tensor.untouched());
    EXPECT_TRUE(p.dweight.tensor.untouched());
    EXPECT_TRUE(p.dbias.tensor.untouched());
  }
  // x is not asked for when no gradient needs it.
  LinearGradCase c;
  c.dweight = false;
  typename TestFixture::Problem p(c);
  p.a.x = {};
  EXPECT_TRUE(run<typename TypeParam::Target>(p.a).is_ok());
}

REGISTER_TYPED_TEST_SUITE_P(LinearBackwardSuite, EveryCombination, AnySizeAndStrides, NothingToDo,
                            BadArgumentsAreNamedAndNothingIsWritten);

}  // namespace ssm_test
