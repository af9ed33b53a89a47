#include <gtest/gtest.h>

#include <cmath>
#include <complex>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "io/scratch_directory.hpp"
#include "ssm/io/safetensors.hpp"
#include "support/random.hpp"
#include "support/tensor.hpp"

// What the tensors of a good file become: views, copies, conversions.

namespace {

namespace io = ssm::io;
using io::ErrorCode;
using ssm::bf16;
using ssm::f16;
using ssm::index_t;
using ssm_test::Layout;
using ssm_test::safetensors_bytes;
using ssm_test::Tensor;

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  std::string out(values.size() * sizeof(T), '\0');
  std::memcpy(out.data(), values.data(), out.size());
  return out;
}

// An open file in memory with one tensor 'x' after `skip` bytes that make it misaligned.
class OneTensor {
 public:
  OneTensor(const std::string& dtype, const std::string& shape, const std::string& data,
            std::size_t skip = 0) {
    const std::string begin = std::to_string(skip);
    const std::string end = std::to_string(skip + data.size());
    std::string header = R"({"pad":{"dtype":"U8","shape":[)" + begin + R"(],"data_offsets":[0,)" +
                         begin + R"(]},"x":{"dtype":")" + dtype + R"(","shape":)" + shape +
                         R"(,"data_offsets":[)" + begin + "," + end + "]}}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    const std::string all = safetensors_bytes(header, std::string(skip, 'p') + data);
    bytes_.resize((all.size() + 7) / 8);
    std::memcpy(bytes_.data(), all.data(), all.size());
    const io::Result result =
        io::SafetensorsFile::from_memory(bytes_.data(), all.size(), &file, "test");
    EXPECT_TRUE(result) << result.message();
  }
  io::SafetensorsFile file;

 private:
  std::vector<std::uint64_t> bytes_;
};

void expect_failure(const io::Result& result, ErrorCode code, const char* part) {
  EXPECT_EQ(result.code(), code) << result.message();
  EXPECT_NE(result.message().find(part), std::string::npos) << result.message();
}

// One dtype: zero-copy view, same values by copy, the wrong view refused.
template <class T>
void check_dtype(const char* name, io::Dtype dtype, const std::vector<T>& values) {
  SCOPED_TRACE(name);
  ASSERT_EQ(values.size(), 4u);
  const OneTensor one(name, "[2,2]", bytes_of(values));
  const io::TensorInfo* info = one.file.find("x");
  ASSERT_NE(info, nullptr);
  EXPECT_EQ(info->dtype, dtype);
  EXPECT_STREQ(io::dtype_name(dtype), name);
  EXPECT_EQ(io::dtype_size(dtype), static_cast<index_t>(sizeof(T)));
  EXPECT_EQ(info->bytes, 4 * sizeof(T));
  EXPECT_EQ(info->elements, 4);
  EXPECT_EQ(info->shape, (std::vector<index_t>{2, 2}));

  ssm::View<const T, 2> view;
  const io::Result result = one.file.view("x", &view);
  ASSERT_TRUE(result) << result.message();
  EXPECT_EQ(static_cast<const void*>(view.data()), static_cast<const void*>(info->data));
  EXPECT_EQ(std::memcmp(view.data(), values.data(), 4 * sizeof(T)), 0);

  Tensor<T, 2> copy({2, 2}, Layout::reversed);
  ASSERT_TRUE(one.file.copy_to("x", copy.view()));
  EXPECT_TRUE(copy.guards_intact());
  EXPECT_EQ(bytes_of(copy.values()), bytes_of(values));

  ssm::View<const T, 1> flat;
  expect_failure(one.file.view("x", &flat), ErrorCode::shape_mismatch,
                 "has shape [2, 2], must have rank 1");
  EXPECT_FALSE(flat.present());
}

