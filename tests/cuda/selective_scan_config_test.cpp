#include "cuda/device_target.hpp"
#include "ops/scan_problem.hpp"
#include "ssm/cuda/selective_scan.hpp"
#include "support/error.hpp"

// The configurations of the CUDA scan that the shared suite's small shapes do not reach by
// themselves: every number of lanes, sequences in chunks, the wide copies of both layouts.
namespace ssm_test {
namespace {

// A Cuda backend with the configuration to run the scan in.
struct Configured {
  ssm::Cuda cuda;
  ssm::ScanConfig config;
};
template <class T, class S>
ssm::Status selective_scan(const Configured& backend, const ssm::SelectiveScanArgs<T, S>& a) {
  return ssm::selective_scan(backend.cuda, a, backend.config);
}

class ConfiguredTarget : public DeviceTarget<> {
 public:
  static ssm::ScanConfig& config() {
    static ssm::ScanConfig value;
    return value;
  }
  Configured backend() { return {DeviceTarget::backend(), config()}; }
};
// The same captured into a graph.
class ConfiguredGraph : public DeviceTarget<Execution::graph> {
 public:
  Configured backend() { return {DeviceTarget::backend(), ConfiguredTarget::config()}; }
};

template <class T>
class ScanConfiguration : public testing::Test {
 public:
  using Problem = ScanProblem<T, ssm::accum_t<T>>;

  static void check(const ScanCase& c, int lanes, int chunks) {
    SCOPED_TRACE(testing::Message() << c << " lanes " << lanes << " chunks " << chunks);
    ConfiguredTarget::config() = {ssm::ScanPath::tiled, lanes, chunks};
    const Problem p(c);
    const oracle::ScanResult wanted = p.expected();
    const auto inputs = p.inputs();
    const ssm::Status status = run<ConfiguredTarget>(p.args());
    ASSERT_TRUE(status.is_ok()) << status.message().text;
    p.expect(wanted);
    p.expect_guards();
    EXPECT_EQ(p.inputs(), inputs) << "an input was written";
  }

