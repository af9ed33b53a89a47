#pragma once

#include "ops/scan_problem.hpp"

// What every backend's selective scan must do, against the oracle of support/oracle.hpp:
//
//   using Types = testing::Types<ScanTypes<HostTarget<ssm::Cpu>, float>, …>;
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, SelectiveScanSuite, Types, TypeNames);
namespace ssm_test {

template <class Types>
class SelectiveScanSuite : public testing::Test {
 public:
  static constexpr ssm::ScanMode kModes[] = {ssm::ScanMode::sequential, ssm::ScanMode::associative,
                                             ssm::ScanMode::accurate};

  // Runs the case and holds everything it wrote, and did not write, against the oracle.
  static void check(const ScanCase& c) {
    SCOPED_TRACE(testing::Message() << c);
    const typename Types::Problem p(c);
    const oracle::ScanResult wanted = p.expected();
    const auto inputs = p.inputs();
    const ssm::Status status = run<typename Types::Target>(p.args());
    if (Types::Target::supports(p.args())) {
      ASSERT_TRUE(status.is_ok()) << status.message().text;
      p.expect(wanted);
    } else {
      EXPECT_EQ(status.code(), ssm::ErrorCode::unsupported);
      EXPECT_TRUE(p.y.untouched());
      EXPECT_TRUE(p.h_last.untouched());
    }
    p.expect_guards();
    EXPECT_EQ(p.inputs(), inputs) << "an input was written";
  }
  static void check_modes(ScanCase c) {
    for (const ssm::ScanMode mode : kModes) {
      c.mode = mode;
      check(c);
    }
  }

  // Runs the case in consecutive chunks of the given lengths, the state carried in place, and holds
  // the result against the oracle of the whole.
  static void check_chunks(const ScanCase& c, const std::vector<index_t>& chunks) {
    SCOPED_TRACE(testing::Message()
                 << c << " in " << chunks.size() << " chunks, the first of " << chunks.front());
    const typename Types::Problem p(c);
    if (!Types::Target::supports(p.args())) return;
    const oracle::ScanResult wanted = p.expected();
    typename Types::Args a = p.args();
    index_t done = 0;
    for (const index_t length : chunks) {
      const ssm::Status status = run<typename Types::Target>(
          chunk(a, c.reverse ? c.length - done - length : done, length));
      ASSERT_TRUE(status.is_ok()) << status.message().text;
      a.h0 = a.h_last;
      done += length;
    }
    ASSERT_EQ(done, c.length);
    p.expect(wanted);
    p.expect_guards();
  }

