#pragma once

#include "ops/linear_problem.hpp"
#include "ops/run.hpp"
#include "support/target.hpp"

// What every backend's linear layer must do, against a plain loop in long double:
//
//   using Types = testing::Types<LinearTypes<HostTarget<ssm::Cpu>, float>, …>;
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, LinearSuite, Types, TypeNames);
namespace ssm_test {

template <class Target_, class T_, class TOut_ = T_>
struct LinearTypes {
  using Target = Target_;
  using T = T_;
  using TOut = TOut_;
  using Args = ssm::LinearArgs<T, TOut>;
  using Problem = LinearProblem<T, TOut>;
  static std::string name() { return type_name<T>() + "_to_" + type_name<TOut>(); }
};

template <class Types>
class LinearSuite : public testing::Test {
 public:
  static void check(const LinearCase& c) {
    SCOPED_TRACE(testing::Message() << c);
    const typename Types::Problem p(c);
    const auto inputs = p.inputs();
    const ssm::Status status = run<typename Types::Target>(p.args());
    ASSERT_TRUE(status.is_ok()) << status.message().text;
    p.expect();
    EXPECT_EQ(p.inputs(), inputs) << "an input was written";
  }
};

TYPED_TEST_SUITE_P(LinearSuite);

TYPED_TEST_P(LinearSuite, AnySize) {
  const index_t sizes[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 257, 600};
  for (const index_t size : sizes) {
    LinearCase c;
    c.in = size;
    this->check(c);
    c = LinearCase();
    c.out = size;
    this->check(c);
    c = LinearCase();
    c.length = size;
    this->check(c);
  }
  for (const index_t batch : {1, 3, 17}) {
    for (const index_t length : {1, 4}) {
      LinearCase c;
      c.batch = batch;
      c.length = length;
      c.in = 33;
      c.out = 65;
      this->check(c);
    }
  }
}

TYPED_TEST_P(LinearSuite, AnyStridesWithAndWithoutBias) {
  for (const Layout layout : kAllLayouts) {
    for (const bool bias : {false, true}) {
      for (const index_t length : {1, 5, 19}) {
        LinearCase c;
        c.layout = layout;
        c.bias = bias;
        c.length = length;
        this->check(c);
      }
    }
  }
}

// The chunks of a Mamba projection: columns of a wider array in, columns of a wider array out.
TYPED_TEST_P(LinearSuite, SlicesOfWiderRows) {
  LinearCase c;
  c.in = 40;
  c.out = 36;
  const typename TypeParam::Problem p(c);
  Tensor<typename TypeParam::TOut, 3> wide({c.batch, c.length, 3 * c.out});
  typename TypeParam::Args a = p.args();
  a.y = wide.view().slice(2, c.out, c.out);
  ASSERT_TRUE(run<typename TypeParam::Target>(a).is_ok());
  for (index_t b = 0; b < c.batch; ++b) {
    for (index_t t = 0; t < c.length; ++t) {
      for (index_t o = 0; o < c.out; ++o) {
        p.y(b, t, o) = wide(b, t, c.out + o);
        EXPECT_TRUE(is_poison(wide(b, t, o)) && is_poison(wide(b, t, 2 * c.out + o)));
      }
    }
  }
  p.expect();
}

// Sums of small integers are exact in any order: no tolerance but the rounding of the result.
TYPED_TEST_P(LinearSuite, IntegersAreExact) {
  using TOut = typename TypeParam::TOut;
  for (const index_t in : {16, 33, 300}) {
    for (const index_t length : {1, 2, 5, 64}) {
      LinearCase c;
      c.in = in;
      c.out = 37;
      c.length = length;
      const typename TypeParam::Problem p(c);
      Random random(5);
      p.x.fill_integers(random, -4, 4);
      p.weight.fill_integers(random, -4, 4);
      p.bias.fill_integers(random, -4, 4);
      ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
      for (index_t b = 0; b < c.batch; ++b) {
        for (index_t t = 0; t < c.length; ++t) {
          for (index_t o = 0; o < c.out; ++o) {
            const double exact = static_cast<double>(p.wanted(b, t, o).value);
            const TOut rounded = Tensor<TOut, 3>::from_double(exact);
            ASSERT_EQ(to_real(p.y(b, t, o)), to_real(rounded)) << b << " " << t << " " << o;
          }
        }
      }
    }
  }
}

TYPED_TEST_P(LinearSuite, NothingToSum) {
  LinearCase c;
  c.in = 0;
  this->check(c);
  for (index_t LinearCase::*const extent :
       {&LinearCase::batch, &LinearCase::length, &LinearCase::out}) {
    c = LinearCase();
    c.*extent = 0;
    this->check(c);
  }
}

// A packed copy of the weight gives what the weight gives.
TYPED_TEST_P(LinearSuite, PackedWeight) {
  using T = typename TypeParam::T;
  for (const index_t in : {7, 64, 129}) {
    for (const index_t length : {1, 6}) {
      LinearCase c;
      c.in = in;
      c.out = 45;
      c.length = length;
      const typename TypeParam::Problem p(c);
      typename TypeParam::Target target;
      const ssm::View<const T, 2> weight = target.map(p.args().weight);
      ssm::Arena counter;
      pack_linear(target.backend(), weight, ssm::WeightFormat::native, counter);
      Tensor<unsigned char, 1> memory({static_cast<index_t>(counter.bytes_needed())});
      typename TypeParam::Args a = p.args();
      const ssm::View<unsigned char, 1> bytes = target.map(memory.view());
      ssm::Arena arena(bytes.data(), counter.bytes_needed());
      a.packed = pack_linear(target.backend(), weight, ssm::WeightFormat::native, arena);
      EXPECT_FALSE(arena.exhausted());
      a.x = target.map(a.x);
      a.weight = weight;
      a.bias = target.map(a.bias);
      a.y = target.map(a.y);
      const ssm::Status status = linear(target.backend(), a);
      target.finish();
      ASSERT_TRUE(status.is_ok()) << status.message().text;
      EXPECT_TRUE(memory.guards_intact());
      p.expect();
    }
  }
}

TYPED_TEST_P(LinearSuite, NanStaysInItsRow) {
  using TOut = typename TypeParam::TOut;
  LinearCase c;
  const typename TypeParam::Problem clean(c);
  ASSERT_TRUE(run<typename TypeParam::Target>(clean.args()).is_ok());
  const typename TypeParam::Problem p(c);
  p.x(1, 3, 7) = test_nan<typename TypeParam::T>();
  ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
  for (index_t b = 0; b < c.batch; ++b) {
    for (index_t t = 0; t < c.length; ++t) {
      for (index_t o = 0; o < c.out; ++o) {
        if (b == 1 && t == 3) {
          EXPECT_TRUE(std::isnan(to_real(p.y(b, t, o)))) << o;
        } else {
          EXPECT_TRUE(same_bits<TOut>(p.y(b, t, o), clean.y(b, t, o))) << b << " " << t << " " << o;
        }
      }
    }
  }
}

TYPED_TEST_P(LinearSuite, BadArgumentsAreNamedAndNothingIsWritten) {
  using Args = typename TypeParam::Args;
  using T = typename TypeParam::T;
  using TOut = typename TypeParam::TOut;
  using ssm::ErrorCode;
  using ssm::View;
  const ErrorCode shape = ErrorCode::shape_mismatch;
  const ErrorCode invalid = ErrorCode::invalid_argument;
  const BadCall<Args> calls[] = {
      {"x", invalid,
       [](Args& a) {
         a.x = View<const T, 3>(nullptr, {2, 5, 24});
       }},
      {"x", invalid,
       [](Args& a) {
         a.x = View<const T, 3>(a.x.data(), {2, 5, -24});
       }},
      {"weight", shape, [](Args& a) { a.weight = a.weight.slice(1, 0, 23); }},
      {"weight", invalid,
       [](Args& a) {
         a.weight = View<const T, 2>(nullptr, {20, 24});
       }},
      {"bias", shape, [](Args& a) { a.bias = a.bias.slice(0, 0, 19); }},
      {"y", shape, [](Args& a) { a.y = a.y.slice(2, 0, 19); }},
      {"y", shape, [](Args& a) { a.y = View<TOut, 3>(); }},
  };
  for (const BadCall<Args>& bad : calls) {
    SCOPED_TRACE(bad.argument);
    const typename TypeParam::Problem p(LinearCase{});
    Args a = p.args();
    bad.spoil(a);
    expect_refused(run<typename TypeParam::Target>(a), "linear", bad.argument, bad.code);
    EXPECT_TRUE(p.y.untouched());
  }
}

REGISTER_TYPED_TEST_SUITE_P(LinearSuite, AnySize, AnyStridesWithAndWithoutBias, SlicesOfWiderRows,
                            IntegersAreExact, NothingToSum, PackedWeight, NanStaysInItsRow,
                            BadArgumentsAreNamedAndNothingIsWritten);

}  // namespace ssm_test
