#include <gtest/gtest.h>

#include <cstring>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "io/scratch_directory.hpp"
#include "ssm/io/safetensors.hpp"
#include "support/tensor.hpp"

// Files that are not what the format promises: each gets the error of its own, and neither a crash
// nor a part of the file.

namespace {

namespace io = ssm::io;
using io::ErrorCode;
using ssm_test::safetensors_bytes;

// In an allocation of exactly the file's size, so that a sanitizer sees the first byte too many.
class Exact {
 public:
  explicit Exact(const std::string& bytes) : data_(new char[bytes.size()]), size_(bytes.size()) {
    std::memcpy(data_.get(), bytes.data(), size_);
  }
  io::Result open(io::SafetensorsFile* file) const {
    return io::SafetensorsFile::from_memory(data_.get(), size_, file, "test.safetensors");
  }

 private:
  std::unique_ptr<char[]> data_;
  std::size_t size_;
};

void expect_error(const std::string& bytes, ErrorCode code,
                  std::initializer_list<const char*> parts) {
  // A file that is open stays open, untouched, when opening another fails.
  const std::string good = safetensors_bytes(
      R"({"old":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", std::string(1, '\7'));
  const Exact old(good);
  io::SafetensorsFile file;
  ASSERT_TRUE(old.open(&file));
  const io::Result result = Exact(bytes).open(&file);
  EXPECT_EQ(result.code(), code) << result.message();
  EXPECT_EQ(result.message().rfind("test.safetensors: ", 0), 0u) << result.message();
  for (const char* part : parts) {
    EXPECT_NE(result.message().find(part), std::string::npos)
        << "no \"" << part << "\" in: " << result.message();
  }
  ASSERT_EQ(file.tensors().size(), 1u);
  EXPECT_NE(file.find("old"), nullptr);
}

// A header with one tensor 'x' as written, over `data` zero bytes.
void expect_tensor_error(const std::string& tensor, std::size_t data, ErrorCode code,
                         std::initializer_list<const char*> parts) {
  expect_error(safetensors_bytes("{\"x\":" + tensor + "}", std::string(data, '\0')), code, parts);
}

TEST(BadFile, TooShortForALength) {
  expect_error("", ErrorCode::truncated, {"has 0 bytes", "at least 8"});
  expect_error(std::string(7, '\0'), ErrorCode::truncated, {"has 7 bytes"});
}

TEST(BadFile, NullData) {
  io::SafetensorsFile file;
  const io::Result result = io::SafetensorsFile::from_memory(nullptr, 8, &file);
  EXPECT_EQ(result.code(), ErrorCode::invalid_argument);
}

TEST(BadFile, HeaderLongerThanTheFile) {
  expect_error(safetensors_bytes("{}", "").substr(0, 9), ErrorCode::header_too_long,
               {"header length is 2", "at most 1"});
  expect_error(std::string(8, '\xff'), ErrorCode::header_too_long,
               {"18446744073709551615", "at most 0"});
  expect_error(std::string(7, '\0') + "\x80" + "{}", ErrorCode::header_too_long,
               {"9223372036854775808", "at most 2"});
}

TEST(BadFile, HeaderBeyondTheLimitOfTheFormat) {
  const std::string header = "{}" + std::string(io::SafetensorsFile::kMaxHeaderBytes - 1, ' ');
  expect_error(safetensors_bytes(header, ""), ErrorCode::header_too_long,
               {"100000001", "at most 100000000"});
}

TEST(BadFile, HeaderIsNotAnObject) {
  expect_error(safetensors_bytes("", ""), ErrorCode::invalid_header, {"must start with '{'"});
  expect_error(safetensors_bytes("[]", ""), ErrorCode::invalid_header, {"must start with '{'"});
  expect_error(safetensors_bytes(" {}", ""), ErrorCode::invalid_header, {"must start with '{'"});
  expect_error(safetensors_bytes("\xef\xbb\xbf{}", ""), ErrorCode::invalid_header,
               {"must start with '{'"});
}

TEST(BadFile, HeaderIsNotJson) {
  expect_error(safetensors_bytes("{", ""), ErrorCode::invalid_json, {"at byte 2"});
  expect_error(safetensors_bytes("{\"x\":", ""), ErrorCode::invalid_json, {"not valid JSON"});
  expect_error(safetensors_bytes("{} x", ""), ErrorCode::invalid_json, {"not valid JSON"});
  expect_error(safetensors_bytes("{}{}", ""), ErrorCode::invalid_json, {"not valid JSON"});
  expect_error(safetensors_bytes("{x:1}", ""), ErrorCode::invalid_json, {"not valid JSON"});
  expect_error(safetensors_bytes("{\"a\":1e999}", ""), ErrorCode::invalid_json, {"1e999"});
}

TEST(BadFile, HeaderHasANullByte) {  // which ends the text for the JSON parser
  expect_error(safetensors_bytes(std::string("{}\0{", 4), ""), ErrorCode::invalid_json,
               {"null byte"});
}

TEST(BadFile, NameIsNotUtf8) {
  for (const char* name : {"\xff", "\xc0\xaf", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82"}) {
    expect_error(safetensors_bytes(std::string("{\"") + name +
                                       R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})",
                                   ""),
                 ErrorCode::invalid_json, {"not valid JSON"});
  }
}

