#pragma once

#include "ops/conv_problem.hpp"

// What every backend's causal convolution must do, against the oracle of support/oracle.hpp:
//
//   using Types = testing::Types<ConvTypes<HostTarget<ssm::Cpu>, float>, …>;
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, CausalConv1dSuite, Types, TypeNames);
namespace ssm_test {

template <class Types>
class CausalConv1dSuite : public testing::Test {
 public:
  static void check(const ConvCase& c) {
    SCOPED_TRACE(testing::Message() << c);
    const typename Types::Problem p(c);
    const oracle::ConvResult wanted = p.expected();
    const auto inputs = p.inputs();
    const ssm::Status status = run<typename Types::Target>(p.args());
    ASSERT_TRUE(status.is_ok()) << status.message().text;
    p.expect(wanted);
    EXPECT_EQ(p.inputs(), inputs) << "an input was written";
  }

  // Runs the case in consecutive chunks, the state carried in place.
  static void check_chunks(const ConvCase& c, const std::vector<index_t>& chunks) {
    SCOPED_TRACE(testing::Message()
                 << c << " in " << chunks.size() << " chunks, the first of " << chunks.front());
    const typename Types::Problem p(c);
    const oracle::ConvResult wanted = p.expected();
    typename Types::Args a = p.args();
    index_t done = 0;
    for (const index_t length : chunks) {
      typename Types::Args part = a;
      part.x = a.x.slice(1, done, length);
      part.y = a.y.slice(1, done, length);
      const ssm::Status status = run<typename Types::Target>(part);
      ASSERT_TRUE(status.is_ok()) << status.message().text;
      a.state0 = a.state_last;
      done += length;
    }
    ASSERT_EQ(done, c.length);
    p.expect(wanted);
  }

  static void check_refused(const ConvCase& c, const BadCall<typename Types::Args>& bad) {
    SCOPED_TRACE(bad.argument);
    const typename Types::Problem p(c);
    typename Types::Args a = p.args();
    bad.spoil(a);
    const auto inputs = p.inputs();
    expect_refused(run<typename Types::Target>(a), "causal_conv1d", bad.argument, bad.code);
    EXPECT_TRUE(p.y.untouched());
    EXPECT_TRUE(p.state_last.untouched());
    EXPECT_EQ(p.inputs(), inputs);
  }
};

TYPED_TEST_SUITE_P(CausalConv1dSuite);

TYPED_TEST_P(CausalConv1dSuite, EveryCombinationOfOptions) {
  for (int bits = 0; bits < 32; ++bits) {
    ConvCase c;
    c.bias = (bits & 1) != 0;
    c.initial = (bits & 2) != 0;
    c.last = (bits & 4) != 0;
    c.silu = (bits & 8) != 0;
    c.state_in_place = c.initial && (bits & 16) != 0;
    this->check(c);
  }
}

TYPED_TEST_P(CausalConv1dSuite, AnyWidthAndLength) {
  for (const index_t width : {1, 2, 3, 4, 5, 7, 8, 9, 16, 31, 64, 65}) {
    for (const index_t length : {1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129, 257}) {
      ConvCase c;
      c.width = width;
      c.length = length;
      c.channels = 3;
      this->check(c);
    }
  }
}

TYPED_TEST_P(CausalConv1dSuite, AnyBatchAndChannels) {
  for (const index_t channels : {1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 129, 257}) {
    for (const index_t width : {3, 4}) {
      ConvCase c;
      c.channels = channels;
      c.width = width;
      this->check(c);
    }
  }
  for (const index_t batch : {1, 3, 5}) {
    ConvCase c;
    c.batch = batch;
    this->check(c);
  }
}

TYPED_TEST_P(CausalConv1dSuite, AnyStrides) {
  for (const Layout layout : kAllLayouts) {
    for (const index_t channels : {3, 16, 33}) {
      ConvCase c;
      c.layout = layout;
      c.channels = channels;
      this->check(c);
      c.state_in_place = true;
      this->check(c);
    }
  }
}

// Sums of small integers are exact in any order: no tolerance.
TYPED_TEST_P(CausalConv1dSuite, IntegersAreExact) {
  using T = typename TypeParam::T;
  for (const index_t width : {2, 4, 7}) {
    ConvCase c;
    c.width = width;
    c.channels = 19;
    c.length = 35;
    c.silu = false;
    const typename TypeParam::Problem p(c);
    Random random(3);
    p.x.fill_integers(random, -4, 4);
    p.weight.fill_integers(random, -4, 4);
    p.bias.fill_integers(random, -4, 4);
    p.state0.fill_integers(random, -4, 4);
    const oracle::ConvResult wanted = p.expected();
    ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
    EXPECT_EQ(real_values(ssm::View<const T, 3>(p.y.view())), wanted.y);
  }
}

TYPED_TEST_P(CausalConv1dSuite, AnySplitWithCarriedStateEqualsTheWhole) {
  for (const index_t width : {1, 2, 4, 8, 13}) {
    for (index_t split = 0; split <= 9; ++split) {
      ConvCase c;
      c.width = width;
      this->check_chunks(c, {split, c.length - split});
    }
    for (const index_t step : {1, 2, 3, 7, 32, 64}) {
      ConvCase c;
      c.width = width;
      c.length = 65;
      c.initial = step % 2 == 0;
      std::vector<index_t> chunks(static_cast<std::size_t>(c.length / step), step);
      if (c.length % step != 0) chunks.push_back(c.length % step);
      this->check_chunks(c, chunks);
    }
  }
}

TYPED_TEST_P(CausalConv1dSuite, PackedSequencesResetTheState) {
  const std::vector<std::vector<index_t>> packings = {
      {0, 9}, {0, 4, 9}, {0, 0, 1, 9, 9}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}};
  for (const std::vector<index_t>& starts : packings) {
    for (const bool initial : {false, true}) {
      for (const index_t width : {2, 4, 12}) {
        ConvCase c;
        c.batch = 1;
        c.width = width;
        c.partition = {{}, starts};
        c.initial = initial;
        this->check(c);
        c.state_in_place = initial;
        this->check(c);
      }
    }
  }
}

