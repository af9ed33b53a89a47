#include "ssm/cpu/linear.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "ops/linear_problem.hpp"
#include "ssm/cpu/thread_pool.hpp"
#include "support/allocations.hpp"

// What the shared suite does not ask: the storage formats of a packed weight, and that neither
// threads nor the number of rows change a bit.
namespace ssm_test {
namespace {

using ssm::WeightFormat;

constexpr WeightFormat kFormats[] = {WeightFormat::native, WeightFormat::f32, WeightFormat::bf16,
                                     WeightFormat::f16, WeightFormat::int8};
const char* format_name(WeightFormat format) {
  constexpr const char* kNames[] = {"native", "f32", "bf16", "f16", "int8"};
  return kNames[static_cast<int>(format)];
}

// A weight packed into memory of its own, `offset` bytes off the allocator's alignment.
template <class T>
class Packed {
 public:
  Packed(const ssm::Cpu& backend, const ssm::View<const T, 2>& weight, WeightFormat format,
         index_t offset = 0) {
    ssm::Arena counter;
    const ssm::PackedWeight counted = pack_linear(backend, weight, format, counter);
    EXPECT_EQ(counted.data, nullptr);
    memory_ = Tensor<unsigned char, 1>({static_cast<index_t>(counter.bytes_needed()) + offset});
    ssm::Arena arena(memory_.view().data() + offset, counter.bytes_needed());
    weight_ = pack_linear(backend, weight, format, arena);
    EXPECT_TRUE(arena.status("pack_linear").is_ok());
    EXPECT_EQ(arena.used(), counter.used());
    EXPECT_EQ(weight_.format, format);
  }

  const ssm::PackedWeight& weight() const { return weight_; }
  bool guards_intact() const { return memory_.guards_intact(); }

