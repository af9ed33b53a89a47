#include "ssm/cpu/selective_scan_pieces.hpp"

#include "ops/selective_scan_suite.hpp"
#include "support/allocations.hpp"
#include "support/backwards.hpp"

// The scan with time cut into pieces: the suite of every scan, with its short sequences in three
// pieces, and what is particular to long ones.
namespace ssm_test {

struct InPieces {
  ssm::Cpu cpu;
  index_t pieces = 3;
};

template <class T, class S>
ssm::Status selective_scan(const InPieces& target, const ssm::SelectiveScanArgs<T, S>& a) {
  std::vector<unsigned char> scratch;
  if (check_shapes(a)) scratch.resize(scratch_bytes(target.cpu, a, target.pieces));
  return selective_scan(target.cpu, a, target.pieces, ssm::Arena(scratch.data(), scratch.size()));
}

using PieceTypes = testing::Types<ScanTypes<HostTarget<InPieces>, float>,
                                  ScanTypes<HostTarget<InPieces>, ssm::bf16>,
                                  ScanTypes<HostTarget<InPieces>, float, std::complex<float>>>;
INSTANTIATE_TYPED_TEST_SUITE_P(CpuPieces, SelectiveScanSuite, PieceTypes, TypeNames);

namespace {

using Scan = ScanProblem<float, float>;

// 20 channels: registers of some lanes at every width. States forget within some 300 tokens.
ScanCase long_case(index_t length) {
  ScanCase c;
  c.batch = 1;
  c.length = length;
  c.channels = 20;
  c.groups_b = c.groups_c = 1;
  return c;
}
// … or never: their decays are next to 1, where 4000 roundings of them leave 1e-6.
ScanCase slow_case(index_t length) {
  ScanCase c = long_case(length);
  c.A_low = -1e-3;
  c.A_high = -1e-5;
  return c;
}

double distance(const std::vector<float>& found, const std::vector<oracle::Real>& wanted) {
  oracle::Real error = 0;
  oracle::Real norm = 0;
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    error += (found[i] - wanted[i]) * (found[i] - wanted[i]);
    norm += wanted[i] * wanted[i];
  }
  return static_cast<double>(std::sqrt(error / norm));
}

void expect_accurate(const ScanCase& c, index_t pieces) {
  SCOPED_TRACE(testing::Message() << c << " pieces " << pieces);
  const Scan p(c);
  const oracle::ScanResult wanted = p.expected();
  ASSERT_TRUE(selective_scan(InPieces{{}, pieces}, p.args()));
  const double tolerance = c.A_low < -0.1 ? 1e-6 : 2e-6;
  EXPECT_LE(distance(p.y.values(), wanted.y), tolerance);
  std::vector<oracle::Real> h;
  for (const oracle::Complex& value : wanted.h) h.push_back(value.real());
  EXPECT_LE(distance(p.h_last.values(), h), tolerance);
  p.expect_guards();
}

TEST(ScanInPieces, LengthsAroundTheEdgesOfPieces) {
  for (const index_t length : {191, 192, 193, 4095, 4096, 4097, 4100}) {
    for (const index_t pieces : {2, 3, 4, 64}) {
      expect_accurate(long_case(length), pieces);
      expect_accurate(slow_case(length), pieces);
    }
  }
  expect_accurate(long_case(5), 100);  // more pieces than tokens
}

TEST(ScanInPieces, OptionsOfLongSequences) {
  for (const auto& make : {long_case, slow_case}) {
    ScanCase c = make(2000);
    c.reverse = true;
    expect_accurate(c, 3);
    c.rule = ssm::BRule::zero_order_hold;
    expect_accurate(c, 3);
    c.initial = false;
    c.groups_b = 20;
    c.groups_c = 10;
    expect_accurate(c, 3);
  }
}

// Valid lengths that end in any of the pieces, or leave some empty.
TEST(ScanInPieces, ValidLengths) {
  ScanCase c = long_case(1000);
  c.batch = 6;
  c.partition.lengths = {0, 1, 250, 251, 750, 1000};
  const Scan p(c);
  const oracle::ScanResult wanted = p.expected();
  ASSERT_TRUE(selective_scan(InPieces{{}, 4}, p.args()));
  p.expect(wanted);
}

TEST(ScanInPieces, ThreadsChangeNoBit) {
  for (const auto output : {ScanCase::Output::own, ScanCase::Output::in_x}) {
    for (const auto& make : {long_case, slow_case}) {
      ScanCase c = make(3001);
      c.batch = 2;
      c.output = output;
      c.state_in_place = true;
      const auto outcome = [&c](const ssm::Parallel& parallel) {
        const Scan p(c);
        EXPECT_TRUE(selective_scan(InPieces{{parallel}, 7}, p.args()));
        return std::make_pair((c.output == ScanCase::Output::own ? p.y : p.x).snapshot(),
                              p.h0.snapshot());
      };
      const auto serial = outcome({});
      for (const int threads : {1, 2, 3, 5}) {
        Backwards executor{threads};
        EXPECT_EQ(outcome(executor.parallel()), serial) << threads << " threads";
      }
    }
  }
}

// A state too large to be forgotten enters the next piece, however long ago it was.
TEST(ScanInPieces, AnOutlierIsRemembered) {
  ScanCase c = long_case(600);
  c.d_state = 1;
  c.A_low = c.A_high = -1;
  c.dt_low = c.dt_high = 0.125;
  c.softplus = c.bias = c.skip = false;
  c.initial = false;
  const Scan p(c);
  p.x.fill(0);
  for (index_t d = 0; d < c.channels; ++d) p.x(0, 2, d) = 1e16f;
  p.B.fill(1);
  const oracle::ScanResult wanted = p.expected();
  ASSERT_TRUE(selective_scan(InPieces{{}, 2}, p.args()));
  std::vector<float> after;
  std::vector<oracle::Real> wanted_after;
  const std::vector<float> y = p.y.values();
  for (std::size_t i = y.size() / 2; i < y.size(); ++i) {
    after.push_back(y[i]);
    wanted_after.push_back(wanted.y[i]);
  }
  ASSERT_GE(std::abs(wanted.h[0]), 1e-18L);
  EXPECT_LE(distance(after, wanted_after), 1e-4);  // 600 roundings of one decay
}

// What is not finite is never forgotten, although the first pass does not see it.
TEST(ScanInPieces, WhatIsNotFiniteReachesEveryLaterPiece) {
  for (const bool reverse : {false, true}) {
    for (const float value :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      ScanCase c = long_case(3000);
      c.reverse = reverse;
      const Scan clean(c);
      ASSERT_TRUE(selective_scan(InPieces{{}, 3}, clean.args()));
      const Scan p(c);
      const index_t spoiled = reverse ? 2990 : 10;
      p.x(0, spoiled, 17) = value;
      ASSERT_TRUE(selective_scan(InPieces{{}, 3}, p.args()));
      for (index_t t = 0; t < c.length; ++t) {
        for (index_t d = 0; d < c.channels; ++d) {
          const bool later = d == 17 && (reverse ? t <= spoiled : t >= spoiled);
          if (later) {
            ASSERT_FALSE(std::isfinite(p.y(0, t, d))) << t;
          } else {
            ASSERT_TRUE(same_bits<float>(p.y(0, t, d), clean.y(0, t, d))) << t << " " << d;
          }
        }
      }
      for (index_t n = 0; n < c.d_state; ++n) EXPECT_FALSE(std::isfinite(p.h_last(0, 17, n)));
    }
  }
}

TEST(ScanInPieces, BadArguments) {
  const Scan p(long_case(100));
  const std::size_t bytes = scratch_bytes(ssm::Cpu{}, p.args(), 4);
  std::vector<unsigned char> memory(bytes);
  ssm::Status status =
      selective_scan(ssm::Cpu{}, p.args(), 4, ssm::Arena(memory.data(), bytes - 64));
  EXPECT_EQ(status.code(), ssm::ErrorCode::workspace_too_small);
  status = selective_scan(ssm::Cpu{}, p.args(), 0, ssm::Arena(memory.data(), bytes));
  expect_refused(status, "selective_scan", "pieces", ssm::ErrorCode::invalid_argument);
  EXPECT_TRUE(p.y.untouched());
  EXPECT_TRUE(p.h_last.untouched());
}

TEST(ScanInPieces, NothingIsAllocated) {
  const Scan p(long_case(1000));
  const ssm::SelectiveScanArgs<float> a = p.args();
  std::vector<unsigned char> memory(scratch_bytes(ssm::Cpu{}, a, 4));
  const ssm::Arena scratch(memory.data(), memory.size());
  const AllocationCounter allocations;
  const bool ok = selective_scan(ssm::Cpu{}, a, 4, scratch).is_ok();
  EXPECT_EQ(allocations.count(), 0);
  EXPECT_TRUE(ok);
}

}  // namespace
}  // namespace ssm_test
