#pragma once

#include <ostream>

#include "ops/run.hpp"
#include "support/suite.hpp"
#include "support/target.hpp"

namespace ssm_test {

// One description of a call. The default is the base case, from which each test varies one thing.
struct ConvCase {
  index_t batch = 2, length = 9, channels = 6, width = 4;
  bool bias = true, initial = true, last = true, silu = true, state_in_place = false;
  Partition partition = {};
  Layout layout = Layout::contiguous;

  friend std::ostream& operator<<(std::ostream& out, const ConvCase& c) {
    return out << "batch " << c.batch << " length " << c.length << " channels " << c.channels
               << " width " << c.width << " bias " << c.bias << " state0 " << c.initial
               << " state_last " << c.last << " silu " << c.silu << " in place " << c.state_in_place
               << " layout " << static_cast<int>(c.layout) << " lengths "
               << c.partition.lengths.size() << " starts " << c.partition.starts.size();
  }
};

// The arrays of a case, its arguments, and what the oracle makes of them.
template <class T>
class ConvProblem {
 public:
  using Args = ssm::CausalConv1dArgs<T>;
  using Accum = ssm::accum_t<T>;

  explicit ConvProblem(const ConvCase& conv_case, std::uint64_t stream = 0)
      : c(conv_case),
        sequences(c.partition.ranges(c.batch, c.length)),
        x({c.batch, c.length, c.channels}, c.layout),
        y({c.batch, c.length, c.channels}, c.layout),
        weight({c.channels, c.width}, c.layout) {
    Random random(stream);
    x.fill(random, -1, 1);
    weight.fill(random, -1, 1);
    if (c.bias) bias = Tensor<T, 1>({c.channels}, c.layout), bias.fill(random, -1, 1);
    const ssm::Extents<3> states{static_cast<index_t>(sequences.size()), c.width - 1, c.channels};
    if (c.initial) state0 = Tensor<Accum, 3>(states, c.layout), state0.fill(random, -1, 1);
    if (c.last && !c.state_in_place) state_last = Tensor<Accum, 3>(states, c.layout);
    if (!c.partition.lengths.empty()) lengths = index_tensor(c.partition.lengths);
    if (!c.partition.starts.empty()) starts = index_tensor(c.partition.starts);
    poison_padding(x, c.partition.lengths);
  }

  Args args() const {
    Args a;
    a.x = x.view();
    a.weight = weight.view();
    a.bias = bias.view();
    a.state0 = state0.view();
    a.state_last = c.state_in_place ? state0.view() : state_last.view();
    a.y = y.view();
    a.sequences = {lengths.view(), starts.view()};
    a.silu = c.silu;
    return a;
  }

  // To be asked before a run that writes into state0.
  oracle::ConvResult expected() const { return oracle::causal_conv1d(problem()); }
  oracle::Conv problem() const {
    oracle::Conv p;
    p.batch = c.batch;
    p.length = c.length;
    p.channels = c.channels;
    p.width = c.width;
    p.x = real_values(x.view());
    p.weight = real_values(weight.view());
    p.bias = real_values(bias.view());
    p.state0 = real_values(state0.view());
    p.sequences = sequences;
    p.silu = c.silu;
    return p;
  }

  void expect(const oracle::ConvResult& wanted) const {
    ErrorMeter error(underflow<T>());
    const std::vector<T> found = y.values();
    for (std::size_t i = 0; i < found.size(); ++i) {
      if (std::isnan(wanted.y[i])) {
        EXPECT_TRUE(is_poison(found[i])) << "y of padding, element " << i;
      } else {
        error.add(to_real(found[i]), wanted.y[i], wanted.y_scale[i]);
      }
    }
    EXPECT_LE(error.worst(), tolerance<T>(Op::causal_conv1d)) << "y: " << error;
    const ssm::View<const Accum, 3> state = args().state_last;
    if (state.present()) {
      EXPECT_EQ(real_values(state), wanted.state) << "a state is a copy";
    }
    EXPECT_TRUE(y.guards_intact());
    EXPECT_TRUE(state_last.guards_intact());
  }

  // Every array that a run must not write.
  std::vector<std::vector<unsigned char>> inputs() const {
    std::vector<std::vector<unsigned char>> all = {x.snapshot(), weight.snapshot(),
                                                   bias.snapshot()};
    if (!c.state_in_place) all.push_back(state0.snapshot());
    return all;
  }

  ConvCase c;
  std::vector<oracle::Range> sequences;
  Tensor<T, 3> x, y;
  Tensor<T, 2> weight;
  Tensor<T, 1> bias;
  Tensor<Accum, 3> state0, state_last;
  Tensor<index_t, 1> lengths, starts;
};

// The backend under test with the type of its arguments: the parameter of the suite.
template <class Target_, class T_>
struct ConvTypes {
  using Target = Target_;
  using T = T_;
  using Args = ssm::CausalConv1dArgs<T>;
  using Problem = ConvProblem<T>;
  static std::string name() { return type_name<T>(); }
};

}  // namespace ssm_test
