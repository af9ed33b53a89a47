#pragma once

#include "ops/conv_problem.hpp"
#include "ops/run_backward.hpp"
#include "support/differences.hpp"
#include "support/gradient.hpp"
#include "support/oracle_backward.hpp"

// What every backend's gradient of the convolution must be, against support/oracle_backward.hpp:
//
//   using Types = testing::Types<ConvGradTypes<HostTarget<ssm::Cpu>, float>, …>;
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, CausalConv1dBackwardSuite, Types, TypeNames);
namespace ssm_test {

struct ConvGradCase {
  ConvCase conv = {};
  bool final_gradient = true, state_in_place = false;
  ssm::GradMode inputs = ssm::GradMode::overwrite, parameters = ssm::GradMode::overwrite;

  friend std::ostream& operator<<(std::ostream& out, const ConvGradCase& c) {
    return out << c.conv << " dstate_last " << c.final_gradient << " in place " << c.state_in_place
               << " inputs " << static_cast<int>(c.inputs) << " parameters "
               << static_cast<int>(c.parameters);
  }
};

template <class T>
class ConvGradProblem {
 public:
  using Args = ssm::CausalConv1dGradArgs<T>;
  using Accum = ssm::accum_t<T>;

  explicit ConvGradProblem(const ConvGradCase& grad_case) : c(grad_case), forward(c.conv) {
    Random random(1000);
    const ConvCase& f = c.conv;
    const ssm::Extents<3> tokens{f.batch, f.length, f.channels};
    const ssm::Extents<3> states{static_cast<index_t>(forward.sequences.size()), f.width - 1,
                                 f.channels};
    dy = Tensor<T, 3>(tokens, f.layout), dy.fill(random, -1, 1);
    poison_padding(dy, f.partition.lengths);
    if (c.final_gradient) {
      dstate_last = Tensor<Accum, 3>(states, f.layout), dstate_last.fill(random, -1, 1);
    }
    dx = {tokens, f.layout, c.inputs, random};
    if (!c.state_in_place) dstate0 = {states, f.layout, c.inputs, random};
    dweight = {{f.channels, f.width}, f.layout, c.parameters, random};
    dbias = {{f.channels}, f.layout, c.parameters, random};
  }

  Args args() const {
    Args a;
    a.forward = forward.args();
    a.forward.y = {};
    a.forward.state_last = {};
    a.dy = dy.view();
    a.dstate_last = dstate_last.view();
    a.dx = dx.view();
    a.dstate0 = c.state_in_place ? dstate_last.view() : dstate0.view();
    a.dweight = dweight.view();
    a.dbias = dbias.view();
    a.inputs = c.inputs;
    a.parameters = c.parameters;
    return a;
  }

  oracle::ConvGradient expected() const {
    return oracle::causal_conv1d_backward(forward.problem(),
                                          real_values(ssm::View<const T, 3>(dy.view())),
                                          real_values(dstate_last.view()));
  }

  // Norm-relative: the forward's error, the slope of silu and a sum of as many terms again.
  static double sum_tolerance() { return 2 * accum_tolerance<T>(Op::causal_conv1d); }

  void expect(const oracle::ConvGradient& wanted) const {
    dx.expect("dx", wanted.dx, sum_tolerance() + unit_roundoff<T>());
    dstate0.expect("dstate0", wanted.dstate0, sum_tolerance());
    dweight.expect("dweight", wanted.dweight, sum_tolerance());
    dbias.expect("dbias", wanted.dbias, sum_tolerance());
    if (c.state_in_place) {
      EXPECT_TRUE(norm_relative_error(real_values(dstate_last.view()), wanted.dstate0) <=
                  sum_tolerance());
      EXPECT_TRUE(dstate_last.guards_intact());
    }
  }

  std::vector<std::vector<unsigned char>> inputs() const {
    auto all = forward.inputs();
    all.push_back(dy.snapshot());
    if (!c.state_in_place) all.push_back(dstate_last.snapshot());
    return all;
  }
  std::vector<std::vector<unsigned char>> outputs() const {
    return {dx.tensor.snapshot(), dstate0.tensor.snapshot(), dweight.tensor.snapshot(),
            dbias.tensor.snapshot(), dstate_last.snapshot()};
  }