  static void check_refused(const ScanCase& c, const BadCall<typename Types::Args>& bad) {
    SCOPED_TRACE(bad.argument);
    const typename Types::Problem p(c);
    typename Types::Args a = p.args();
    bad.spoil(a);
    const auto inputs = p.inputs();
    expect_refused(run<typename Types::Target>(a), "selective_scan", bad.argument, bad.code);
    EXPECT_TRUE(p.y.untouched());
    EXPECT_TRUE(p.h_last.untouched());
    EXPECT_EQ(p.inputs(), inputs);
  }
};

TYPED_TEST_SUITE_P(SelectiveScanSuite);

TYPED_TEST_P(SelectiveScanSuite, BaseCaseInEveryMode) { this->check_modes({}); }

TYPED_TEST_P(SelectiveScanSuite, EveryOptionOnAndOff) {
  for (bool ScanCase::*const option :
       {&ScanCase::skip, &ScanCase::gate, &ScanCase::bias, &ScanCase::initial, &ScanCase::last,
        &ScanCase::constant_b, &ScanCase::constant_c, &ScanCase::reverse}) {
    ScanCase c;
    c.*option = !(c.*option);
    this->check_modes(c);
  }
  ScanCase c;
  c.rule = ssm::BRule::zero_order_hold;
  this->check_modes(c);
  c = {};
  c.softplus = false;
  c.dt_low = 0.3;
  this->check_modes(c);
}

// Every combination of the options that choose code paths.
TYPED_TEST_P(SelectiveScanSuite, CombinationsOfOptions) {
  for (int bits = 0; bits < 256; ++bits) {
    ScanCase c;
    c.batch = 1;
    c.length = 5;
    c.channels = 3;
    c.groups_b = 1;
    c.groups_c = 3;
    c.d_state = 3;
    c.skip = (bits & 1) != 0;
    c.gate = (bits & 2) != 0;
    c.bias = (bits & 4) != 0;
    c.initial = (bits & 8) != 0;
    c.last = (bits & 16) != 0;
    c.reverse = (bits & 32) != 0;
    c.softplus = (bits & 64) != 0;
    c.dt_low = c.softplus ? -1 : 0.3;
    c.rule = (bits & 128) != 0 ? ssm::BRule::zero_order_hold : ssm::BRule::euler;
    this->check(c);
  }
}

TYPED_TEST_P(SelectiveScanSuite, ChannelsBatchesAndStatesOfAnySize) {
  for (const index_t channels :
       {1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129}) {
    ScanCase c;
    c.channels = channels;
    c.groups_b = c.groups_c = 1;
    this->check(c);
  }
  for (const index_t batch : {1, 3, 5}) {
    ScanCase c;
    c.batch = batch;
    this->check(c);
  }
  for (const index_t d_state :
       {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100, 128, 256}) {
    ScanCase c;
    c.d_state = d_state;
    this->check_modes(c);
  }
}

TYPED_TEST_P(SelectiveScanSuite, GroupsOfAnySize) {
  for (const index_t groups_b : {1, 2, 3, 4, 6, 12}) {
    for (const index_t groups_c : {1, 4, 12}) {
      ScanCase c;
      c.channels = 12;
      c.groups_b = groups_b;
      c.groups_c = groups_c;
      this->check(c);
    }
  }
}

TYPED_TEST_P(SelectiveScanSuite, LengthsAroundTileEdges) {
  for (const index_t length :
       {1,   2,   3,   7,   8,   15,  16,  17,  31,   32,   33,   63,   64,   65,
        127, 128, 129, 255, 256, 257, 511, 513, 1023, 1024, 1025, 2047, 2048, 2049}) {
    for (const bool reverse : {false, true}) {
      ScanCase c;
      c.batch = 1;
      c.channels = 3;
      c.d_state = 2;
      c.groups_b = c.groups_c = 1;
      c.length = length;
      c.reverse = reverse;
      this->check_modes(c);
    }
  }
}

TYPED_TEST_P(SelectiveScanSuite, AnyStrides) {
  for (const Layout layout : kAllLayouts) {
    for (const bool constant : {false, true}) {
      ScanCase c;
      c.channels = 18;
      c.layout = layout;
      c.constant_b = c.constant_c = constant;
      this->check_modes(c);
    }
  }
}

// The inputs of a Mamba block are columns of one projection.
TYPED_TEST_P(SelectiveScanSuite, InputsAreSlicesOfOneProjection) {
  using T = typename TypeParam::T;
  if constexpr (!ssm::is_complex_v<typename TypeParam::S>) {
    ScanCase c;
    c.groups_b = c.groups_c = 1;
    const typename TypeParam::Problem p(c);
    const oracle::ScanResult wanted = p.expected();
    Tensor<T, 3> all({c.batch, c.length, 3 * c.channels + 2 * c.d_state});
    typename TypeParam::Args a = p.args();
    index_t column = 0;
    const auto place = [&](const ssm::View<const T, 3>& from) {
      const ssm::View<T, 3> to = all.view().slice(2, column, from.extent(2));
      for (index_t b = 0; b < c.batch; ++b) {
        for (index_t t = 0; t < c.length; ++t) {
          for (index_t i = 0; i < from.extent(2); ++i) to(b, t, i) = from(b, t, i);
        }
      }
      column += from.extent(2);
      return to;
    };
    const auto place_coefficient = [&](const ssm::View<const T, 4>& from) {
      const ssm::View<T, 3> to = place(from.select(2, 0));
      return ssm::View<const T, 4>(to.data(), {c.batch, c.length, 1, c.d_state},
                                   {to.stride(0), to.stride(1), 0, to.stride(2)});
    };
    a.x = place(a.x);
    a.z = place(a.z);
    a.B = place_coefficient(a.B);
    a.C = place_coefficient(a.C);
    a.dt = place(a.dt);
    ASSERT_TRUE(run<typename TypeParam::Target>(a).is_ok());
    p.expect(wanted);
  }
}

TYPED_TEST_P(SelectiveScanSuite, OutputInPlaceOfAnInput) {
  for (const Layout layout : kAllLayouts) {
    for (const auto output : {ScanCase::Output::in_x, ScanCase::Output::in_z}) {
      for (const index_t length : {1, 9, 65}) {
        ScanCase c;
        c.layout = layout;
        c.output = output;
        c.length = length;
        c.state_in_place = true;
        this->check_modes(c);
        c.reverse = true;
        this->check_modes(c);
      }
    }
  }
}

TYPED_TEST_P(SelectiveScanSuite, AnySplitWithCarriedStateEqualsTheWhole) {
  for (const bool reverse : {false, true}) {
    for (index_t split = 0; split <= 9; ++split) {
      ScanCase c;
      c.reverse = reverse;
      for (const ssm::ScanMode mode : TestFixture::kModes) {
        c.mode = mode;
        this->check_chunks(c, {split, c.length - split});
      }
    }
    for (const index_t step : {1, 2, 3, 7, 31, 32, 33, 64}) {
      ScanCase c;
      c.length = 65;
      c.channels = 3;
      c.groups_b = c.groups_c = 1;
      c.reverse = reverse;
      c.initial = step % 2 == 0;  // the first chunk from zero, or from a state
      std::vector<index_t> chunks(static_cast<std::size_t>(c.length / step), step);
      if (c.length % step != 0) chunks.push_back(c.length % step);
      this->check_chunks(c, chunks);
    }
  }
}

// Running backwards is running forwards over reversed views.
TYPED_TEST_P(SelectiveScanSuite, ReverseEqualsFlippedViews) {
  ScanCase c;
  c.reverse = true;
  const typename TypeParam::Problem p(c);
  const oracle::ScanResult wanted = p.expected();
  typename TypeParam::Args a = p.args();
  a.reverse = false;
  a.x = a.x.reverse(1);
  a.dt = a.dt.reverse(1);
  a.B = a.B.reverse(1);
  a.C = a.C.reverse(1);
  a.z = a.z.reverse(1);
  a.y = a.y.reverse(1);
  ASSERT_TRUE(run<typename TypeParam::Target>(a).is_ok());
  p.expect(wanted);
}

TYPED_TEST_P(SelectiveScanSuite, PackedSequencesResetTheState) {
  const std::vector<std::vector<index_t>> packings = {
      {0, 9}, {0, 4, 9}, {0, 0, 1, 9, 9}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}};
  for (const std::vector<index_t>& starts : packings) {
    for (const bool initial : {false, true}) {
      for (const bool reverse : {false, true}) {
        ScanCase c;
        c.batch = 1;
        c.partition = {{}, starts};
        c.initial = initial;
        c.reverse = reverse;
        this->check_modes(c);
        c.state_in_place = initial;
        this->check(c);
      }
    }
  }
  ScanCase c;
  c.batch = 1;
  c.length = 300;
  c.partition.starts = {0, 31, 32, 33, 64, 128, 129, 257, 300};
  this->check_modes(c);
}