TEST(Read, EveryDtype) {
  using F = std::numeric_limits<float>;
  check_dtype<double>("F64", io::Dtype::f64, {1.5, -0.0, 1e300, 5e-324});
  check_dtype<float>("F32", io::Dtype::f32, {1.5f, F::quiet_NaN(), F::infinity(), F::denorm_min()});
  check_dtype<f16>("F16", io::Dtype::f16, {f16(1.5f), f16(-0.0f), f16(65504.0f), f16(6e-8f)});
  check_dtype<bf16>("BF16", io::Dtype::bf16, {bf16(1.5f), bf16(-0.0f), bf16(3e38f), bf16(1e-40f)});
  check_dtype<std::int64_t>("I64", io::Dtype::i64, {INT64_MIN, INT64_MAX, 0, -1});
  check_dtype<std::int32_t>("I32", io::Dtype::i32, {INT32_MIN, INT32_MAX, 0, -1});
  check_dtype<std::int16_t>("I16", io::Dtype::i16, {INT16_MIN, INT16_MAX, 0, -1});
  check_dtype<std::int8_t>("I8", io::Dtype::i8, {INT8_MIN, INT8_MAX, 0, -1});
  check_dtype<std::uint64_t>("U64", io::Dtype::u64, {UINT64_MAX, 1, 0, 2});
  check_dtype<std::uint32_t>("U32", io::Dtype::u32, {UINT32_MAX, 1, 0, 2});
  check_dtype<std::uint16_t>("U16", io::Dtype::u16, {UINT16_MAX, 1, 0, 2});
  check_dtype<std::uint8_t>("U8", io::Dtype::u8, {UINT8_MAX, 1, 0, 2});
  check_dtype<std::uint8_t>("BOOL", io::Dtype::boolean, {1, 0, 0, 1});
}

TEST(Read, ViewsRefuseOtherDtypes) {
  const OneTensor one("F32", "[2]", bytes_of(std::vector<float>{1, 2}));
  ssm::View<const double, 1> as_double;
  expect_failure(one.file.view("x", &as_double), ErrorCode::dtype_mismatch,
                 "has dtype F32, must be F64");
  ssm::View<const std::int32_t, 1> as_int;
  expect_failure(one.file.view("x", &as_int), ErrorCode::dtype_mismatch,
                 "has dtype F32, must be I32");
  ssm::View<const float, 1> missing;
  expect_failure(one.file.view("y", &missing), ErrorCode::missing, "no tensor 'y' among its 2");
  EXPECT_FALSE(missing.present());
}

TEST(Read, MisalignedTensorsAreCopiedNotViewed) {
  const std::vector<double> values{1.25, -2.5, 1e-300};
  for (std::size_t skip = 1; skip < 8; ++skip) {
    const OneTensor one("F64", "[3]", bytes_of(values), skip);
    ssm::View<const double, 1> view;
    expect_failure(one.file.view("x", &view), ErrorCode::misaligned,
                   "bytes past a multiple of 8, so that it cannot be viewed in place");
    EXPECT_FALSE(view.present());
    Tensor<double, 1> copy({3});
    ASSERT_TRUE(one.file.copy_to("x", copy.view()));
    EXPECT_EQ(copy.values(), values);
  }
  // An odd offset is right for bytes.
  const OneTensor bytes("U8", "[3]", "abc", 1);
  ssm::View<const std::uint8_t, 1> view;
  ASSERT_TRUE(bytes.file.view("x", &view));
  EXPECT_EQ(view(2), 'c');
}

TEST(Read, Scalars) {
  const OneTensor one("F32", "[]", bytes_of(std::vector<float>{2.5f}));
  EXPECT_TRUE(one.file.find("x")->shape.empty());
  EXPECT_EQ(one.file.find("x")->elements, 1);
  ssm::View<const float, 1> view;
  ASSERT_TRUE(one.file.view("x", &view));
  EXPECT_EQ(view.extent(0), 1);
  EXPECT_EQ(view(0), 2.5f);
  ssm::View<const float, 2> matrix;
  expect_failure(one.file.view("x", &matrix), ErrorCode::shape_mismatch, "has shape []");
  Tensor<double, 1> copy({1});
  ASSERT_TRUE(one.file.copy_to("x", copy.view()));
  EXPECT_EQ(copy(0), 2.5);
  Tensor<double, 1> two({2});
  expect_failure(one.file.copy_to("x", two.view()), ErrorCode::shape_mismatch,
                 "has shape [], must be [2]");
  EXPECT_TRUE(two.untouched());
}