TEST(BadFile, WrongFormOfTheHeader) {
  const ErrorCode code = ErrorCode::invalid_header;
  expect_tensor_error("1", 0, code, {"tensor 'x'", "has 1", "an object with dtype"});
  expect_tensor_error("null", 0, code, {"has null"});
  expect_tensor_error("true", 0, code, {"has a boolean"});
  expect_tensor_error("\"F32\"", 0, code, {"has the string 'F32'"});
  expect_tensor_error("[]", 0, code, {"has an array"});
  expect_tensor_error("{}", 0, code, {"lacks the key 'dtype'"});
  expect_tensor_error(R"({"dtype":"U8"})", 0, code, {"lacks the key 'shape'"});
  expect_tensor_error(R"({"dtype":"U8","shape":[0]})", 0, code, {"lacks the key 'data_offsets'"});
  expect_tensor_error(R"({"dtype":1})", 0, code, {"has 1", "a string for dtype"});
  expect_tensor_error(R"({"dtype":["U8"]})", 0, code, {"a string for dtype"});
  expect_tensor_error(R"({"dtype":{}})", 0, code, {"a string for dtype"});
  expect_tensor_error(R"({"shape":4})", 0, code, {"an array of extents for shape"});
  expect_tensor_error(R"({"shape":[[4]]})", 0, code, {"has an array", "non-negative integer"});
  expect_tensor_error(R"({"shape":[4.0]})", 0, code, {"the number 4.0"});
  expect_tensor_error(R"({"shape":["4"]})", 0, code, {"has the string '4'"});
  expect_tensor_error(R"({"shape":[-4]})", 0, code, {"has -4", "non-negative integer"});
  expect_tensor_error(R"({"data_offsets":4})", 0, code, {"an array [begin, end]"});
  expect_tensor_error(R"({"data_offsets":[]})", 0, code, {"has 0 data_offsets"});
  expect_tensor_error(R"({"data_offsets":[4]})", 0, code, {"has 1 data_offsets"});
  expect_tensor_error(R"({"data_offsets":[0,4,8]})", 0, code, {"has 8", "two non-negative"});
  expect_tensor_error(R"({"data_offsets":[-1,4]})", 0, code, {"has -1"});
  expect_tensor_error(R"({"data_offsets":[0,1e3]})", 0, code, {"the number 1e3"});
  expect_tensor_error(R"({"data_offsets":[0,18446744073709551616]})", 0, code,
                      {"the number 18446744073709551616", "below 2^64"});
  expect_tensor_error(R"({"dtype":"U8","shape":[0],"data_offsets":[0,0],"more":1})", 0, code,
                      {"the key 'more'", "allowed are dtype, shape, data_offsets"});
}

TEST(BadFile, WrongFormOfTheMetadata) {
  const auto metadata = [](const std::string& value) {
    return safetensors_bytes("{\"__metadata__\":" + value + "}", "");
  };
  const ErrorCode code = ErrorCode::invalid_header;
  expect_error(metadata("1"), code, {"__metadata__ has 1", "an object of strings"});
  expect_error(metadata("[]"), code, {"an object of strings"});
  expect_error(metadata("{\"a\":1}"), code, {"has 1", "a string"});
  expect_error(metadata("{\"a\":{}}"), code, {"has an object", "a string"});
  expect_error(metadata("{\"a\":null}"), code, {"has null", "a string"});
  expect_error(metadata(R"({"a":"1","a":"2"})"), ErrorCode::duplicate_name,
               {"__metadata__", "'a' twice"});
}