TYPED_TEST_P(SelectiveScanSuite, PaddingIsNeitherReadNorWritten) {
  for (const bool reverse : {false, true}) {
    ScanCase c;
    c.batch = 4;
    c.reverse = reverse;
    c.partition.lengths = {9, 0, 1, 5};
    this->check_modes(c);
    c.length = 130;
    c.partition.lengths = {64, 65, 129, 130};
    this->check_modes(c);
    c.constant_b = c.constant_c = true;
    this->check(c);
  }
}

TYPED_TEST_P(SelectiveScanSuite, NothingToDoLeavesTheState) {
  for (index_t ScanCase::*const extent :
       {&ScanCase::batch, &ScanCase::length, &ScanCase::channels}) {
    for (const bool initial : {false, true}) {
      ScanCase c;
      c.groups_b = c.groups_c = 1;
      c.*extent = 0;
      c.initial = initial;
      this->check_modes(c);
      c.state_in_place = initial;
      this->check_modes(c);
    }
  }
  ScanCase c;  // no sequence at all
  c.batch = 1;
  c.length = 0;
  c.partition.starts = {0};
  this->check_modes(c);
}

TYPED_TEST_P(SelectiveScanSuite, SoftplusOnBothSidesOfTwenty) {
  using T = typename TypeParam::T;
  ScanCase c;
  c.bias = false;
  c.A_low = -0.05;
  c.A_high = -0.01;
  for (const ssm::ScanMode mode : TestFixture::kModes) {
    c.mode = mode;
    const typename TypeParam::Problem p(c);
    const double values[] = {19.5, 20, 20.5, 25, 15, 19.984375, 20.015625, 30, 10};
    std::size_t i = 0;
    p.dt.for_each([&](T& v) { v = Tensor<T, 3>::from_double(values[i++ % 9]); });
    const oracle::ScanResult wanted = p.expected();
    const ssm::Status status = run<typename TypeParam::Target>(p.args());
    if (!TypeParam::Target::supports(p.args())) continue;
    ASSERT_TRUE(status.is_ok());
    p.expect(wanted);
  }
}

