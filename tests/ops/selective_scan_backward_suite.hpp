#pragma once

#include "ops/scan_grad_problem.hpp"

// What every backend's gradient of the selective scan must be, against support/oracle_backward.hpp:
//
//   using Types = testing::Types<ScanGradTypes<HostTarget<ssm::Cpu>, float>, …>;
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, SelectiveScanBackwardSuite, Types, TypeNames);
namespace ssm_test {

template <class Types>
class SelectiveScanBackwardSuite : public testing::Test {
 public:
  static constexpr ssm::ScanMode kModes[] = {ssm::ScanMode::sequential, ssm::ScanMode::associative,
                                             ssm::ScanMode::accurate};
  static constexpr const char* kGradients[] = {"dx",  "ddt", "dz",     "dB", "dC",
                                               "dh0", "dA",  "dA_log", "dD", "ddt_bias"};

  // Runs the case and holds everything it wrote, and did not write, against the oracle.
  static void check(const ScanGradCase& c) {
    SCOPED_TRACE(testing::Message() << c);
    const typename Types::Problem p(c);
    const oracle::ScanGradient wanted = p.expected();
    const auto inputs = p.inputs();
    const auto outputs = p.outputs();
    const ssm::Status status = run<typename Types::Target>(p.args());
    if (Types::Target::supports(p.args())) {
      ASSERT_TRUE(status.is_ok()) << status.message().text;
      p.expect(wanted);
    } else {
      EXPECT_EQ(status.code(), ssm::ErrorCode::unsupported);
      EXPECT_EQ(p.outputs(), outputs);
    }
    EXPECT_EQ(p.inputs(), inputs) << "an input was written";
  }
  static void check(const ScanCase& scan) {
    ScanGradCase c;
    c.scan = scan;
    check(c);
  }
  static void check_modes(ScanCase scan) {
    for (const ssm::ScanMode mode : kModes) {
      scan.mode = mode;
      check(scan);
    }
  }