  ConvGradCase c;
  ConvProblem<T> forward;
  Tensor<T, 3> dy;
  Tensor<Accum, 3> dstate_last;
  GradientArray<T, 3> dx;
  GradientArray<Accum, 3> dstate0;
  GradientArray<Accum, 2> dweight;
  GradientArray<Accum, 1> dbias;
};

template <class Target_, class T_>
struct ConvGradTypes {
  using Target = Target_;
  using T = T_;
  using Args = ssm::CausalConv1dGradArgs<T>;
  using Problem = ConvGradProblem<T>;
  static std::string name() { return type_name<T>(); }
};

template <class Types>
class CausalConv1dBackwardSuite : public testing::Test {
 public:
  static void check(const ConvGradCase& c) {
    SCOPED_TRACE(testing::Message() << c);
    const typename Types::Problem p(c);
    const oracle::ConvGradient wanted = p.expected();
    const auto inputs = p.inputs();
    const ssm::Status status = run<typename Types::Target>(p.args());
    ASSERT_TRUE(status.is_ok()) << status.message().text;
    p.expect(wanted);
    EXPECT_EQ(p.inputs(), inputs) << "an input was written";
  }
};

TYPED_TEST_SUITE_P(CausalConv1dBackwardSuite);

TYPED_TEST_P(CausalConv1dBackwardSuite, CombinationsOfOptions) {
  for (int bits = 0; bits < 32; ++bits) {
    for (const ssm::GradMode inputs : kGradModes) {
      for (const ssm::GradMode parameters : kGradModes) {
        ConvGradCase c;
        c.conv.bias = (bits & 1) != 0;
        c.conv.initial = (bits & 2) != 0;
        c.conv.silu = (bits & 4) != 0;
        c.final_gradient = (bits & 8) != 0;
        c.state_in_place =
            (bits & 16) != 0 && inputs == ssm::GradMode::overwrite && c.final_gradient;
        c.inputs = inputs;
        c.parameters = parameters;
        this->check(c);
      }
    }
  }
}

// Lengths shorter than the convolution included, where the state passes through.
TYPED_TEST_P(CausalConv1dBackwardSuite, WidthsAndLengths) {
  for (const index_t width : {1, 2, 3, 4, 5, 8, 33}) {
    for (const index_t length : {0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 32, 33, 64, 65, 129}) {
      for (const bool in_place : {false, true}) {
        ConvGradCase c;
        c.conv.width = width;
        c.conv.length = length;
        c.conv.channels = 3;
        c.state_in_place = in_place;
        this->check(c);
      }
    }
  }
}

TYPED_TEST_P(CausalConv1dBackwardSuite, ChannelsAndStrides) {
  for (const index_t channels : {0, 1, 2, 7, 8, 9, 16, 17, 33, 64, 65, 129}) {
    ConvGradCase c;
    c.conv.channels = channels;
    this->check(c);
  }
  for (const Layout layout : kAllLayouts) {
    ConvGradCase c;
    c.conv.layout = layout;
    c.conv.channels = 19;
    this->check(c);
  }
}

TYPED_TEST_P(CausalConv1dBackwardSuite, PackedAndPadded) {
  for (const std::vector<index_t>& starts :
       {std::vector<index_t>{0, 9}, {0, 4, 9}, {0, 0, 1, 9, 9}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}}) {
    ConvGradCase c;
    c.conv.batch = 1;
    c.conv.partition.starts = starts;
    this->check(c);
    c.state_in_place = true;
    this->check(c);
  }
  for (const index_t width : {2, 4, 5}) {
    ConvGradCase longer;
    longer.conv.batch = 1;
    longer.conv.length = 200;
    longer.conv.width = width;
    longer.conv.partition.starts = {0, 1, 60, 61, 61, 62, 64, 123, 200};
    this->check(longer);
    longer.conv.batch = 4;
    longer.conv.partition = {{200, 61, 62, 122}, {}};
    this->check(longer);
  }
  ConvGradCase c;
  c.conv.batch = 4;
  c.conv.partition.lengths = {9, 0, 1, 5};
  this->check(c);
  c.inputs = c.parameters = ssm::GradMode::accumulate;
  this->check(c);
}