TYPED_TEST_P(SelectiveScanSuite, ExtremeStepSizes) {
  using T = typename TypeParam::T;
  for (const ssm::BRule rule : {ssm::BRule::euler, ssm::BRule::zero_order_hold}) {
    for (const ssm::ScanMode mode : TestFixture::kModes) {
      ScanCase c;
      c.rule = rule;
      c.mode = mode;
      c.length = 40;
      const typename TypeParam::Problem p(c);
      const double values[] = {-100, 90, -30, -16, 3, 50, -8, 1, -104, -17, 0};
      std::size_t i = 0;
      p.dt.for_each([&](T& v) { v = Tensor<T, 3>::from_double(values[i++ % 11]); });
      const oracle::ScanResult wanted = p.expected();
      const ssm::Status status = run<typename TypeParam::Target>(p.args());
      if (!TypeParam::Target::supports(p.args())) continue;
      ASSERT_TRUE(status.is_ok());
      p.expect(wanted);
    }
  }
}

// Subnormal inputs and states may be flushed; nothing else may happen.
TYPED_TEST_P(SelectiveScanSuite, SubnormalNumbers) {
  using T = typename TypeParam::T;
  const double tiny = static_cast<double>(underflow<T>());
  ScanCase c;
  const typename TypeParam::Problem p(c);
  Random random(7);
  p.x.for_each([&](T& v) { v = Tensor<T, 3>::from_double(random.uniform(-tiny, tiny)); });
  p.h0.for_each([&](typename TypeParam::S& v) {
    v = typename TypeParam::S(static_cast<ssm::accum_t<T>>(random.uniform(-tiny, tiny)));
  });
  ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
  for (const oracle::Real y : real_values(ssm::View<const T, 3>(p.args().y))) {
    EXPECT_LE(std::abs(y), 100 * tiny);
  }
}