TEST(BadFile, DuplicateNames) {
  const std::string u8 = R"({"dtype":"U8","shape":[1],"data_offsets":[0,1]})";
  expect_error(safetensors_bytes("{\"x\":" + u8 + ",\"x\":" + u8 + "}", "0"),
               ErrorCode::duplicate_name, {"tensor 'x'", "twice"});
  expect_error(safetensors_bytes(R"({"__metadata__":{},"__metadata__":{}})", ""),
               ErrorCode::duplicate_name, {"__metadata__", "twice"});
  expect_tensor_error(R"({"dtype":"U8","dtype":"U8"})", 0, ErrorCode::duplicate_name,
                      {"tensor 'x'", "'dtype' twice"});
  // An escape is the same name.
  expect_error(safetensors_bytes("{\"x\":" + u8 + ",\"\\u0078\":" + u8 + "}", "0"),
               ErrorCode::duplicate_name, {"tensor 'x'", "twice"});
}

TEST(BadFile, UnknownDtype) {
  for (const char* dtype : {"F8_E4M3", "f32", "", "F32 ", "C64"}) {
    expect_tensor_error(std::string("{\"dtype\":\"") + dtype + "\"}", 0, ErrorCode::unknown_dtype,
                        {"tensor 'x'", dtype, "F64 F32 F16 BF16 I64", "BOOL"});
  }
}

TEST(BadFile, ShapeThatDoesNotMatchItsBytes) {
  const ErrorCode code = ErrorCode::shape_mismatch;
  expect_tensor_error(R"({"dtype":"F32","shape":[2,3],"data_offsets":[0,20]})", 20, code,
                      {"tensor 'x'", "[2, 3]", "F32", "takes 24 bytes", "span 20"});
  expect_tensor_error(R"({"dtype":"F32","shape":[2,3],"data_offsets":[0,28]})", 28, code,
                      {"takes 24 bytes", "span 28"});
  expect_tensor_error(R"({"dtype":"F32","shape":[],"data_offsets":[0,8]})", 8, code,
                      {"[]", "takes 4 bytes", "span 8"});
  expect_tensor_error(R"({"dtype":"F32","shape":[3,0],"data_offsets":[0,4]})", 4, code,
                      {"takes 0 bytes", "span 4"});
}

TEST(BadFile, ShapeWhoseProductOverflows) {
  const ErrorCode code = ErrorCode::size_overflow;
  expect_tensor_error(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", 0,
                      code, {"[4294967296, 4294967296]", "63 bits"});
  // The element count fits, its bytes do not.
  expect_tensor_error(R"({"dtype":"F64","shape":[1152921504606846976],"data_offsets":[0,0]})", 0,
                      code, {"63 bits"});
  // A zero does not hide the overflow.
  expect_tensor_error(R"({"dtype":"U8","shape":[9223372036854775807,0,2],"data_offsets":[0,0]})", 0,
                      code, {"63 bits"});
  expect_tensor_error(R"({"dtype":"U8","shape":[9223372036854775808]})", 0, code,
                      {"an extent of 9223372036854775808"});
  expect_tensor_error(R"({"dtype":"U8","shape":[18446744073709551616]})", 0,
                      ErrorCode::invalid_header, {"18446744073709551616", "below 2^63"});
}

TEST(BadFile, ReversedOffsets) {
  expect_tensor_error(R"({"dtype":"U8","shape":[4],"data_offsets":[4,0]})", 4,
                      ErrorCode::invalid_offsets, {"tensor 'x'", "[4, 0]"});
}

TEST(BadFile, OffsetsBeyondTheData) {
  expect_tensor_error(R"({"dtype":"U8","shape":[5],"data_offsets":[0,5]})", 4, ErrorCode::truncated,
                      {"tensor 'x'", "[0, 5]", "ends at 4"});
  expect_tensor_error(
      R"({"dtype":"U8","shape":[9223372036854775806],"data_offsets":[0,9223372036854775806]})", 4,
      ErrorCode::truncated, {"ends at 4"});
  expect_tensor_error(
      R"({"dtype":"U8","shape":[4],"data_offsets":[18446744073709551611,18446744073709551615]})", 4,
      ErrorCode::truncated, {"ends at 4"});
}

TEST(BadFile, OverlapsAndHoles) {
  const auto two = [](const char* a, const char* b, std::size_t data) {
    return safetensors_bytes(std::string(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)") + a +
                                 R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}",
                             std::string(data, '\0'));
  };
  const ErrorCode code = ErrorCode::invalid_offsets;
  expect_error(two("[0,4]", "[3,7]", 7), code, {"tensor 'b'", "overlaps", "'a' ends at 4"});
  expect_error(two("[0,4]", "[0,4]", 4), code, {"overlaps", "ends at 4"});
  expect_error(two("[3,7]", "[0,4]", 7), code, {"tensor 'a'", "overlaps", "'b' ends at 4"});
  expect_error(two("[0,4]", "[5,9]", 9), code, {"tensor 'b'", "hole", "'a' ends at 4"});
  expect_error(two("[1,5]", "[5,9]", 9), code, {"tensor 'a'", "hole", "data starts at 0"});
  expect_error(two("[0,4]", "[4,8]", 9), code, {"1 bytes at the end", "belong to no tensor"});
  // An empty tensor in the middle of another.
  expect_error(safetensors_bytes(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                                 R"("b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
                                 "0000"),
               code, {"tensor 'b'", "overlaps"});
}