TYPED_TEST_P(CausalConv1dBackwardSuite, EveryGradientEqualsDifferences) {
  using T = typename TypeParam::T;
  using Accum = ssm::accum_t<T>;
  if (!std::is_same<T, double>::value) return;
  for (const bool silu : {false, true}) {
    ConvGradCase c;
    c.conv.channels = 2;
    c.conv.length = 5;
    c.conv.silu = silu;
    const typename TypeParam::Problem p(c);
    ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
    oracle::Conv o = p.forward.problem();
    const auto dy = real_values(ssm::View<const T, 3>(p.dy.view()));
    const auto ds = real_values(ssm::View<const Accum, 3>(p.dstate_last.view()));
    const auto loss = [&] {
      const oracle::ConvResult r = oracle::causal_conv1d(o);
      oracle::Real sum = 0;
      for (std::size_t i = 0; i < dy.size(); ++i) sum += dy[i] * r.y[i];
      for (std::size_t i = 0; i < ds.size(); ++i) sum += ds[i] * r.state[i];
      return sum;
    };
    p.dx.expect("dx", oracle::gradient(o.x, loss), 1e-13L);
    p.dstate0.expect("dstate0", oracle::gradient(o.state0, loss), 1e-13L);
    p.dweight.expect("dweight", oracle::gradient(o.weight, loss), 1e-13L);
    p.dbias.expect("dbias", oracle::gradient(o.bias, loss), 1e-13L);
  }
}

TYPED_TEST_P(CausalConv1dBackwardSuite, TwoRunsGiveTheSameBits) {
  ConvGradCase c;
  c.conv.channels = 65;
  c.conv.length = 100;
  const typename TypeParam::Problem first(c), second(c);
  ASSERT_TRUE(run<typename TypeParam::Target>(first.args()).is_ok());
  ASSERT_TRUE(run<typename TypeParam::Target>(second.args()).is_ok());
  EXPECT_EQ(first.outputs(), second.outputs());
}

TYPED_TEST_P(CausalConv1dBackwardSuite, BadArgumentsAreNamedAndNothingIsWritten) {
  using Args = typename TypeParam::Args;
  using T = typename TypeParam::T;
  using ssm::ErrorCode;
  const ErrorCode shape = ErrorCode::shape_mismatch;
  const ErrorCode invalid = ErrorCode::invalid_argument;
  const BadCall<Args> calls[] = {
      {"weight", shape, [](Args& a) { a.forward.weight = a.forward.weight.slice(0, 0, 5); }},
      {"state0", shape, [](Args& a) { a.forward.state0 = a.forward.state0.slice(1, 0, 2); }},
      {"dy", shape, [](Args& a) { a.dy = {}; }},
      {"dy", invalid,
       [](Args& a) {
         a.dy = ssm::View<const T, 3>(nullptr, {2, 9, 6});
       }},
      {"dstate_last", shape, [](Args& a) { a.dstate_last = a.dstate_last.slice(0, 0, 1); }},
      {"dx", shape, [](Args& a) { a.dx = a.dx.slice(1, 0, 8); }},
      {"dstate0", shape, [](Args& a) { a.dstate0 = a.dstate0.slice(1, 0, 2); }},
      {"dweight", shape, [](Args& a) { a.dweight = a.dweight.slice(1, 0, 3); }},
      {"dbias", shape, [](Args& a) { a.dbias = a.dbias.slice(0, 0, 1); }},
  };
  for (const BadCall<Args>& bad : calls) {
    SCOPED_TRACE(bad.argument);
    const typename TypeParam::Problem p(ConvGradCase{});
    Args a = p.args();
    bad.spoil(a);
    const auto outputs = p.outputs();
    expect_refused(run<typename TypeParam::Target>(a), "causal_conv1d_backward", bad.argument,
                   bad.code);
    EXPECT_EQ(p.outputs(), outputs);
  }
  ConvGradCase wide;
  wide.conv.width = 5;
  const typename TypeParam::Problem p(wide);
  const auto outputs = p.outputs();
  expect_counter_refused<typename TypeParam::Target>(
      "causal_conv1d_backward", p.args(), [](const auto& backend, const Args& a, ssm::Arena arena) {
        return causal_conv1d_backward(backend, a, arena);
      });
  EXPECT_EQ(p.outputs(), outputs);
}

REGISTER_TYPED_TEST_SUITE_P(CausalConv1dBackwardSuite, CombinationsOfOptions, WidthsAndLengths,
                            ChannelsAndStrides, PackedAndPadded, EveryGradientEqualsDifferences,
                            TwoRunsGiveTheSameBits, BadArgumentsAreNamedAndNothingIsWritten);

}  // namespace ssm_test