TEST(Read, EmptyTensorsAndEmptyFiles) {
  const OneTensor one("F32", "[3,0,2]", "", 3);  // at an address no float can have
  EXPECT_EQ(one.file.find("x")->elements, 0);
  ssm::View<const float, 3> view;
  ASSERT_TRUE(one.file.view("x", &view));
  EXPECT_EQ(view.extent(0), 3);
  EXPECT_EQ(view.extent(1), 0);
  EXPECT_EQ(view.size(), 0);
  ASSERT_TRUE(one.file.copy_to("x", ssm::View<bf16, 3>(nullptr, {3, 0, 2})));

  const std::string empty = safetensors_bytes("{}      ", "");
  io::SafetensorsFile file;
  ASSERT_TRUE(io::SafetensorsFile::from_memory(empty.data(), empty.size(), &file));
  EXPECT_TRUE(file.tensors().empty());
  EXPECT_TRUE(file.metadata().empty());
}

TEST(Read, MetadataAndNamesOfAnyUtf8) {
  const std::string bytes = safetensors_bytes(
      R"({"__metadata__":{"format":"pt","Δ":"\u00e9\n"},"":{"dtype":"U8","shape":[1],)"
      R"("data_offsets":[1,2]},"β/\"0\"":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}   )",
      "ab");
  io::SafetensorsFile file;
  const io::Result result = io::SafetensorsFile::from_memory(bytes.data(), bytes.size(), &file);
  ASSERT_TRUE(result) << result.message();
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.metadata().at("Δ"), "é\n");
  ASSERT_NE(file.find(""), nullptr);
  EXPECT_EQ(*file.find("")->data, 'b');
  ASSERT_NE(file.find("β/\"0\""), nullptr);
  EXPECT_EQ(*file.find("β/\"0\"")->data, 'a');
}

TEST(Read, TheMappingMovesWithTheFile) {
  const ssm_test::ScratchDirectory scratch;
  const std::string path = (scratch / "a.safetensors").string();
  ssm_test::write_bytes(
      path, safetensors_bytes(R"({"x":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", "abc"));
  io::SafetensorsFile second;
  ssm::View<const std::uint8_t, 1> view;
  {
    io::SafetensorsFile first;
    ASSERT_TRUE(io::SafetensorsFile::open(path, &first));
    ASSERT_TRUE(first.view("x", &view));
    second = std::move(first);
  }
  std::filesystem::remove(path);
  EXPECT_EQ(view(2), 'c');
  EXPECT_EQ(second.name(), path);
  ASSERT_NE(second.find("x"), nullptr);
}

// Copies into every layout, with the guards and gaps around the elements untouched.
TEST(Copy, HonoursStrides) {
  std::vector<float> values(2 * 3 * 4);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i) - 11.5f;
  const OneTensor one("F32", "[2,3,4]", bytes_of(values));
  for (const Layout layout : ssm_test::kAllLayouts) {
    Tensor<double, 3> copy({2, 3, 4}, layout);
    ASSERT_TRUE(one.file.copy_to("x", copy.view()));
    EXPECT_TRUE(copy.guards_intact());
    for (index_t i = 0; i < 2; ++i) {
      for (index_t j = 0; j < 3; ++j) {
        for (index_t k = 0; k < 4; ++k) {
          EXPECT_EQ(copy(i, j, k), static_cast<double>((i * 3 + j) * 4 + k) - 11.5);
        }
      }
    }
  }
}

