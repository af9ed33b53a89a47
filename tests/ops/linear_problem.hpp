#pragma once

#include <ostream>

#include "ssm/ops/linear.hpp"
#include "support/suite.hpp"

// A linear layer with random contents, and its result by a plain loop in long double.
namespace ssm_test {

struct LinearCase {
  index_t batch = 2, length = 5, in = 24, out = 20;
  bool bias = true;
  Layout layout = Layout::contiguous;

  friend std::ostream& operator<<(std::ostream& stream, const LinearCase& c) {
    return stream << "batch " << c.batch << " length " << c.length << " in " << c.in << " out "
                  << c.out << " bias " << c.bias << " layout " << static_cast<int>(c.layout);
  }
};

template <class T, class TOut>
class LinearProblem {
 public:
  using Args = ssm::LinearArgs<T, TOut>;

  explicit LinearProblem(const LinearCase& linear_case, std::uint64_t stream = 0)
      : c(linear_case),
        x({c.batch, c.length, c.in}, c.layout),
        weight({c.out, c.in}, c.layout),
        y({c.batch, c.length, c.out}, c.layout) {
    Random random(stream);
    x.fill(random, -1, 1);
    weight.fill(random, -1, 1);
    if (c.bias) bias = Tensor<T, 1>({c.out}, c.layout), bias.fill(random, -1, 1);
  }

  Args args() const {
    Args a;
    a.x = x.view();
    a.weight = weight.view();
    a.bias = bias.view();
    a.y = y.view();
    return a;
  }

  // The result of output o at (b, t), and the sum of the magnitudes of its terms.
  struct Sum {
    oracle::Real value, scale;
  };
  Sum wanted(index_t b, index_t t, index_t o) const {
    Sum sum{c.bias ? to_real(bias(o)) : 0, c.bias ? std::abs(to_real(bias(o))) : 0};
    for (index_t i = 0; i < c.in; ++i) {
      const oracle::Real term = to_real(x(b, t, i)) * to_real(weight(o, i));
      sum.value += term;
      sum.scale += std::abs(term);
    }
    return sum;
  }

  void expect() const {
    ErrorMeter error(underflow<TOut>());
    for (index_t b = 0; b < c.batch; ++b) {
      for (index_t t = 0; t < c.length; ++t) {
        for (index_t o = 0; o < c.out; ++o) {
          const Sum sum = wanted(b, t, o);
          error.add(to_real(y(b, t, o)), sum.value, sum.scale);
        }
      }
    }
    const double rounding = std::is_same<T, TOut>::value ? unit_roundoff<T>() : 0;
    EXPECT_LE(error.worst(), accum_tolerance<T>(Op::linear) + rounding) << error;
    EXPECT_TRUE(y.guards_intact());
  }

  std::vector<std::vector<unsigned char>> inputs() const {
    return {x.snapshot(), weight.snapshot(), bias.snapshot()};
  }

  LinearCase c;
  Tensor<T, 3> x;
  Tensor<T, 2> weight;
  Tensor<T, 1> bias;
  Tensor<TOut, 3> y;
};

}  // namespace ssm_test