  static void check_refused(const ScanGradCase& c, const BadCall<typename Types::Args>& bad) {
    SCOPED_TRACE(bad.argument);
    const typename Types::Problem p(c);
    typename Types::Args a = p.args();
    bad.spoil(a);
    const auto inputs = p.inputs();
    const auto outputs = p.outputs();
    expect_refused(run<typename Types::Target>(a), "selective_scan_backward", bad.argument,
                   bad.code);
    EXPECT_EQ(p.inputs(), inputs);
    EXPECT_EQ(p.outputs(), outputs);
  }
};

TYPED_TEST_SUITE_P(SelectiveScanBackwardSuite);

TYPED_TEST_P(SelectiveScanBackwardSuite, BaseCaseInEveryMode) {
  this->check_modes({});
  ScanCase c;
  c.rule = ssm::BRule::zero_order_hold;
  this->check_modes(c);
}

TYPED_TEST_P(SelectiveScanBackwardSuite, EveryOptionOnAndOff) {
  for (bool ScanCase::*const option :
       {&ScanCase::skip, &ScanCase::gate, &ScanCase::bias, &ScanCase::initial,
        &ScanCase::constant_b, &ScanCase::constant_c, &ScanCase::reverse}) {
    ScanCase c;
    c.*option = !(c.*option);
    this->check_modes(c);
  }
  for (bool ScanGradCase::*const option :
       {&ScanGradCase::final_gradient, &ScanGradCase::output, &ScanGradCase::state_in_place}) {
    ScanGradCase c;
    c.*option = !(c.*option);
    this->check(c);
  }
  ScanCase c;
  c.softplus = false;
  c.dt_low = 0.3;
  this->check_modes(c);
}

// Every combination of the options that choose code paths.
TYPED_TEST_P(SelectiveScanBackwardSuite, CombinationsOfOptions) {
  for (int bits = 0; bits < 256; ++bits) {
    ScanGradCase g;
    ScanCase& c = g.scan;
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
    g.final_gradient = (bits & 16) != 0;
    c.reverse = (bits & 32) != 0;
    c.softplus = (bits & 64) != 0;
    c.dt_low = c.softplus ? -1 : 0.3;
    c.rule = (bits & 128) != 0 ? ssm::BRule::zero_order_hold : ssm::BRule::euler;
    this->check(g);
  }
}

TYPED_TEST_P(SelectiveScanBackwardSuite, IgnoreOverwriteAccumulate) {
  for (const ssm::GradMode inputs : kGradModes) {
    for (const ssm::GradMode parameters : kGradModes) {
      for (const bool constant : {false, true}) {
        ScanGradCase c;
        c.inputs = inputs;
        c.parameters = parameters;
        c.scan.constant_b = c.scan.constant_c = constant;
        this->check(c);
      }
    }
  }
}

// A gradient does not depend on which others are wanted.
TYPED_TEST_P(SelectiveScanBackwardSuite, EachGradientAlone) {
  for (const bool constant : {false, true}) {
    for (const char* const name : TestFixture::kGradients) {
      ScanGradCase c;
      c.only = name;
      c.scan.constant_b = c.scan.constant_c = constant;
      this->check(c);
    }
    ScanGradCase none;
    none.only = "none";
    none.output = true;
    this->check(none);
  }
}

TYPED_TEST_P(SelectiveScanBackwardSuite, ChannelsBatchesAndStatesOfAnySize) {
  for (const index_t channels : {1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 72, 129}) {
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
  for (const index_t d_state : {1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 128, 256}) {
    ScanCase c;
    c.d_state = d_state;
    this->check(c);
  }
}

// llama.cpp#15507: B and C are broadcast over the channels of their group, and summed back.
TYPED_TEST_P(SelectiveScanBackwardSuite, GroupsOfAnySize) {
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

// mamba#368: the tail of a sequence that no tile divides.
TYPED_TEST_P(SelectiveScanBackwardSuite, LengthsAroundTileEdges) {
  for (const index_t length : {1,  2,  3,   7,   8,   15,  16,  17,  31,  32,   33,   63,
                               64, 65, 127, 128, 129, 255, 256, 257, 511, 1025, 2047, 2049}) {
    for (const bool reverse : {false, true}) {
      ScanCase c;
      c.batch = 1;
      c.channels = 3;
      c.d_state = 2;
      c.groups_b = c.groups_c = 1;
      c.length = length;
      c.reverse = reverse;
      this->check(c);
    }
  }
}

// Too short to be cut, at every number of states that a backend may spread over lanes in its own
// way: channels that vectors of 16 bytes divide, and channels that they do not.
TYPED_TEST_P(SelectiveScanBackwardSuite, ShortSequencesOfAnyNumberOfStates) {
  for (const index_t d_state : {3, 7, 8, 13, 16, 20, 32}) {
    for (const index_t channels : {5, 40}) {
      for (const index_t length : {1, 16, 41}) {
        ScanGradCase c;
        c.scan.batch = 2;
        c.scan.channels = channels;
        c.scan.d_state = d_state;
        c.scan.groups_b = c.scan.groups_c = 1;
        c.scan.length = length;
        c.scan.reverse = length == 16;
        c.final_gradient = true;
        this->check(c);
      }
    }
  }
}

// Long enough for a backend that cuts few channels into chunks to do so, at every number of states
// that it may spread over lanes in its own way.
TYPED_TEST_P(SelectiveScanBackwardSuite, LongSequencesOfAnyNumberOfStates) {
  for (const index_t d_state : {4, 8, 16, 20}) {
    for (const bool reverse : {false, true}) {
      ScanGradCase c;
      c.scan.batch = 2;
      c.scan.channels = 5;
      c.scan.d_state = d_state;
      c.scan.groups_b = c.scan.groups_c = 1;
      c.scan.length = 611;
      c.scan.reverse = reverse;
      c.final_gradient = true;
      this->check(c);
    }
  }
}

// The same with more channels than a block may own, a tile that is only partly there, groups, and
// rows that end before a chunk begins, within one and at its last token.
TYPED_TEST_P(SelectiveScanBackwardSuite, LongSequencesOfManyChannels) {
  for (const bool reverse : {false, true}) {
    ScanGradCase c;
    c.scan.batch = 1;
    c.scan.channels = 72;
    c.scan.d_state = 16;
    c.scan.groups_b = c.scan.groups_c = 1;
    c.scan.length = 517;
    c.scan.reverse = reverse;
    c.final_gradient = true;
    this->check(c);
    c.scan.channels = 24;
    c.scan.groups_b = c.scan.groups_c = 3;
    c.scan.batch = 5;
    c.scan.partition.lengths = {517, 0, 1, 299, 512};
    this->check(c);
  }
}

TYPED_TEST_P(SelectiveScanBackwardSuite, AnyStrides) {
  for (const Layout layout : kAllLayouts) {
    for (const bool constant : {false, true}) {
      ScanGradCase c;
      c.scan.channels = 18;
      c.scan.layout = layout;
      c.scan.constant_b = c.scan.constant_c = constant;
      c.output = true;
      this->check(c);
    }
  }
}

// mamba#258, #296: the gradient goes through the state, so a sequence may be cut anywhere.
TYPED_TEST_P(SelectiveScanBackwardSuite, AnySplitWithCarriedStateEqualsTheWhole) {
  using S = typename TypeParam::S;
  for (const bool reverse : {false, true}) {
    for (const index_t cut : {0, 1, 4, 8, 9}) {
      ScanGradCase c;
      c.scan.reverse = reverse;
      SCOPED_TRACE(testing::Message() << c << " cut after " << cut);
      const typename TypeParam::Problem whole(c);
      if (!TypeParam::Target::supports(whole.args())) continue;
      const oracle::ScanGradient wanted = whole.expected();

      typename TypeParam::Args all = whole.args();
      const auto piece = [&](index_t begin, index_t length) {
        typename TypeParam::Args a = all;
        const index_t first = reverse ? c.scan.length - begin - length : begin;
        a.forward.y = whole.forward.y.view();
        a.forward = chunk(a.forward, first, length);
        a.dy = a.dy.slice(1, first, length);
        a.dx = a.dx.slice(1, first, length);
        a.ddt = a.ddt.slice(1, first, length);
        a.dz = a.dz.slice(1, first, length);
        a.dB = a.dB.slice(1, first, length);
        a.dC = a.dC.slice(1, first, length);
        return a;
      };
      const Tensor<S, 3> middle({c.scan.batch, c.scan.channels, c.scan.d_state});
      const Tensor<S, 3> dmiddle({c.scan.batch, c.scan.channels, c.scan.d_state});
      typename TypeParam::Args head = piece(0, cut);
      typename TypeParam::Args tail = piece(cut, c.scan.length - cut);
      head.forward.h_last = middle.view();
      ASSERT_TRUE(run<typename TypeParam::Target>(head.forward).is_ok());
      head.forward.h_last = {};
      tail.forward.h0 = middle.view();
      tail.dh0 = dmiddle.view();
      ASSERT_TRUE(run<typename TypeParam::Target>(tail).is_ok());
      head.dh_last = dmiddle.view();
      head.parameters = ssm::GradMode::accumulate;
      ASSERT_TRUE(run<typename TypeParam::Target>(head).is_ok());
      whole.expect(wanted);
    }
  }
}

TYPED_TEST_P(SelectiveScanBackwardSuite, PackedSequencesResetTheState) {
  const std::vector<std::vector<index_t>> packings = {
      {0, 9}, {0, 4, 9}, {0, 0, 1, 9, 9}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}};
  for (const std::vector<index_t>& starts : packings) {
    for (const bool reverse : {false, true}) {
      for (const ssm::GradMode mode : {ssm::GradMode::overwrite, ssm::GradMode::accumulate}) {
        ScanGradCase c;
        c.scan.batch = 1;
        c.scan.partition = {{}, starts};
        c.scan.reverse = reverse;
        c.inputs = c.parameters = mode;
        this->check(c);
        c.scan.initial = c.final_gradient = false;
        this->check(c);
      }
    }
  }
  ScanCase c;
  c.batch = 1;
  c.length = 300;
  c.partition.starts = {0, 31, 32, 33, 64, 128, 129, 257, 300};
  this->check(c);
}

TYPED_TEST_P(SelectiveScanBackwardSuite, PaddingIsNeitherReadNorWritten) {
  for (const bool reverse : {false, true}) {
    for (const ssm::GradMode mode : {ssm::GradMode::overwrite, ssm::GradMode::accumulate}) {
      ScanGradCase c;
      c.scan.batch = 4;
      c.scan.reverse = reverse;
      c.inputs = c.parameters = mode;
      c.scan.partition.lengths = {9, 0, 1, 5};
      this->check(c);
      c.scan.length = 130;
      c.scan.partition.lengths = {64, 65, 129, 130};
      this->check(c);
      c.scan.constant_b = c.scan.constant_c = true;
      this->check(c);
    }
  }
}

TYPED_TEST_P(SelectiveScanBackwardSuite, NothingToDoPassesTheStatesGradientOn) {
  for (index_t ScanCase::*const extent :
       {&ScanCase::batch, &ScanCase::length, &ScanCase::channels}) {
    for (const bool constant : {false, true}) {
      ScanGradCase c;
      c.scan.groups_b = c.scan.groups_c = 1;
      c.scan.*extent = 0;
      c.scan.constant_b = c.scan.constant_c = constant && extent != &ScanCase::channels;
      this->check(c);
      c.inputs = c.parameters = ssm::GradMode::accumulate;
      this->check(c);
    }
  }
}

TYPED_TEST_P(SelectiveScanBackwardSuite, SoftplusOnBothSidesOfTwenty) {
  using T = typename TypeParam::T;
  for (const ssm::BRule rule : {ssm::BRule::euler, ssm::BRule::zero_order_hold}) {
    ScanGradCase c;
    c.scan.bias = false;
    c.scan.A_low = -0.05;
    c.scan.A_high = -0.01;
    c.scan.rule = rule;
    const typename TypeParam::Problem p(c);
    const double values[] = {19.5, 20, 20.5, 25, 15, 19.984375, 20.015625, 30, 10};
    std::size_t i = 0;
    p.forward.dt.for_each([&](T& v) { v = Tensor<T, 3>::from_double(values[i++ % 9]); });
    const oracle::ScanGradient wanted = p.expected();
    ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
    p.expect(wanted);
  }
}

// Decays that underflow and steps that vanish: no infinity, no NaN.
TYPED_TEST_P(SelectiveScanBackwardSuite, ExtremeStepSizes) {
  using T = typename TypeParam::T;
  for (const ssm::BRule rule : {ssm::BRule::euler, ssm::BRule::zero_order_hold}) {
    ScanGradCase c;
    c.scan.rule = rule;
    c.scan.length = 40;
    const typename TypeParam::Problem p(c);
    const double values[] = {-100, 90, -30, -16, 3, 50, -8, 1, -104, -17, 0};
    std::size_t i = 0;
    p.forward.dt.for_each([&](T& v) { v = Tensor<T, 3>::from_double(values[i++ % 11]); });
    const oracle::ScanGradient wanted = p.expected();
    ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
    p.expect(wanted);
  }
}

// a h_{t-1} must not be formed as h_t - w B x: with w B x a million times larger, that difference
// would keep no digit in float.
TYPED_TEST_P(SelectiveScanBackwardSuite, DecayedStateIsNotADifference) {
  using T = typename TypeParam::T;
  ScanGradCase c;
  const typename TypeParam::Problem p(c);
  index_t token = 0;
  p.forward.x.for_each([&](T& v) {
    const bool large = (token++ / c.scan.channels) % 2 == 1;
    v = Tensor<T, 3>::from_double(static_cast<double>(ssm::widen(v)) * (large ? 4096 : 1. / 256));
  });
  // Only the tokens after the small ones are looked at.
  p.dh_last.fill(0);
  token = 0;
  p.dy.for_each([&](T& v) {
    if ((token++ / c.scan.channels) % 2 == 0) v = Tensor<T, 3>::from_double(0);
  });
  const oracle::ScanGradient wanted = p.expected();
  ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
  p.expect(wanted);
}

// mamba#137, #493, #573: no atomics; the same call gives the same bits.
TYPED_TEST_P(SelectiveScanBackwardSuite, TwoRunsGiveTheSameBits) {
  ScanGradCase c;
  c.scan.channels = 132;
  c.scan.length = 70;
  c.scan.batch = 3;
  const typename TypeParam::Problem first(c), second(c);
  ASSERT_TRUE(run<typename TypeParam::Target>(first.args()).is_ok());
  ASSERT_TRUE(run<typename TypeParam::Target>(second.args()).is_ok());
  EXPECT_EQ(first.outputs(), second.outputs());
}

// A NaN in dy shows in what depends on it and changes no bit of another row.
TYPED_TEST_P(SelectiveScanBackwardSuite, NanStaysInItsRow) {
  using T = typename TypeParam::T;
  const ScanGradCase c;
  const typename TypeParam::Problem clean(c), p(c);
  constexpr index_t kRow = 1, kToken = 4, kChannel = 2;
  p.dy(kRow, kToken, kChannel) = test_nan<T>();
  ASSERT_TRUE(run<typename TypeParam::Target>(clean.args()).is_ok());
  ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
  for (index_t b = 0; b < c.scan.batch; ++b) {
    for (index_t t = 0; t < c.scan.length; ++t) {
      for (index_t d = 0; d < c.scan.channels; ++d) {
        if (b == kRow && t <= kToken && d == kChannel) {
          EXPECT_TRUE(std::isnan(to_real(p.dx.tensor(b, t, d)))) << t;
        } else {
          EXPECT_TRUE(same_bits<T>(p.dx.tensor(b, t, d), clean.dx.tensor(b, t, d)));
        }
      }
    }
  }
  for (index_t d = 0; d < c.scan.channels; ++d) {
    EXPECT_EQ(std::isnan(to_complex(p.dA.tensor(d, 0)).real()), d == kChannel);
    EXPECT_EQ(std::isnan(to_complex(p.dh0.tensor(kRow, d, 0)).real()), d == kChannel);
    EXPECT_FALSE(std::isnan(to_complex(p.dh0.tensor(0, d, 0)).real()));
  }
}

TYPED_TEST_P(SelectiveScanBackwardSuite, BadArgumentsAreNamedAndNothingIsWritten) {
  using Args = typename TypeParam::Args;
  using T = typename TypeParam::T;
  using S = typename TypeParam::S;
  using ssm::ErrorCode;
  using ssm::View;
  const ErrorCode shape = ErrorCode::shape_mismatch;
  const ErrorCode invalid = ErrorCode::invalid_argument;
  const BadCall<Args> calls[] = {
      {"dt", shape, [](Args& a) { a.forward.dt = a.forward.dt.slice(1, 0, 8); }},
      {"h0", shape, [](Args& a) { a.forward.h0 = a.forward.h0.slice(0, 0, 1); }},
      {"dy", shape, [](Args& a) { a.dy = a.dy.slice(1, 0, 8); }},
      {"dy", shape, [](Args& a) { a.dy = {}; }},
      {"dy", invalid,
       [](Args& a) {
         a.dy = View<const T, 3>(nullptr, {2, 9, 6});
       }},
      {"dh_last", shape, [](Args& a) { a.dh_last = a.dh_last.slice(2, 0, 3); }},
      {"dx", shape, [](Args& a) { a.dx = a.dx.slice(2, 0, 5); }},
      {"ddt", shape, [](Args& a) { a.ddt = a.ddt.slice(0, 0, 1); }},
      {"dz", invalid,
       [](Args& a) {
         a.dz = View<T, 3>(nullptr, {2, 9, 6});
       }},
      {"dB", shape, [](Args& a) { a.dB = a.dB.slice(2, 0, 1); }},
      {"dB", invalid,
       [](Args& a) {
         a.dB = View<S, 4>(a.dB.data(), {2, 9, 2, 4}, {0, 8, 4, 1});
       }},
      {"dC", shape, [](Args& a) { a.dC = a.dC.slice(3, 0, 3); }},
      {"dh0", shape, [](Args& a) { a.dh0 = a.dh0.slice(0, 0, 1); }},
      {"dA", shape, [](Args& a) { a.dA = a.dA.slice(1, 0, 3); }},
      {"dA_log", shape, [](Args& a) { a.dA_log = a.dA_log.slice(0, 0, 5); }},
      {"dD", shape, [](Args& a) { a.dD = a.dD.slice(0, 0, 5); }},
      {"ddt_bias", shape, [](Args& a) { a.ddt_bias = a.ddt_bias.slice(0, 0, 1); }},
  };
  for (const BadCall<Args>& bad : calls) this->check_refused({}, bad);
  const typename TypeParam::Problem whole(ScanGradCase{});
  const auto untouched = whole.outputs();
  expect_counter_refused<typename TypeParam::Target>(
      "selective_scan_backward", whole.args(),
      [](const auto& backend, const Args& a, ssm::Arena arena) {
        return selective_scan_backward(backend, a, arena);
      });
  EXPECT_EQ(whole.outputs(), untouched);
  if (TypeParam::Target::kChecksValues) {
    const Tensor<index_t, 1> lengths = index_tensor({9, 10});
    this->check_refused({}, {"sequences.lengths", invalid,
                             [&](Args& a) { a.forward.sequences.lengths = lengths.view(); }});
  }
  // What is ignored is not looked at.
  ScanGradCase ignored;
  ignored.inputs = ignored.parameters = ssm::GradMode::ignore;
  const typename TypeParam::Problem p(ignored);
  Args a = p.args();
  a.dx = a.dx.slice(2, 0, 5);
  a.dA = a.dA.slice(1, 0, 3);
  EXPECT_TRUE(run<typename TypeParam::Target>(a).is_ok());

  // One byte less than it asks for.
  typename TypeParam::Target target;
  const std::size_t bytes = scratch_bytes(target.backend(), a);
  if (bytes > 0) {
    const ssm::Status status =
        selective_scan_backward(target.backend(), p.args(), ssm::Arena(nullptr, 0));
    EXPECT_EQ(status.code(), ErrorCode::workspace_too_small);
  }
}

REGISTER_TYPED_TEST_SUITE_P(SelectiveScanBackwardSuite, BaseCaseInEveryMode, EveryOptionOnAndOff,
                            CombinationsOfOptions, IgnoreOverwriteAccumulate, EachGradientAlone,
                            ChannelsBatchesAndStatesOfAnySize, GroupsOfAnySize,
                            LengthsAroundTileEdges, ShortSequencesOfAnyNumberOfStates,
                            LongSequencesOfAnyNumberOfStates, LongSequencesOfManyChannels,
                            AnyStrides, AnySplitWithCarriedStateEqualsTheWhole,
                            PackedSequencesResetTheState, PaddingIsNeitherReadNorWritten,
                            NothingToDoPassesTheStatesGradientOn, SoftplusOnBothSidesOfTwenty,
                            ExtremeStepSizes, DecayedStateIsNotADifference, TwoRunsGiveTheSameBits,
                            NanStaysInItsRow, BadArgumentsAreNamedAndNothingIsWritten);

}  // namespace ssm_test