 private:
  Tensor<unsigned char, 1> memory_;
  ssm::PackedWeight weight_;
};

template <class T, class TOut>
void multiply(const ssm::Cpu& backend, const LinearProblem<T, TOut>& p, WeightFormat format) {
  ssm::LinearArgs<T, TOut> a = p.args();
  const Packed<T> packed(backend, a.weight, format);
  a.packed = packed.weight();
  if (a.weight.size() > 0) a.weight = ssm::View<const T, 2>(nullptr, {p.c.out, p.c.in});
  const ssm::Status status = linear(backend, a);
  ASSERT_TRUE(status.is_ok()) << status.message().text;
  EXPECT_TRUE(packed.guards_intact());
  EXPECT_TRUE(p.y.guards_intact());
}

// How far y(b, t, o) may be off for the rounding of weights and activations that the format does,
// as pack_linear documents it; inputs [begin, end) share their scales.
template <class T, class TOut>
long double format_bound(const LinearProblem<T, TOut>& p, WeightFormat format, index_t b, index_t t,
                         index_t o) {
  long double bound = 0;
  for (index_t begin = 0; begin < p.c.in; begin += 64) {
    const index_t end = std::min<index_t>(begin + 64, p.c.in);
    long double max_w = 0;
    long double max_x = 0;
    for (index_t i = begin; i < end; ++i) {
      max_w = std::max(max_w, std::abs(to_real(p.weight(o, i))));
      max_x = std::max(max_x, std::abs(to_real(p.x(b, t, i))));
    }
    for (index_t i = begin; i < end; ++i) {
      const long double w = std::abs(to_real(p.weight(o, i)));
      const long double x = std::abs(to_real(p.x(b, t, i)));
      switch (format) {
        case WeightFormat::native:
          break;
        case WeightFormat::f32:
          bound += x * w * 0x1p-24L;
          break;
        case WeightFormat::bf16:
          bound += x * w * (0x1p-8L + 0x1p-24L);
          break;
        case WeightFormat::f16:
          bound += x * (std::max(w, 0x1p-14L) * 0x1p-11L + w * 0x1p-24L);
          break;
        case WeightFormat::int8:
          bound += x * max_w / 254 + max_x * 0x1p-16L * (w + max_w / 254);
          break;
      }
    }
  }
  return bound;
}

template <class T, class TOut>
void expect_within_format(const LinearProblem<T, TOut>& p, WeightFormat format) {
  // 8-bit weights are summed in float whatever T is.
  const double sums = std::is_same<T, double>::value && format != WeightFormat::int8
                          ? accum_tolerance<double>(Op::linear)
                          : accum_tolerance<float>(Op::linear);
  const long double rounding = std::is_same<T, TOut>::value ? unit_roundoff<T>() : 0;
  ErrorMeter error(underflow<TOut>());
  for (index_t b = 0; b < p.c.batch; ++b) {
    for (index_t t = 0; t < p.c.length; ++t) {
      for (index_t o = 0; o < p.c.out; ++o) {
        const auto sum = p.wanted(b, t, o);
        const long double bound = format_bound(p, format, b, t, o);
        error.add(to_real(p.y(b, t, o)), sum.value,
                  bound + (sum.scale + bound) * (sums + rounding));
      }
    }
  }
  EXPECT_LE(error.worst(), 1) << error;
}

template <class T>
class LinearFormats : public testing::Test {};
struct Names {
  template <class T>
  static std::string GetName(int) {
    return type_name<T>();
  }
};
using StoredTypes = testing::Types<float, double, ssm::bf16, ssm::f16>;
TYPED_TEST_SUITE(LinearFormats, StoredTypes, Names);

TYPED_TEST(LinearFormats, AreWithinTheirRounding) {
  std::vector<LinearCase> cases;
  for (index_t size = 1; size <= 70; ++size) {
    LinearCase c;
    c.batch = 1 + size % 2;
    c.in = size;
    c.out = 71 - size;
    c.length = 1 + size % 5;
    cases.push_back(c);
  }
  for (const index_t in : {127, 128, 129, 255, 256, 257, 511, 512, 513, 600}) {
    LinearCase c;
    c.in = in;
    cases.push_back(c);
  }
  // One, two and four panels a group, the last group short, two blocks of inputs or more.
  for (const index_t out : {255, 256, 257, 511, 513, 1025}) {
    LinearCase c;
    c.batch = 1;
    c.length = 2;
    c.in = 530;
    c.out = out;
    cases.push_back(c);
  }
  // Several tasks of rows and of panels.
  for (const index_t out : {45, 530}) {
    LinearCase c;
    c.length = 61;
    c.in = 65;
    c.out = out;
    cases.push_back(c);
  }
  for (const WeightFormat format : kFormats) {
    for (const LinearCase& c : cases) {
      SCOPED_TRACE(testing::Message() << format_name(format) << " " << c);
      const LinearProblem<TypeParam, TypeParam> p(c);
      multiply(ssm::Cpu{}, p, format);
      expect_within_format(p, format);
      if (this->HasFailure()) return;
    }
  }
}

TYPED_TEST(LinearFormats, LogitsInFloat) {
  for (const WeightFormat format : kFormats) {
    SCOPED_TRACE(format_name(format));
    const LinearProblem<TypeParam, ssm::accum_t<TypeParam>> p(LinearCase{});
    multiply(ssm::Cpu{}, p, format);
    expect_within_format(p, format);
  }
}

// One token alone gives the bits that it gives among any number of others.
TYPED_TEST(LinearFormats, ARowDoesNotDependOnTheNumberOfRows) {
  for (const WeightFormat format : kFormats) {
    LinearCase c;
    c.batch = 1;
    c.in = 300;
    c.out = 45;
    c.length = 130;
    const LinearProblem<TypeParam, TypeParam> all(c);
    multiply(ssm::Cpu{}, all, format);
    for (index_t rows = 1; rows <= 70; ++rows) {
      SCOPED_TRACE(testing::Message() << format_name(format) << " rows " << rows);
      const index_t first = rows % 60;
      const Tensor<TypeParam, 3> y({1, rows, c.out});
      ssm::LinearArgs<TypeParam> a = all.args();
      const Packed<TypeParam> packed(ssm::Cpu{}, a.weight, format);
      a.packed = packed.weight();
      a.x = a.x.slice(1, first, rows);
      a.y = y.view();
      ASSERT_TRUE(linear(ssm::Cpu{}, a).is_ok());
      for (index_t t = 0; t < rows; ++t) {
        for (index_t o = 0; o < c.out; ++o) {
          ASSERT_TRUE(same_bits<TypeParam>(y(0, t, o), all.y(0, first + t, o))) << t << " " << o;
        }
      }
      EXPECT_TRUE(y.guards_intact());
    }
  }
}

TYPED_TEST(LinearFormats, ThreadsDoNotChangeABit) {
  for (const WeightFormat format : kFormats) {
    for (const index_t length : {1, 7, 100}) {
      SCOPED_TRACE(testing::Message() << format_name(format) << " length " << length);
      LinearCase c;
      c.batch = 1;
      c.length = length;
      c.in = 513;
      c.out = 530;
      const LinearProblem<TypeParam, TypeParam> serial(c);
      multiply(ssm::Cpu{}, serial, format);
      for (const int threads : {2, 3, 5}) {
        ssm::ThreadPool pool(threads);
        const LinearProblem<TypeParam, TypeParam> p(c);
        multiply(ssm::Cpu{pool.parallel()}, p, format);
        EXPECT_EQ(p.y.snapshot(), serial.y.snapshot()) << threads;
      }
    }
  }
}

TYPED_TEST(LinearFormats, NothingIsAllocated) {
  ssm::ThreadPool pool(2);
  for (const WeightFormat format : kFormats) {
    for (const index_t length : {1, 60}) {
      LinearCase c;
      c.length = length;
      c.in = 300;
      c.out = 130;
      const LinearProblem<TypeParam, TypeParam> p(c);
      ssm::LinearArgs<TypeParam> a = p.args();
      const Packed<TypeParam> packed(ssm::Cpu{}, a.weight, format);
      for (const ssm::Cpu& backend : {ssm::Cpu{}, ssm::Cpu{pool.parallel()}}) {
        for (const ssm::PackedWeight& weight : {packed.weight(), ssm::PackedWeight()}) {
          a.packed = weight;
          const AllocationCounter allocations;
          const ssm::Status status = linear(backend, a);
          EXPECT_EQ(allocations.count(), 0);
          EXPECT_TRUE(status.is_ok());
        }
      }
    }
  }
}

TYPED_TEST(LinearFormats, WithoutPackingTheBitsAreThoseOfNative) {
  for (const Layout layout : kAllLayouts) {
    for (const index_t length : {1, 29}) {
      LinearCase c;
      c.layout = layout;
      c.in = 300;
      c.out = 70;
      c.length = length;
      const LinearProblem<TypeParam, TypeParam> packed(c);
      const LinearProblem<TypeParam, TypeParam> direct(c);
      multiply(ssm::Cpu{}, packed, WeightFormat::native);
      ASSERT_TRUE(linear(ssm::Cpu{}, direct.args()).is_ok());
      EXPECT_EQ(packed.y.snapshot(), direct.y.snapshot());
    }
  }
}

TYPED_TEST(LinearFormats, AnyAlignmentOfTheMemory) {
  for (const WeightFormat format : kFormats) {
    for (const index_t offset : {1, 3, 31, 63}) {
      const LinearProblem<TypeParam, TypeParam> p(LinearCase{});
      ssm::LinearArgs<TypeParam> a = p.args();
      const Packed<TypeParam> packed(ssm::Cpu{}, a.weight, format, offset);
      a.packed = packed.weight();
      ASSERT_TRUE(linear(ssm::Cpu{}, a).is_ok());
      expect_within_format(p, format);
    }
  }
}

TYPED_TEST(LinearFormats, AnArenaThatIsTooSmallIsNotWritten) {
  for (const WeightFormat format : kFormats) {
    const LinearProblem<TypeParam, TypeParam> p(LinearCase{});
    ssm::Arena counter;
    pack_linear(ssm::Cpu{}, p.args().weight, format, counter);
    const Tensor<unsigned char, 1> memory({static_cast<index_t>(counter.bytes_needed())});
    ssm::Arena arena(memory.view().data(), counter.used() - 1);
    EXPECT_EQ(pack_linear(ssm::Cpu{}, p.args().weight, format, arena).data, nullptr);
    EXPECT_EQ(arena.status("pack_linear").code(), ssm::ErrorCode::workspace_too_small);
    EXPECT_TRUE(memory.untouched());
  }
}

TYPED_TEST(LinearFormats, NothingToPack) {
  for (const WeightFormat format : kFormats) {
    for (index_t LinearCase::*const extent : {&LinearCase::in, &LinearCase::out}) {
      LinearCase c;
      c.*extent = 0;
      const LinearProblem<TypeParam, TypeParam> p(c);
      multiply(ssm::Cpu{}, p, format);
      expect_within_format(p, format);
    }
  }
}

// Not a number in, not a number out, and nowhere else.
TYPED_TEST(LinearFormats, NonFiniteValuesSurvive) {
  using T = TypeParam;
  for (const WeightFormat format : kFormats) {
    for (const double bad : {std::numeric_limits<double>::infinity(),
                             -std::numeric_limits<double>::infinity(), std::nan("")}) {
      SCOPED_TRACE(testing::Message() << format_name(format) << " " << bad);
      LinearCase c;
      c.in = 200;
      const LinearProblem<T, T> p(c);
      p.x(0, 2, 150) = Tensor<T, 1>::from_double(bad);
      p.weight(11, 40) = Tensor<T, 1>::from_double(bad);
      multiply(ssm::Cpu{}, p, format);
      for (index_t b = 0; b < c.batch; ++b) {
        for (index_t t = 0; t < c.length; ++t) {
          for (index_t o = 0; o < c.out; ++o) {
            const bool touched = (b == 0 && t == 2) || o == 11;
            EXPECT_EQ(!std::isfinite(to_real(p.y(b, t, o))), touched) << b << " " << t << " " << o;
          }
        }
      }
    }
  }
}

// Weights that are integers up to 127 and activations up to 32767, each reached in every block of
// 64, have scales of one: nothing is rounded anywhere.
TEST(LinearInt8, IntegersAreExact) {
  for (const index_t in : {1, 2, 63, 64, 65, 130, 300}) {
    LinearCase c;
    c.in = in;
    const LinearProblem<float, float> p(c);
    Random random(3);
    p.x.fill_integers(random, -8, 8);
    p.weight.fill_integers(random, -4, 4);
    p.bias.fill_integers(random, -4, 4);
    for (index_t i = 0; i < in; i += 64) {
      for (index_t o = 0; o < c.out; ++o) p.weight(o, i) = o % 2 == 0 ? 127.0f : -127.0f;
      const index_t other = i + 1 < in ? i + 1 : i;  // away from the 127, to stay below 2^24
      for (index_t b = 0; b < c.batch; ++b) {
        for (index_t t = 0; t < c.length; ++t) p.x(b, t, other) = 32767.0f;
      }
    }
    multiply(ssm::Cpu{}, p, WeightFormat::int8);
    for (index_t b = 0; b < c.batch; ++b) {
      for (index_t t = 0; t < c.length; ++t) {
        for (index_t o = 0; o < c.out; ++o) {
          ASSERT_EQ(to_real(p.y(b, t, o)), p.wanted(b, t, o).value) << in << " " << o;
        }
      }
    }
  }
}

// The largest sums of integers that a block can hold.
TEST(LinearInt8, TheLargestIntegersDoNotOverflow) {
  LinearCase c;
  c.in = 256;
  const LinearProblem<float, float> p(c);
  p.x.fill(-3.0);
  p.weight.fill(5.0);
  multiply(ssm::Cpu{}, p, WeightFormat::int8);
  expect_within_format(p, WeightFormat::int8);
}

TEST(LinearInt8, TinyAndHugeBlocks) {
  for (const double magnitude : {1e-37, 1e-30, 1e-20, 1e15}) {
    LinearCase c;
    c.in = 130;
    c.bias = false;
    const LinearProblem<float, float> p(c);
    Random random(4);
    p.x.fill(random, -magnitude, magnitude);
    multiply(ssm::Cpu{}, p, WeightFormat::int8);
    for (index_t o = 0; o < c.out; ++o) {
      const auto sum = p.wanted(0, 0, o);
      const long double allowed =
          format_bound(p, WeightFormat::int8, 0, 0, o) + 1e-5L * sum.scale + 1.3e-28L;
      EXPECT_LE(std::abs(to_real(p.y(0, 0, o)) - sum.value), allowed) << magnitude << " " << o;
    }
  }
}

TEST(Linear, ManyInputs) {
  LinearCase c;
  c.batch = 1;
  c.length = 2;
  c.in = 200003;
  c.out = 3;
  for (const WeightFormat format : kFormats) {
    SCOPED_TRACE(format_name(format));
    const LinearProblem<float, float> p(c);
    multiply(ssm::Cpu{}, p, format);
    expect_within_format(p, format);
  }
}

}  // namespace
}  // namespace ssm_test