// A NaN shows in everything that depends on it and changes no bit of anything else.
TYPED_TEST_P(SelectiveScanSuite, NanStaysInItsRow) {
  using T = typename TypeParam::T;
  using Problem = typename TypeParam::Problem;
  constexpr index_t kRow = 1, kToken = 4, kChannel = 2, kGroup = 1;
  struct Source {
    const char* name;
    std::function<void(Problem&)> spoil;
    std::function<bool(index_t b, index_t t, index_t d)> in_y;
    std::function<bool(index_t b, index_t d)> in_h;
  };
  const auto never = [](index_t, index_t) { return false; };
  const auto cell = [](index_t b, index_t d) { return b == kRow && d == kChannel; };
  const auto column = [](index_t, index_t d) { return d == kChannel; };
  const auto later = [](index_t b, index_t t, index_t d) {
    return b == kRow && d == kChannel && t >= kToken;
  };
  const auto set = [](auto& element) {
    element = test_nan<std::remove_reference_t<decltype(element)>>();
  };
  const Source sources[] = {
      {"x", [&](Problem& p) { set(p.x(kRow, kToken, kChannel)); }, later, cell},
      {"dt", [&](Problem& p) { set(p.dt(kRow, kToken, kChannel)); }, later, cell},
      {"z", [&](Problem& p) { set(p.z(kRow, kToken, kChannel)); },
       [](index_t b, index_t t, index_t d) { return b == kRow && t == kToken && d == kChannel; },
       never},
      {"B", [&](Problem& p) { set(p.B(kRow, kToken, kGroup, 3)); },
       [](index_t b, index_t t, index_t d) { return b == kRow && t >= kToken && d / 3 == kGroup; },
       [](index_t b, index_t d) { return b == kRow && d / 3 == kGroup; }},
      {"C", [&](Problem& p) { set(p.C(kRow, kToken, kGroup, 3)); },
       [](index_t b, index_t t, index_t d) { return b == kRow && t == kToken && d / 2 == kGroup; },
       never},
      {"A", [&](Problem& p) { set(p.A(kChannel, 1)); },
       [](index_t, index_t, index_t d) { return d == kChannel; }, column},
      {"D", [&](Problem& p) { set(p.D(kChannel)); },
       [](index_t, index_t, index_t d) { return d == kChannel; }, never},
      {"dt_bias", [&](Problem& p) { set(p.dt_bias(kChannel)); },
       [](index_t, index_t, index_t d) { return d == kChannel; }, column},
      {"h0", [&](Problem& p) { set(p.h0(kRow, kChannel, 0)); },
       [](index_t b, index_t, index_t d) { return b == kRow && d == kChannel; }, cell},
  };
  for (const ssm::ScanMode mode : TestFixture::kModes) {
    ScanCase c;
    c.mode = mode;
    const Problem clean(c);
    if (!TypeParam::Target::supports(clean.args())) continue;
    ASSERT_TRUE(run<typename TypeParam::Target>(clean.args()).is_ok());
    for (const Source& source : sources) {
      SCOPED_TRACE(testing::Message() << source.name << ", mode " << static_cast<int>(mode));
      Problem p(c);
      source.spoil(p);
      ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
      for (index_t b = 0; b < c.batch; ++b) {
        for (index_t d = 0; d < c.channels; ++d) {
          for (index_t t = 0; t < c.length; ++t) {
            if (source.in_y(b, t, d)) {
              EXPECT_TRUE(std::isnan(to_real(p.y(b, t, d)))) << b << " " << t << " " << d;
            } else {
              EXPECT_TRUE(same_bits<T>(p.y(b, t, d), clean.y(b, t, d)))
                  << b << " " << t << " " << d;
            }
          }
          bool any_nan = false;
          bool all_same = true;
          for (index_t n = 0; n < c.d_state; ++n) {
            any_nan = any_nan || std::isnan(to_complex(p.h_last(b, d, n)).real());
            all_same = all_same && same_bits(p.h_last(b, d, n), clean.h_last(b, d, n));
          }
          EXPECT_TRUE(source.in_h(b, d) ? any_nan : all_same) << "h_last " << b << " " << d;
        }
      }
    }
  }
}