TYPED_TEST_P(CausalConv1dSuite, PaddingIsNeitherReadNorWritten) {
  for (const index_t width : {2, 4, 12}) {
    ConvCase c;
    c.batch = 5;
    c.width = width;
    c.partition.lengths = {9, 0, 1, 3, 5};
    this->check(c);
    c.state_in_place = true;
    this->check(c);
  }
}

TYPED_TEST_P(CausalConv1dSuite, NothingToDoLeavesTheState) {
  for (index_t ConvCase::*const extent :
       {&ConvCase::batch, &ConvCase::length, &ConvCase::channels}) {
    for (const bool initial : {false, true}) {
      ConvCase c;
      c.*extent = 0;
      c.initial = initial;
      this->check(c);
      c.state_in_place = initial;
      this->check(c);
    }
  }
}

TYPED_TEST_P(CausalConv1dSuite, NanStaysInItsRow) {
  using T = typename TypeParam::T;
  constexpr index_t kRow = 1, kToken = 2, kChannel = 4;
  ConvCase c;
  const typename TypeParam::Problem clean(c);
  ASSERT_TRUE(run<typename TypeParam::Target>(clean.args()).is_ok());
  const typename TypeParam::Problem p(c);
  p.x(kRow, kToken, kChannel) = test_nan<T>();
  ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
  for (index_t b = 0; b < c.batch; ++b) {
    for (index_t d = 0; d < c.channels; ++d) {
      for (index_t t = 0; t < c.length; ++t) {
        if (b == kRow && d == kChannel && t >= kToken && t < kToken + c.width) {
          EXPECT_TRUE(std::isnan(to_real(p.y(b, t, d)))) << b << " " << t << " " << d;
        } else {
          EXPECT_TRUE(same_bits<T>(p.y(b, t, d), clean.y(b, t, d))) << b << " " << t << " " << d;
        }
      }
    }
  }
}

TYPED_TEST_P(CausalConv1dSuite, BadArgumentsAreNamedAndNothingIsWritten) {
  using Args = typename TypeParam::Args;
  using T = typename TypeParam::T;
  using ssm::ErrorCode;
  using ssm::View;
  const ErrorCode shape = ErrorCode::shape_mismatch;
  const ErrorCode invalid = ErrorCode::invalid_argument;
  constexpr index_t kHuge = index_t{1} << 40;
  const BadCall<Args> shapes[] = {
      {"x", invalid,
       [](Args& a) {
         a.x = View<const T, 3>(nullptr, {2, 9, 6});
       }},
      {"x", invalid,
       [](Args& a) {
         a.x = View<const T, 3>(a.x.data(), {-2, 9, 6});
       }},
      {"x", ErrorCode::size_overflow,
       [](Args& a) {
         a.x = View<const T, 3>(a.x.data(), {kHuge, kHuge, 6});
       }},
      {"weight", shape, [](Args& a) { a.weight = a.weight.slice(0, 0, 5); }},
      {"width", invalid, [](Args& a) { a.weight = a.weight.slice(1, 0, 0); }},
      {"weight", invalid,
       [](Args& a) {
         a.weight = View<const T, 2>(nullptr, {6, 4});
       }},
      {"bias", shape, [](Args& a) { a.bias = a.bias.slice(0, 0, 5); }},
      {"state0", shape, [](Args& a) { a.state0 = a.state0.slice(1, 0, 2); }},
      {"state_last", shape, [](Args& a) { a.state_last = a.state_last.slice(0, 0, 1); }},
      {"y", shape, [](Args& a) { a.y = a.y.slice(2, 0, 5); }},
      {"y", shape, [](Args& a) { a.y = View<T, 3>(); }},
  };
  for (const BadCall<Args>& bad : shapes) this->check_refused({}, bad);
  if (!TypeParam::Target::kChecksValues) return;
  const Tensor<index_t, 1> lengths = index_tensor({9, 10});
  this->check_refused(
      {}, {"sequences.lengths", invalid, [&](Args& a) { a.sequences.lengths = lengths.view(); }});
  ConvCase packed;
  packed.batch = 1;
  packed.partition.starts = {0, 4, 9};
  const Tensor<index_t, 1> starts = index_tensor({0, 4, 8});
  this->check_refused(
      packed, {"sequences.starts", shape, [&](Args& a) { a.sequences.starts = starts.view(); }});
}

REGISTER_TYPED_TEST_SUITE_P(CausalConv1dSuite, EveryCombinationOfOptions, AnyWidthAndLength,
                            AnyBatchAndChannels, AnyStrides, IntegersAreExact,
                            AnySplitWithCarriedStateEqualsTheWhole, PackedSequencesResetTheState,
                            PaddingIsNeitherReadNorWritten, NothingToDoLeavesTheState,
                            NanStaysInItsRow, BadArgumentsAreNamedAndNothingIsWritten);

}  // namespace ssm_test