TEST(BadFile, NestingWithoutEnd) {
  for (const char* open : {"{\"a\":", "[", "{\"a\":{\"shape\":["}) {
    std::string deep = open[0] == '{' ? "" : "{\"a\":";
    for (int i = 0; i < 1000000; ++i) deep += open;
    expect_error(safetensors_bytes(deep, ""), ErrorCode::invalid_header, {"tensor 'a'"});
  }
}

TEST(BadFile, LongAndUnprintableNamesAreCutInMessages) {
  const std::string name(100000, 'n');
  io::SafetensorsFile file;
  const io::Result result =
      Exact(safetensors_bytes("{\"" + name + "\\n\\u0007\":1}", "")).open(&file);
  EXPECT_EQ(result.code(), ErrorCode::invalid_header);
  EXPECT_LT(result.message().size(), 400u);
  expect_error(safetensors_bytes("{\"a\\n\\u0007\":1}", ""), ErrorCode::invalid_header,
               {"'a\\x0a\\x07'"});
}

TEST(BadFile, EveryTruncationIsAnError) {
  const std::string good = safetensors_bytes(
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"I64","shape":[],"data_offsets":[8,16]}})",
      std::string(16, '\1'));
  io::SafetensorsFile file;
  const Exact whole(good);
  ASSERT_TRUE(whole.open(&file));
  for (std::size_t size = 0; size < good.size(); ++size) {
    const io::Result result = Exact(good.substr(0, size)).open(&file);
    EXPECT_FALSE(result) << size;
    EXPECT_FALSE(result.message().empty());
  }
  EXPECT_EQ(file.tensors().size(), 2u);
}

// Whatever a single wrong byte makes of the header, the tensors that come out lie in the file.
TEST(BadFile, EveryWrongByteIsSurvived) {
  const std::string good = safetensors_bytes(
      R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"BF16","shape":[2,2],"data_offsets":[8,16]}})",
      std::string(16, '\1'));
  const std::string replacements("\0\x01\"{}[]:,0129-.eE \\uFUBI\x7f\x80\xff", 27);
  int accepted = 0;
  for (std::size_t at = 0; at < good.size() - 16; ++at) {
    for (const char c : replacements) {
      std::string bad = good;
      bad[at] = c;
      const Exact bytes(bad);
      io::SafetensorsFile file;
      const io::Result result = bytes.open(&file);
      if (!result) {
        EXPECT_FALSE(result.message().empty());
        EXPECT_TRUE(file.tensors().empty());
        continue;
      }
      ++accepted;
      std::size_t total = 0;
      for (const io::TensorInfo& tensor : file.tensors()) {
        total += tensor.bytes;
        std::vector<double> copy(static_cast<std::size_t>(tensor.elements));
        const ssm::View<double, 1> flat(copy.data(), {tensor.elements});
        if (tensor.shape.size() == 1) {
          EXPECT_TRUE(file.copy_to(tensor.name, flat));
        }
      }
      EXPECT_EQ(total, 16u);
    }
  }
  EXPECT_GT(accepted, 0);  // other names, other metadata, a byte replaced by itself
}

TEST(BadPath, NamesThePathAndTheReason) {
  const ssm_test::ScratchDirectory scratch;
  io::SafetensorsFile file;
  io::Result result = io::SafetensorsFile::open(scratch / "absent.safetensors", &file);
  EXPECT_EQ(result.code(), ErrorCode::cannot_open);
  EXPECT_NE(result.message().find("absent.safetensors: cannot open: "), std::string::npos);
  result = io::SafetensorsFile::open(scratch.path(), &file);
  EXPECT_EQ(result.code(), ErrorCode::cannot_open);
  EXPECT_NE(result.message().find("is not a regular file"), std::string::npos);
  ssm_test::write_bytes(scratch / "empty.safetensors", "");
  result = io::SafetensorsFile::open(scratch / "empty.safetensors", &file);
  EXPECT_EQ(result.code(), ErrorCode::truncated);
}

}  // namespace