TYPED_TEST_P(SelectiveScanSuite, BadArgumentsAreNamedAndNothingIsWritten) {
  using Args = typename TypeParam::Args;
  using T = typename TypeParam::T;
  using S = typename TypeParam::S;
  using Coefficient = typename Args::Coefficient;
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
         a.x = View<const T, 3>(a.x.data(), {2, -9, 6});
       }},
      {"x", ErrorCode::size_overflow,
       [](Args& a) {
         a.x = View<const T, 3>(a.x.data(), {kHuge, kHuge, 6});
       }},
      {"dt", shape, [](Args& a) { a.dt = a.dt.slice(1, 0, 8); }},
      {"dt", shape, [](Args& a) { a.dt = View<const T, 3>(); }},
      {"A", shape, [](Args& a) { a.A = a.A.slice(0, 0, 5); }},
      {"A", invalid, [](Args& a) { a.A = a.A.slice(1, 0, 0); }},
      {"A", invalid,
       [](Args& a) {
         a.A = View<const S, 2>(nullptr, {6, 4});
       }},
      {"B", shape, [](Args& a) { a.B = a.B.slice(3, 0, 3); }},
      {"B", shape, [](Args& a) { a.B = a.B.slice(1, 0, 8); }},
      {"B", invalid,
       [](Args& a) {
         a.B = View<const Coefficient, 4>(nullptr, {2, 9, 2, 4});
       }},
      {"groups", shape,
       [](Args& a) {
         a.B = View<const Coefficient, 4>(a.B.data(), {2, 9, 4, 4}, {0, 0, 0, 1});
       }},
      {"groups", shape, [](Args& a) { a.C = a.C.slice(2, 0, 0); }},
      {"C", shape, [](Args& a) { a.C = a.C.slice(0, 0, 1); }},
      {"D", shape, [](Args& a) { a.D = a.D.slice(0, 0, 5); }},
      {"z", shape, [](Args& a) { a.z = a.z.slice(2, 0, 5); }},
      {"dt_bias", shape, [](Args& a) { a.dt_bias = a.dt_bias.slice(0, 0, 1); }},
      {"h0", shape, [](Args& a) { a.h0 = a.h0.slice(0, 0, 1); }},
      {"h_last", shape, [](Args& a) { a.h_last = a.h_last.slice(2, 0, 3); }},
      {"y", shape, [](Args& a) { a.y = a.y.slice(1, 0, 8); }},
      {"y", shape, [](Args& a) { a.y = View<T, 3>(); }},
  };
  for (const BadCall<Args>& bad : shapes) this->check_refused({}, bad);

  const Tensor<index_t, 1> three = index_tensor({1, 2, 3});
  this->check_refused(
      {}, {"sequences.lengths", shape, [&](Args& a) { a.sequences.lengths = three.view(); }});
  this->check_refused({}, {"packed", shape, [&](Args& a) { a.sequences.starts = three.view(); }});
  ScanCase packed;
  packed.batch = 1;
  packed.partition.starts = {0, 4, 9};
  this->check_refused(packed, {"sequences.lengths", invalid, [&](Args& a) {
                                 a.sequences.lengths = three.view().slice(0, 0, 1);
                               }});
  this->check_refused(packed, {"h0", shape, [](Args& a) { a.h0 = a.h0.slice(0, 0, 1); }});
  if (!TypeParam::Target::kChecksValues) return;

  Tensor<S, 2> A({6, 4});
  A.fill(-1);
  A(5, 3) = S(0.25f);
  this->check_refused({}, {"A", invalid, [&](Args& a) { a.A = A.view(); }});
  for (const std::vector<index_t>& lengths : {std::vector<index_t>{9, 10}, {-1, 3}}) {
    const Tensor<index_t, 1> view = index_tensor(lengths);
    this->check_refused(
        {}, {"sequences.lengths", invalid, [&](Args& a) { a.sequences.lengths = view.view(); }});
  }
  struct Starts {
    std::vector<index_t> values;
    ErrorCode code;
  };
  for (const Starts& starts : {Starts{{1, 4, 9}, shape}, Starts{{0, 10, 9}, invalid},
                               Starts{{0, 4, 8}, shape}, Starts{{0, -1, 9}, invalid}}) {
    const Tensor<index_t, 1> view = index_tensor(starts.values);
    this->check_refused(packed, {"sequences.starts", starts.code,
                                 [&](Args& a) { a.sequences.starts = view.view(); }});
  }
}

REGISTER_TYPED_TEST_SUITE_P(SelectiveScanSuite, BaseCaseInEveryMode, EveryOptionOnAndOff,
                            CombinationsOfOptions, ChannelsBatchesAndStatesOfAnySize,
                            GroupsOfAnySize, LengthsAroundTileEdges, AnyStrides,
                            InputsAreSlicesOfOneProjection, OutputInPlaceOfAnInput,
                            AnySplitWithCarriedStateEqualsTheWhole, ReverseEqualsFlippedViews,
                            PackedSequencesResetTheState, PaddingIsNeitherReadNorWritten,
                            NothingToDoLeavesTheState, SoftplusOnBothSidesOfTwenty,
                            ExtremeStepSizes, SubnormalNumbers, NanStaysInItsRow,
                            BadArgumentsAreNamedAndNothingIsWritten);

}  // namespace ssm_test