TEST(Copy, RefusesOtherShapesAndNull) {
  const OneTensor one("F32", "[2,3]", bytes_of(std::vector<float>(6)));
  Tensor<float, 2> transposed({3, 2});
  expect_failure(one.file.copy_to("x", transposed.view()), ErrorCode::shape_mismatch,
                 "has shape [2, 3], must be [3, 2]");
  Tensor<float, 1> flat({6});
  expect_failure(one.file.copy_to("x", flat.view()), ErrorCode::shape_mismatch, "must be [6]");
  EXPECT_TRUE(transposed.untouched());
  EXPECT_TRUE(flat.untouched());
  expect_failure(one.file.copy_to("x", ssm::View<float, 2>(nullptr, {2, 3})),
                 ErrorCode::invalid_argument, "null destination");
  expect_failure(one.file.copy_to("y", flat.view()), ErrorCode::missing, "no tensor 'y'");
}

TEST(Copy, IntegersMustFit) {
  const std::vector<std::int64_t> values{0, 127, -128, 128};
  const OneTensor one("I64", "[4]", bytes_of(values));
  Tensor<std::int8_t, 1> small({4});
  expect_failure(one.file.copy_to("x", small.view()), ErrorCode::value_out_of_range,
                 "holds 128 at element 3, must be in [-128, 127]");
  EXPECT_TRUE(small.untouched());
  Tensor<std::uint64_t, 1> positive({4});
  expect_failure(one.file.copy_to("x", positive.view()), ErrorCode::value_out_of_range,
                 "holds -128 at element 2, must be in [0, 18446744073709551615]");
  EXPECT_TRUE(positive.untouched());
  Tensor<std::int16_t, 1> enough({4});
  ASSERT_TRUE(one.file.copy_to("x", enough.view()));
  EXPECT_EQ(enough.values(), (std::vector<std::int16_t>{0, 127, -128, 128}));

  const OneTensor large("U64", "[1]", bytes_of(std::vector<std::uint64_t>{1ull << 63}));
  Tensor<std::int64_t, 1> sixty_three({1});
  expect_failure(large.file.copy_to("x", sixty_three.view()), ErrorCode::value_out_of_range,
                 "holds 9223372036854775808");
  Tensor<double, 1> floating({1});
  ASSERT_TRUE(large.file.copy_to("x", floating.view()));
  EXPECT_EQ(floating(0), 9223372036854775808.0);
}

TEST(Copy, FractionsDoNotBecomeIntegers) {
  const OneTensor one("F32", "[2]", bytes_of(std::vector<float>{1, 2}));
  Tensor<std::int32_t, 1> ints({2});
  expect_failure(one.file.copy_to("x", ints.view()), ErrorCode::dtype_mismatch,
                 "has dtype F32, which does not convert to the integers wanted");
  EXPECT_TRUE(ints.untouched());
}

TEST(Copy, BooleansAreZeroAndOne) {
  const OneTensor one("BOOL", "[3]", std::string("\0\1\2", 3));
  Tensor<float, 1> floats({3});
  Tensor<std::int32_t, 1> ints({3});
  ASSERT_TRUE(one.file.copy_to("x", floats.view()));
  ASSERT_TRUE(one.file.copy_to("x", ints.view()));
  EXPECT_EQ(floats.values(), (std::vector<float>{0, 1, 1}));
  EXPECT_EQ(ints.values(), (std::vector<std::int32_t>{0, 1, 1}));
}

