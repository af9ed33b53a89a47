#pragma once

#include <cmath>
#include <memory>
#include <new>

#include "ops/conv_problem.hpp"
#include "ops/scan_problem.hpp"

// One test for each thread of USERS.md that the operations answer, named after it.
//
//   using Types = testing::Types<ThreadTypes<HostTarget<ssm::Cpu>>>;
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, UsersThreads, Types, TypeNames);
namespace ssm_test {

// The parameter of the suite. Everything here runs in float.
template <class Target_>
struct ThreadTypes {
  using Target = Target_;
  static std::string name() { return "float"; }
};

template <class Types>
class UsersThreads : public testing::Test {
 public:
  using Scan = ScanProblem<float, float>;
  using ScanArgs = ssm::SelectiveScanArgs<float>;
  using Conv = ConvProblem<float>;

  template <class Args>
  static void must_run(const Args& args) {
    const ssm::Status status = run<typename Types::Target>(args);
    ASSERT_TRUE(status.is_ok()) << status.message().text;
  }
  static double distance(const ssm::View<const float, 3>& a, const ssm::View<const float, 3>& b) {
    return static_cast<double>(norm_relative_error(complex_values(a), complex_values(b)));
  }
  static constexpr double kTolerance = 1e-6;
};

TYPED_TEST_SUITE_P(UsersThreads);

// An initial state enters, the final state leaves, and running on from it is one long run.
TYPED_TEST_P(UsersThreads, Mamba258_InitialStateInFinalStateOut) {
  ScanCase c;
  c.length = 40;
  const typename TestFixture::Scan whole(c);
  this->must_run(whole.args());
  const typename TestFixture::Scan parts(c);
  auto first = chunk(parts.args(), 0, 17);
  this->must_run(first);
  auto second = chunk(parts.args(), 17, 23);
  second.h0 = parts.h_last.view();
  this->must_run(second);
  EXPECT_LE(this->distance(parts.y.view(), whole.y.view()), this->kTolerance);
  EXPECT_LE(this->distance(parts.h_last.view(), whole.h_last.view()), this->kTolerance);

  ScanCase zero = c;  // the state given matters
  zero.initial = false;
  const typename TestFixture::Scan other(zero);
  this->must_run(other.args());
  EXPECT_GE(this->distance(other.y.view(), whole.y.view()), 1e-3);
}

// Nothing of one packed sequence reaches the next: each equals a run of its own.
TYPED_TEST_P(UsersThreads, Mamba180_PackedSequencesResetTheState) {
  ScanCase c;
  c.batch = 1;
  c.length = 30;
  c.initial = false;
  c.partition.starts = {0, 11, 12, 30};
  const typename TestFixture::Scan packed(c);
  this->must_run(packed.args());
  const typename TestFixture::Scan apart(c);
  for (std::size_t i = 0; i + 1 < c.partition.starts.size(); ++i) {
    const index_t begin = c.partition.starts[i];
    auto one = chunk(apart.args(), begin, c.partition.starts[i + 1] - begin);
    one.sequences = {};
    one.h_last = one.h_last.slice(0, static_cast<index_t>(i), 1);
    this->must_run(one);
  }
  EXPECT_LE(this->distance(packed.y.view(), apart.y.view()), this->kTolerance);
  EXPECT_LE(this->distance(packed.h_last.view(), apart.h_last.view()), this->kTolerance);

  ConvCase conv;
  conv.batch = 1;
  conv.initial = false;
  conv.partition.starts = {0, 1, 4, 9};
  const typename TestFixture::Conv packed_conv(conv);
  this->must_run(packed_conv.args());
  packed_conv.expect(packed_conv.expected());
}

// A padded batch leaves the states that its rows have without the padding, whatever it holds.
TYPED_TEST_P(UsersThreads, Mamba758_PaddingDoesNotEnterTheState) {
  ScanCase c;
  c.batch = 3;
  c.partition.lengths = {9, 4, 0};
  const typename TestFixture::Scan padded(c);  // NaN in the padding
  this->must_run(padded.args());
  const typename TestFixture::Scan alone(c);
  for (index_t b = 0; b < c.batch; ++b) {
    auto row = chunk(alone.args(), 0, c.partition.lengths[static_cast<std::size_t>(b)]);
    row.sequences = {};
    row.x = row.x.slice(0, b, 1);
    row.dt = row.dt.slice(0, b, 1);
    row.B = row.B.slice(0, b, 1);
    row.C = row.C.slice(0, b, 1);
    row.z = row.z.slice(0, b, 1);
    row.y = row.y.slice(0, b, 1);
    row.h0 = row.h0.slice(0, b, 1);
    row.h_last = row.h_last.slice(0, b, 1);
    this->must_run(row);
  }
  EXPECT_LE(this->distance(padded.h_last.view(), alone.h_last.view()), this->kTolerance);
}

// Right padding, then decoding: both caches continue as if there had been no padding.
TYPED_TEST_P(UsersThreads, Transformers48256_DecodingAfterRightPadding) {
  constexpr index_t kPrompt = 6, kPadded = 9;
  ScanCase c;
  c.batch = 1;
  c.length = kPadded;
  c.partition.lengths = {kPrompt};
  const typename TestFixture::Scan prompt(c);
  this->must_run(prompt.args());
  ScanCase unpadded_case = c;
  unpadded_case.partition = {};
  const typename TestFixture::Scan unpadded(unpadded_case);
  this->must_run(chunk(unpadded.args(), 0, kPrompt));
  auto step = chunk(unpadded.args(), kPrompt, 1);
  step.h0 = prompt.h_last.view();
  step.h_last = prompt.h_last.view();
  this->must_run(step);
  const typename TestFixture::Scan whole(unpadded_case);
  this->must_run(chunk(whole.args(), 0, kPrompt + 1));
  EXPECT_LE(
      this->distance(unpadded.y.view().slice(1, kPrompt, 1), whole.y.view().slice(1, kPrompt, 1)),
      this->kTolerance);
  EXPECT_LE(this->distance(prompt.h_last.view(), whole.h_last.view()), this->kTolerance);

  ConvCase conv;
  conv.partition.lengths = {2, 7};  // one row shorter than the convolution
  const typename TestFixture::Conv padded(conv);
  this->must_run(padded.args());
  padded.expect(padded.expected());
}

// last_state with B constant over the sequence was missing its factor B.
TYPED_TEST_P(UsersThreads, MambaPullRequest371_LastStateWithConstantB) {
  ScanCase c;
  c.constant_b = true;
  c.initial = false;
  const typename TestFixture::Scan p(c);
  const oracle::ScanResult wanted = p.expected();
  this->must_run(p.args());
  p.expect(wanted);
  p.constant_B.for_each([](float& b) { b *= 2; });  // the state is linear in B
  const std::vector<float> before = p.h_last.values();
  this->must_run(p.args());
  const std::vector<float> after = p.h_last.values();
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_EQ(after[i], 2 * before[i]);
}

// Channel d reads group d / (channels / groups): groups are blocks of channels, not interleaved.
TYPED_TEST_P(UsersThreads, LlamaCpp15507_GroupsAreBlocksOfChannels) {
  ScanCase c;
  c.channels = 6;
  c.groups_b = 3;
  c.groups_c = 2;
  c.length = 1;
  c.batch = 1;
  c.d_state = 1;
  c.skip = c.gate = c.bias = c.initial = c.softplus = false;
  const typename TestFixture::Scan p(c);
  p.x.fill(1);
  p.dt.fill(1);
  for (index_t g = 0; g < 3; ++g) p.B(0, 0, g, 0) = static_cast<float>(g + 1);
  for (index_t g = 0; g < 2; ++g) p.C(0, 0, g, 0) = static_cast<float>(10 * (g + 1));
  this->must_run(p.args());
  const float wanted[] = {10, 10, 20, 40, 60, 60};
  for (index_t d = 0; d < 6; ++d) EXPECT_EQ(p.y(0, 0, d), wanted[d]) << d;
}

// A bidirectional layer needs no flipped copies.
TYPED_TEST_P(UsersThreads, MambaPullRequest52_ReverseScanWithoutFlips) {
  ScanCase c;
  c.length = 33;
  c.reverse = true;
  const typename TestFixture::Scan p(c);
  const oracle::ScanResult wanted = p.expected();
  this->must_run(p.args());
  p.expect(wanted);
}

// d_state of any size.
TYPED_TEST_P(UsersThreads, Mamba351_AnyStateSize) {
  for (const index_t d_state : {1, 3, 24, 255, 256, 257, 300}) {
    ScanCase c;
    c.d_state = d_state;
    const typename TestFixture::Scan p(c);
    const oracle::ScanResult wanted = p.expected();
    this->must_run(p.args());
    p.expect(wanted);
  }
}

// Channel counts and strides that are multiples of nothing.
TYPED_TEST_P(UsersThreads, Mamba643_AnyChannelCountAndStride) {
  for (const index_t channels : {1, 5, 21, 77}) {
    for (const Layout layout : kAllLayouts) {
      ScanCase c;
      c.channels = channels;
      c.groups_b = c.groups_c = channels;
      c.layout = layout;
      const typename TestFixture::Scan p(c);
      const oracle::ScanResult wanted = p.expected();
      this->must_run(p.args());
      p.expect(wanted);
    }
  }
}

// A convolution of any width, mamba#345 and causal-conv1d#87 (2 to 4 there).
TYPED_TEST_P(UsersThreads, CausalConv1d87_AnyWidth) {
  for (index_t width = 1; width <= 70; ++width) {
    ConvCase c;
    c.width = width;
    c.length = 23;
    const typename TestFixture::Conv p(c);
    const oracle::ConvResult wanted = p.expected();
    this->must_run(p.args());
    p.expect(wanted);
  }
}

// Chunks shorter than the convolution: the state keeps the younger part of what it held.
TYPED_TEST_P(UsersThreads, Vllm56196_ChunkShorterThanTheConvolution) {
  for (const index_t width : {4, 8}) {
    for (const index_t step : {1, 2, 3}) {
      ConvCase c;
      c.width = width;
      c.length = 18;
      const typename TestFixture::Conv p(c);
      const oracle::ConvResult wanted = p.expected();
      auto a = p.args();
      for (index_t t = 0; t < c.length; t += step) {
        auto part = a;
        part.x = a.x.slice(1, t, step);
        part.y = a.y.slice(1, t, step);
        this->must_run(part);
        a.state0 = a.state_last;
      }
      p.expect(wanted);
    }
  }
}

// Token by token with the state in place equals one call.
TYPED_TEST_P(UsersThreads, Mamba500_StepEqualsForward) {
  ScanCase c;
  c.length = 50;
  c.initial = false;
  const typename TestFixture::Scan whole(c);
  this->must_run(whole.args());
  const typename TestFixture::Scan steps(c);
  auto a = steps.args();
  for (index_t t = 0; t < c.length; ++t) {
    this->must_run(chunk(a, t, 1));
    a.h0 = a.h_last;
  }
  EXPECT_LE(this->distance(steps.y.view(), whole.y.view()), this->kTolerance);
  EXPECT_LE(this->distance(steps.h_last.view(), whole.h_last.view()), this->kTolerance);
}

// log(1 + exp(dt)) is 0 below -17 in float, and decoding then differs from prefill (the softplus of
// mamba's Triton kernels). With A = 0, B = x = 1 the state after one token is softplus(dt) itself.
TYPED_TEST_P(UsersThreads, MambaTriton_SoftplusOfSmallSteps) {
  std::vector<double> steps;
  for (double dt = -40; dt <= 25; dt += 0.25) steps.push_back(dt);
  const auto count = static_cast<index_t>(steps.size());
  const Tensor<float, 3> dt = tensor_of<float, 3>({1, 1, count}, steps);
  const Tensor<float, 3> ones({1, 1, count});
  const Tensor<float, 2> A({count, 1});
  const Tensor<float, 4> one({1, 1, 1, 1});
  const Tensor<float, 3> y({1, 1, count});
  const Tensor<float, 3> h({1, count, 1});
  ones.fill(1);
  A.fill(0);
  one.fill(1);
  typename TestFixture::ScanArgs a;
  a.x = ones.view();
  a.dt = dt.view();
  a.A = A.view();
  a.B = one.view();
  a.C = one.view();
  a.y = y.view();
  a.h_last = h.view();
  this->must_run(a);
  for (index_t d = 0; d < count; ++d) {
    const double v = steps[static_cast<std::size_t>(d)];
    const double wanted = v <= 20 ? std::log1p(std::exp(v)) : v;
    EXPECT_NEAR(static_cast<double>(h(0, d, 0)), wanted, 1e-6 * wanted) << "dt " << v;
  }
}

// Offsets beyond 2^31 elements, positive and negative, in every array with a token or row stride.
// Only a few pages of the memory are touched. A device target has a test of its own.
TYPED_TEST_P(UsersThreads, Mamba1015_SixtyFourBitOffsets) {
  if (!TypeParam::Target::kChecksValues) GTEST_SKIP() << "needs host memory";
  using ssm::bf16;
  constexpr index_t kFar = (index_t{1} << 31) + 12345;
  const std::unique_ptr<bf16[]> memory(new (std::nothrow) bf16[static_cast<std::size_t>(2 * kFar)]);
  if (memory == nullptr) GTEST_SKIP() << "needs 8 GiB of address space";

  ScanCase c;
  c.batch = 1;
  c.length = 2;
  c.channels = 3;
  c.groups_b = c.groups_c = 1;
  const ScanProblem<bf16, float> p(c);
  const oracle::ScanResult wanted = p.expected();
  bf16* next = memory.get();
  // The same array with its two tokens kFar apart, in either order.
  const auto spread = [&next](const auto& from, bool backwards) {
    auto to = ssm::View<bf16, 2>(backwards ? next + kFar : next, {2, from.extent(2)},
                                 {backwards ? -kFar : kFar, 1});
    for (index_t t = 0; t < 2; ++t) {
      for (index_t i = 0; i < from.extent(2); ++i) to(t, i) = from(0, t, i);
    }
    next += from.extent(2);
    return to;
  };
  const auto activation = [](const ssm::View<bf16, 2>& v) {
    return ssm::View<bf16, 3>(v.data(), {1, 2, v.extent(1)}, {0, v.stride(0), 1});
  };
  const auto coefficient = [](const ssm::View<bf16, 2>& v) {
    return ssm::View<bf16, 4>(v.data(), {1, 2, 1, v.extent(1)}, {0, v.stride(0), 0, 1});
  };
  auto a = p.args();
  a.x = activation(spread(a.x, false));
  a.dt = activation(spread(a.dt, true));
  a.z = activation(spread(a.z, false));
  a.B = coefficient(spread(a.B.select(2, 0), true));
  a.C = coefficient(spread(a.C.select(2, 0), false));
  const ssm::View<bf16, 3> y = activation(spread(p.y.view(), true));
  a.y = y;
  this->must_run(a);
  p.expect(wanted, y, p.h_last.view());

  ConvCase conv_case;
  conv_case.batch = 1;
  conv_case.length = 2;
  conv_case.channels = 3;
  const ConvProblem<bf16> conv(conv_case);
  const oracle::ConvResult conv_wanted = conv.expected();
  auto b = conv.args();
  b.x = activation(spread(b.x, true));
  const ssm::View<bf16, 3> conv_y = activation(spread(conv.y.view(), false));
  b.y = conv_y;
  this->must_run(b);
  for (index_t t = 0; t < 2; ++t) {
    for (index_t d = 0; d < 3; ++d) conv.y(0, t, d) = conv_y(0, t, d);
  }
  conv.expect(conv_wanted);
}

REGISTER_TYPED_TEST_SUITE_P(UsersThreads, Mamba258_InitialStateInFinalStateOut,
                            Mamba180_PackedSequencesResetTheState,
                            Mamba758_PaddingDoesNotEnterTheState,
                            Transformers48256_DecodingAfterRightPadding,
                            MambaPullRequest371_LastStateWithConstantB,
                            LlamaCpp15507_GroupsAreBlocksOfChannels,
                            MambaPullRequest52_ReverseScanWithoutFlips, Mamba351_AnyStateSize,
                            Mamba643_AnyChannelCountAndStride, CausalConv1d87_AnyWidth,
                            Vllm56196_ChunkShorterThanTheConvolution, Mamba500_StepEqualsForward,
                            MambaTriton_SoftplusOfSmallSteps, Mamba1015_SixtyFourBitOffsets);

}  // namespace ssm_test