  static ScanCase wide() {
    ScanCase c;
    c.channels = 40;  // a whole number of 16-byte copies, and of no variant's block
    c.groups_b = c.groups_c = 1;
    c.d_state = 16;
    c.length = 200;
    return c;
  }
};

using Elements = testing::Types<float, ssm::bf16, ssm::f16>;
struct ElementNames {
  template <class T>
  static std::string GetName(int) {
    return type_name<T>();
  }
};
TYPED_TEST_SUITE(ScanConfiguration, Elements, ElementNames);

TYPED_TEST(ScanConfiguration, EveryNumberOfLanesAndStates) {
  for (const index_t d_state : {1, 4, 5, 8, 11, 16, 20, 32, 64, 128, 256}) {
    for (const int lanes : {4, 8, 16}) {
      ScanCase c = this->wide();
      c.batch = 1;
      c.length = 70;
      c.d_state = d_state;
      this->check(c, lanes, 1);
      this->check(c, lanes, 2);
    }
  }
}

TYPED_TEST(ScanConfiguration, ChunksOfEveryLayout) {
  for (const Layout layout : kAllLayouts) {
    for (const index_t length : {1, 63, 64, 65, 200, 333}) {
      for (const int chunks : {2, 3, 7}) {
        ScanCase c = this->wide();
        c.length = length;
        c.layout = layout;
        this->check(c, 4, chunks);
        c.reverse = true;
        this->check(c, 8, chunks);
      }
    }
  }
}

TYPED_TEST(ScanConfiguration, ChunksWithEveryOption) {
  for (bool ScanCase::*const option :
       {&ScanCase::skip, &ScanCase::gate, &ScanCase::bias, &ScanCase::initial, &ScanCase::last}) {
    ScanCase c = this->wide();
    c.*option = !(c.*option);
    this->check(c, 4, 3);
    this->check(c, 16, 3);
  }
  ScanCase c = this->wide();
  c.softplus = false;
  c.dt_low = 0.3;
  this->check(c, 8, 3);
  c = this->wide();
  c.state_in_place = true;
  this->check(c, 4, 3);
  for (const auto output : {ScanCase::Output::in_x, ScanCase::Output::in_z}) {
    c = this->wide();
    c.output = output;
    this->check(c, 4, 3);
  }
}

// Valid lengths that end in, before and at the ends of chunks, with padding that must not be read.
TYPED_TEST(ScanConfiguration, ChunksOfPaddedSequences) {
  for (const bool reverse : {false, true}) {
    for (const Layout layout : {Layout::contiguous, Layout::transposed}) {
      ScanCase c = this->wide();
      c.batch = 7;
      c.partition.lengths = {0, 1, 63, 64, 65, 128, 200};
      c.reverse = reverse;
      c.layout = layout;
      this->check(c, 4, 1);
      this->check(c, 4, 3);
    }
  }
}

// The pass for the chunks' states leaves off where states have forgotten: some do within a tile,
// some within a chunk, some never, side by side in one channel.
TYPED_TEST(ScanConfiguration, ChunksThatForgetFastAndSlowly) {
  for (const Layout layout : kAllLayouts) {
    for (const index_t d_state : {1, 4, 8, 16, 20, 64, 256}) {
      ScanCase c = this->wide();
      c.batch = 1;
      c.length = 1111;
      c.layout = layout;
      c.d_state = d_state;
      c.channels = d_state > 16 ? 16 : 40;
      c.A_low = -30;
      c.A_high = -0.5;
      this->check(c, 4, 2);
      c.reverse = true;
      this->check(c, 8, 5);
    }
  }
}

// Without a step nothing decays: every token of every chunk stays in the state.
TYPED_TEST(ScanConfiguration, ChunksThatForgetNothing) {
  ScanCase c = this->wide();
  c.length = 500;
  c.softplus = c.bias = false;
  c.dt_low = c.dt_high = 0;
  this->check(c, 4, 3);
  // No decay, but inputs: the states are sums.
  c.dt_low = 0.5;
  c.dt_high = 1;
  c.A_low = c.A_high = 0;
  this->check(c, 4, 3);
  // Growing states.
  c.A_low = 0.001;
  c.A_high = 0.01;
  this->check(c, 4, 3);
}

// Steps so large that a token forgets all before it, and some of zero among channels of such.
TYPED_TEST(ScanConfiguration, ChunksThatForgetAtOnce) {
  ScanCase c = this->wide();
  c.length = 500;
  c.softplus = c.bias = false;
  c.dt_low = 200;
  c.dt_high = 400;
  this->check(c, 4, 3);
  ConfiguredTarget::config() = {ssm::ScanPath::tiled, 4, 3};
  typename TestFixture::Problem p(c);
  for (index_t b = 0; b < c.batch; ++b) {
    for (index_t t = 0; t < c.length; ++t) {
      for (index_t d = 0; d < c.channels; d += 3) p.dt(b, t, d) = TypeParam(0.0f);
    }
  }
  const oracle::ScanResult wanted = p.expected();
  ASSERT_TRUE(run<ConfiguredTarget>(p.args()).is_ok());
  p.expect(wanted);
}

// A NaN shows in what depends on it and has not forgotten it; nothing else changes.
TYPED_TEST(ScanConfiguration, NanInAChunkStaysInItsChannel) {
  ScanCase c = this->wide();
  c.batch = 1;
  c.length = 500;  // chunks of 192
  constexpr index_t kChannel = 7, kToken = 180;
  ConfiguredTarget::config() = {ssm::ScanPath::tiled, 4, 3};
  const typename TestFixture::Problem clean(c);
  ASSERT_TRUE(run<ConfiguredTarget>(clean.args()).is_ok());
  for (const bool in_dt : {false, true}) {
    SCOPED_TRACE(in_dt ? "dt" : "x");
    typename TestFixture::Problem p(c);
    auto& spoiled = in_dt ? p.dt(0, kToken, kChannel) : p.x(0, kToken, kChannel);
    spoiled = test_nan<TypeParam>();
    ASSERT_TRUE(run<ConfiguredTarget>(p.args()).is_ok());
    for (index_t t = 0; t < c.length; ++t) {
      for (index_t d = 0; d < c.channels; ++d) {
        if (d == kChannel && t >= kToken) {
          EXPECT_TRUE(std::isnan(to_real(p.y(0, t, d)))) << t;
        } else {
          EXPECT_TRUE(same_bits<TypeParam>(p.y(0, t, d), clean.y(0, t, d))) << t << " " << d;
        }
      }
    }
  }
}

TYPED_TEST(ScanConfiguration, PackedSequences) {
  ScanCase c = this->wide();
  c.batch = 1;
  c.partition.starts = {0, 1, 1, 34, 97, 161, 200};
  for (const bool reverse : {false, true}) {
    for (const int lanes : {4, 8, 16}) {
      c.reverse = reverse;
      this->check(c, lanes, 1);
    }
  }
}

// Groups that end inside a block, and whole numbers of copies of them.
TYPED_TEST(ScanConfiguration, GroupsOfChannels) {
  for (const index_t groups : {2, 3, 5}) {
    for (const index_t in_group : {8, 11, 24, 72}) {
      ScanCase c = this->wide();
      c.channels = groups * in_group;
      c.groups_b = c.groups_c = groups;
      this->check(c, 4, 1);
      this->check(c, 16, 2);
    }
  }
}

TYPED_TEST(ScanConfiguration, SmallWorkspaceIsRefusedOrNotUsed) {
  ScanCase c = this->wide();
  const typename TestFixture::Problem p(c);
  ssm::Cuda cuda;
  const auto status = ssm::selective_scan(cuda, p.args(), {ssm::ScanPath::tiled, 4, 3});
  EXPECT_EQ(status.code(), ssm::ErrorCode::workspace_too_small);
  EXPECT_EQ(ssm::selective_scan_config(cuda, p.args()).chunks, 1);
}

// One token, as decoding takes it, has a kernel of its own.
TYPED_TEST(ScanConfiguration, SingleTokens) {
  for (const index_t d_state : {1, 3, 4, 16, 17, 64, 65, 256}) {
    for (const index_t channels : {1, 31, 32, 33, 100}) {
      ScanCase c;
      c.batch = 3;
      c.length = 1;
      c.groups_b = c.groups_c = 1;
      c.channels = channels;
      c.d_state = d_state;
      this->check(c, 4, 1);
      c.state_in_place = true;
      this->check(c, 4, 1);
    }
  }
  for (const Layout layout : kAllLayouts) {
    ScanCase c = this->wide();
    c.length = 1;
    c.groups_b = c.groups_c = 5;
    c.layout = layout;
    c.batch = 2;
    this->check(c, 4, 1);
    c.partition.lengths = {0, 1};
    c.gate = c.skip = c.bias = false;
    this->check(c, 4, 1);
  }
}

// More channels than a grid's second dimension holds, and the step's variant for many of them.
TYPED_TEST(ScanConfiguration, ManyChannels) {
  for (const index_t length : {1, 3}) {
    ScanCase c;
    c.batch = 1;
    c.channels = 65600;
    c.groups_b = c.groups_c = 1;
    c.d_state = 6;
    c.length = length;
    this->check(c, 4, 1);
  }
}

// The workspace asked for is what the rule then uses, and within the documented bound.
TYPED_TEST(ScanConfiguration, LongSequencesOfFewChannelsAreCut) {
  using T = TypeParam;
  ScanCase c = this->wide();
  c.length = 64;
  const typename TestFixture::Problem p(c);
  ssm::SelectiveScanArgs<T> a = p.args();
  struct {
    index_t channels, cut_from;
  } const sizes[] = {{8, 1024}, {64, 1024}, {1536, 8192}, {5120, 100000}, {100000, 1 << 30}};
  for (const index_t d_state : {16, 256}) {
    for (const index_t length : {512, 1024, 8192, 100000, 1 << 20}) {
      for (const auto& size : sizes) {
        SCOPED_TRACE(testing::Message() << size.channels << " channels, length " << length);
        a.x = {a.x.data(), {1, length, size.channels}};
        a.A = {a.A.data(), {size.channels, d_state}};
        a.B = {a.B.data(), {1, length, 1, d_state}};
        a.C = a.B;
        const std::size_t bytes = ssm::workspace_bytes(ssm::Cuda{}, a);
        EXPECT_LE(static_cast<double>(bytes), 2.0 * static_cast<double>(length * size.channels));
        ssm::Cuda cuda;
        cuda.workspace = ssm::Arena(reinterpret_cast<void*>(64), bytes);
        EXPECT_EQ(ssm::selective_scan_config(cuda, a).chunks > 1, bytes > 0);
        if (d_state == 16) {
          EXPECT_EQ(bytes > 0, length >= size.cut_from);
        }
      }
    }
  }
}

// Sequences as long as they come, of an initialised block's decays (delta from 1e-3 to 0.1, A from
// -1 to -16): the slow channels' states matter behind every cut. The error in every stretch of 1024
// tokens, against the general path in double.
TYPED_TEST(ScanConfiguration, LongSequencesWithinTheErrorOfOneChunk) {
  using T = TypeParam;
  constexpr index_t kStretch = 1024;
  ScanCase c = this->wide();
  c.batch = 1;
  c.channels = 8;
  c.length = sizeof(T) == 4 ? 1 << 20 : 1 << 18;
  const typename TestFixture::Problem p(c);
  const ScanProblem<double, double> exact(c);
  for (index_t d = 0; d < c.channels; ++d) {
    const double delta = 1e-3 * std::pow(100.0, static_cast<double>(d) / 7);
    p.dt_bias(d) = static_cast<float>(std::log(std::expm1(delta)));
    for (index_t n = 0; n < c.d_state; ++n) p.A(d, n) = -static_cast<float>(n + 1);
  }
  const auto widen = [](const auto& from, const auto& to) {
    const auto* at = from.view().data();
    to.for_each([&](double& v) { v = static_cast<double>(to_real(*at++)); });
  };
  widen(p.x, exact.x);
  widen(p.dt, exact.dt);
  widen(p.z, exact.z);
  widen(p.A, exact.A);
  widen(p.B, exact.B);
  widen(p.C, exact.C);
  widen(p.D, exact.D);
  widen(p.dt_bias, exact.dt_bias);
  widen(p.h0, exact.h0);
  ConfiguredTarget::config() = {ssm::ScanPath::general, 1, 1};
  ASSERT_TRUE(run<ConfiguredTarget>(exact.args()).is_ok());

  const double limit = sizeof(T) == 4 ? 2e-6 : std::is_same<T, ssm::f16>::value ? 1e-3 : 5e-3;
  for (const int chunks : {1, 11, 256}) {
    SCOPED_TRACE(testing::Message() << chunks << " chunks");
    p.y.poison();
    p.h_last.poison();
    ConfiguredTarget::config() = {ssm::ScanPath::tiled, 4, chunks};
    ASSERT_TRUE(run<ConfiguredTarget>(p.args()).is_ok());
    double worst = 0;
    for (index_t t0 = 0; t0 < c.length; t0 += kStretch) {
      double difference = 0, norm = 0;
      for (index_t t = t0; t < t0 + kStretch; ++t) {
        for (index_t d = 0; d < c.channels; ++d) {
          const double wanted = exact.y(0, t, d);
          const double error = static_cast<double>(to_real(p.y(0, t, d))) - wanted;
          difference += error * error;
          norm += wanted * wanted;
        }
      }
      worst = larger_error(worst, std::sqrt(difference / norm));
    }
    std::printf("  %d chunks: worst error in %d tokens %.2g\n", chunks, static_cast<int>(kStretch),
                worst);
    EXPECT_LE(worst, limit);
    EXPECT_LE(norm_relative_error(real_values(p.args().h_last), real_values(exact.args().h_last)),
              2e-6);
  }
}

TYPED_TEST(ScanConfiguration, SameBitsFromRunToRun) {
  for (const int chunks : {1, 3}) {
    ConfiguredTarget::config() = {ssm::ScanPath::tiled, 4, chunks};
    ScanCase c = this->wide();
    c.length = 700;
    const typename TestFixture::Problem p(c);
    ASSERT_TRUE(run<ConfiguredTarget>(p.args()).is_ok());
    const auto first = p.y.snapshot();
    for (int i = 0; i < 5; ++i) {
      p.y.poison();
      ASSERT_TRUE(run<ConfiguredTarget>(p.args()).is_ok());
      EXPECT_EQ(p.y.snapshot(), first);
    }
    p.y.poison();
    ASSERT_TRUE(run<ConfiguredGraph>(p.args()).is_ok());
    EXPECT_EQ(p.y.snapshot(), first) << "in a graph";
  }
}

}  // namespace
}  // namespace ssm_test