// Every value of a two-byte type, widened, against the definition of its bits.
template <class T>
long double from_bits(unsigned bits, int exponent_bits, int mantissa_bits) {
  const int exponent = static_cast<int>(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
  const unsigned mantissa = bits & ((1u << mantissa_bits) - 1);
  const int bias = (1 << (exponent_bits - 1)) - 1;
  const long double sign = (bits >> 15) != 0 ? -1 : 1;
  if (exponent == (1 << exponent_bits) - 1) {
    return mantissa == 0 ? sign * std::numeric_limits<long double>::infinity()
                         : std::numeric_limits<long double>::quiet_NaN();
  }
  const long double fraction = std::ldexp(static_cast<long double>(mantissa), -mantissa_bits);
  return exponent == 0 ? sign * std::ldexp(fraction, 1 - bias)
                       : sign * std::ldexp(1 + fraction, exponent - bias);
}

template <class T, class Wide>
void check_widening(const char* dtype, int exponent_bits, int mantissa_bits) {
  std::vector<std::uint16_t> bits(65536);
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::uint16_t>(i);
  const OneTensor one(dtype, "[65536]", bytes_of(bits));
  Tensor<Wide, 1> wide({65536});
  ASSERT_TRUE(one.file.copy_to("x", wide.view()));
  for (unsigned i = 0; i < 65536; ++i) {
    const long double wanted = from_bits<T>(i, exponent_bits, mantissa_bits);
    const auto found = static_cast<long double>(wide(i));
    ASSERT_TRUE(found == wanted || (found != found && wanted != wanted)) << i;
    ASSERT_EQ(std::signbit(found), (i >> 15) != 0) << i;
  }
}

TEST(Copy, HalvesWidenExactly) {
  check_widening<f16, float>("F16", 5, 10);
  check_widening<f16, double>("F16", 5, 10);
  check_widening<bf16, float>("BF16", 8, 7);
  check_widening<bf16, double>("BF16", 8, 7);
}

// The finite two-byte value nearest to `value`, ties to even, infinity where that rounds to:
// found by trying all of them.
template <class T>
unsigned nearest_bits(long double value, int exponent_bits, int mantissa_bits) {
  const unsigned infinity = ((1u << exponent_bits) - 1) << mantissa_bits;
  const unsigned sign = std::signbit(value) ? 0x8000u : 0u;
  const long double magnitude = std::abs(value);
  // Where the next value after the largest would lie, were the exponents to go on.
  const long double beyond =
      2 * from_bits<T>(infinity - (1u << mantissa_bits), exponent_bits, mantissa_bits);
  unsigned low = 0, high = infinity;  // low <= magnitude < high
  const auto at = [&](unsigned bits) {
    return bits == infinity ? beyond : from_bits<T>(bits, exponent_bits, mantissa_bits);
  };
  if (magnitude >= beyond) return sign | infinity;
  while (high - low > 1) {
    const unsigned middle = (low + high) / 2;
    (at(middle) <= magnitude ? low : high) = middle;
  }
  const long double below = magnitude - at(low);
  const long double above = at(high) - magnitude;
  const bool up = above < below || (above == below && (low & 1u) != 0);
  return sign | (up ? high : low);
}

// Long double holds a double or a 64-bit integer exactly where it has 64 bits of significand.
constexpr bool kWideOracle = std::numeric_limits<long double>::digits >= 64;

template <class T, class S>
void check_narrowing(const char* dtype, const std::vector<S>& values, int exponent_bits,
                     int mantissa_bits) {
  const auto count = static_cast<index_t>(values.size());
  const OneTensor one(dtype, "[" + std::to_string(count) + "]", bytes_of(values));
  Tensor<T, 1> narrow({count});
  ASSERT_TRUE(one.file.copy_to("x", narrow.view()));
  for (index_t i = 0; i < count; ++i) {
    const auto value = static_cast<long double>(values[static_cast<std::size_t>(i)]);
    ASSERT_EQ(narrow(i).bits, nearest_bits<T>(value, exponent_bits, mantissa_bits))
        << dtype << " " << static_cast<double>(value);
  }
}

// Midpoints of neighbouring two-byte values, and the smallest steps to both sides of them: what
// rounding twice, through float, gets wrong.
template <class T>
std::vector<double> hard_doubles(int exponent_bits, int mantissa_bits) {
  std::vector<double> out{0.0,
                          -0.0,
                          1e-320,
                          -1e300,
                          1e300,
                          std::numeric_limits<double>::max(),
                          std::numeric_limits<double>::min()};
  const unsigned infinity = ((1u << exponent_bits) - 1) << mantissa_bits;
  for (unsigned bits = 0; bits + 1 < infinity; bits += 7) {
    const auto a = static_cast<double>(from_bits<T>(bits, exponent_bits, mantissa_bits));
    const auto b = static_cast<double>(from_bits<T>(bits + 1, exponent_bits, mantissa_bits));
    const double middle = a / 2 + b / 2;
    for (const double value : {a, middle, std::nextafter(middle, 0.0),
                               std::nextafter(middle, 1e308), middle * (1 + 1e-10)}) {
      out.push_back(value);
      out.push_back(-value);
    }
  }
  return out;
}

TEST(Copy, DoublesNarrowWithOneRounding) {
  if (!kWideOracle) GTEST_SKIP() << "long double has no more digits than double here";
  check_narrowing<bf16>("F64", hard_doubles<bf16>(8, 7), 8, 7);
  check_narrowing<f16>("F64", hard_doubles<f16>(5, 10), 5, 10);
  // The plainest of them: rounded to float first, this is a tie and goes down.
  const OneTensor one("F64", "[1]",
                      bytes_of(std::vector<double>{1 + std::ldexp(1, -8) + std::ldexp(1, -40)}));
  Tensor<bf16, 1> out({1});
  ASSERT_TRUE(one.file.copy_to("x", out.view()));
  EXPECT_EQ(static_cast<float>(out(0)), 1 + std::ldexp(1.0f, -7));
}

TEST(Copy, FloatsNarrowWithOneRounding) {
  std::vector<float> floats;
  for (const double value : hard_doubles<bf16>(8, 7)) floats.push_back(static_cast<float>(value));
  check_narrowing<bf16>("F32", floats, 8, 7);
  check_narrowing<f16>("F32", floats, 5, 10);
  const OneTensor one("F32", "[1]", bytes_of(std::vector<float>{std::nanf("")}));
  Tensor<f16, 1> out({1});
  out.fill(0);
  ASSERT_TRUE(one.file.copy_to("x", out.view()));
  EXPECT_TRUE(std::isnan(static_cast<float>(out(0))));
}

TEST(Copy, IntegersNarrowWithOneRounding) {
  if (!kWideOracle) GTEST_SKIP() << "long double has no more digits than double here";
  std::vector<std::int64_t> values{0, 1, -1, 255, 257, 65519, 65520, INT64_MIN, INT64_MAX};
  for (int shift = 8; shift < 62; ++shift) {  // midpoints of bf16, one to each side
    const std::int64_t middle = (std::int64_t{3} << shift) / 2 + (std::int64_t{1} << (shift - 8));
    for (const std::int64_t step : {-1, 0, 1}) {
      values.push_back(middle + step);
      values.push_back(-middle - step);
    }
  }
  check_narrowing<bf16>("I64", values, 8, 7);
  check_narrowing<f16>("I64", values, 5, 10);
  check_narrowing<bf16>("U64", std::vector<std::uint64_t>{UINT64_MAX, (1ull << 63) + 1, 5}, 8, 7);
}

TEST(Copy, DoubleToFloatIsTheMachinesRounding) {
  ssm_test::Random random(7);
  std::vector<double> values;
  for (int i = 0; i < 1000; ++i) values.push_back(random.uniform(-3, 3));
  const OneTensor one("F64", "[1000]", bytes_of(values));
  Tensor<float, 1> out({1000});
  ASSERT_TRUE(one.file.copy_to("x", out.view()));
  for (index_t i = 0; i < 1000; ++i) {
    EXPECT_EQ(out(i), static_cast<float>(values[static_cast<std::size_t>(i)]));
  }
}

}  // namespace
