#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#if !defined(_WIN32)
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#endif

#include "io/scratch_directory.hpp"
#include "ssm/io/safetensors.hpp"
#include "support/tensor.hpp"

namespace {

namespace io = ssm::io;
using io::ErrorCode;
using ssm::index_t;
using ssm_test::Layout;
using ssm_test::read_bytes;
using ssm_test::ScratchDirectory;
using ssm_test::Tensor;
using ssm_test::write_bytes;

void expect_failure(const io::Result& result, ErrorCode code, const char* part) {
  EXPECT_EQ(result.code(), code) << result.message();
  EXPECT_NE(result.message().find(part), std::string::npos) << result.message();
}

TEST(Write, TheBytesOfTheFormat) {
  const ScratchDirectory scratch;
  const std::vector<float> b{1.0f, -2.0f};
  const std::vector<std::uint8_t> a{7, 8, 9};
  const double s = 0.5;
  io::SafetensorsWriter writer;
  writer.add("a", ssm::View<const std::uint8_t, 1>(a.data(), {3}));
  writer.add("b", ssm::View<const float, 2>(b.data(), {2, 1}));
  writer.add("s", ssm::View<const double, 1>(&s, {1}), {});
  writer.set_metadata("format", "x");
  writer.set_metadata("format", "pt");
  ASSERT_TRUE(writer.write(scratch / "w.safetensors"));
  // Largest elements first, so that each tensor is aligned; the header padded to eight bytes.
  std::string header =
      R"({"__metadata__":{"format":"pt"},"s":{"dtype":"F64","shape":[],"data_offsets":[0,8]},)"
      R"("b":{"dtype":"F32","shape":[2,1],"data_offsets":[8,16]},)"
      R"("a":{"dtype":"U8","shape":[3],"data_offsets":[16,19]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::string data("\0\0\0\0\0\0\xe0\x3f\0\0\x80\x3f\0\0\0\xc0\7\10\11", 19);
  EXPECT_EQ(read_bytes(scratch / "w.safetensors"), ssm_test::safetensors_bytes(header, data));
  EXPECT_EQ(scratch.names(), std::vector<std::string>{"w.safetensors"});
}

TEST(Write, TheOrderOfAddingDoesNotMatter) {
  const ScratchDirectory scratch;
  const std::vector<float> x{1, 2, 3, 4};
  const char* names[] = {"n", "a", "z", "", "a.b"};
  io::SafetensorsWriter forward, backward;
  const auto add = [&](io::SafetensorsWriter& writer, const char* name) {
    const auto size = static_cast<index_t>(1 + std::strlen(name));
    writer.add(name, ssm::View<const float, 1>(x.data(), {size}));
  };
  for (int i = 0; i < 5; ++i) {
    add(forward, names[i]);
    add(backward, names[4 - i]);
  }
  ASSERT_TRUE(forward.write(scratch / "f"));
  ASSERT_TRUE(backward.write(scratch / "b"));
  EXPECT_EQ(read_bytes(scratch / "f"), read_bytes(scratch / "b"));
}

template <class T>
void round_trip(Layout layout) {
  const ScratchDirectory scratch;
  Tensor<T, 3> x({3, 5, 7}, layout);
  T next{};
  std::size_t count = 0;
  x.for_each([&](T& v) {
    std::memset(&next, 0, sizeof(T));
    ++count;
    std::memcpy(&next, &count, sizeof(T) < sizeof(count) ? sizeof(T) : sizeof(count));
    v = next;
  });
  io::SafetensorsWriter writer;
  writer.add("x", x.view());
  writer.add("empty", ssm::View<T, 2>(nullptr, {0, 4}));
  const io::Result written = writer.write(scratch / "x");
  ASSERT_TRUE(written) << written.message();
  io::SafetensorsFile file;
  ASSERT_TRUE(io::SafetensorsFile::open(scratch / "x", &file));
  ssm::View<const T, 3> back;
  ASSERT_TRUE(file.view("x", &back));
  for (index_t i = 0; i < 3; ++i) {
    for (index_t j = 0; j < 5; ++j) {
      for (index_t k = 0; k < 7; ++k) {
        EXPECT_EQ(std::memcmp(&back(i, j, k), &x(i, j, k), sizeof(T)), 0);
      }
    }
  }
  ssm::View<const T, 2> empty;
  ASSERT_TRUE(file.view("empty", &empty));
  EXPECT_EQ(empty.extent(1), 4);
}

TEST(Write, EveryTypeAndLayoutComesBack) {
  for (const Layout layout : ssm_test::kAllLayouts) {
    round_trip<double>(layout);
    round_trip<float>(layout);
    round_trip<ssm::bf16>(layout);
    round_trip<ssm::f16>(layout);
    round_trip<std::int64_t>(layout);
    round_trip<std::int16_t>(layout);
    round_trip<std::uint8_t>(layout);
  }
}

TEST(Write, LargerThanTheBuffer) {
  const ScratchDirectory scratch;
  std::vector<float> x(300000);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  io::SafetensorsWriter writer;
  writer.add("whole", ssm::View<const float, 1>(x.data(), {300000}));
  writer.add("every third", ssm::View<const float, 1>(x.data(), {100000}, {3}));
  writer.add("rows", ssm::View<const float, 2>(x.data(), {1000, 100}, {300, 1}));
  ASSERT_TRUE(writer.write(scratch / "x"));
  io::SafetensorsFile file;
  ASSERT_TRUE(io::SafetensorsFile::open(scratch / "x", &file));
  ssm::View<const float, 1> whole, third;
  ssm::View<const float, 2> rows;
  ASSERT_TRUE(file.view("whole", &whole));
  ASSERT_TRUE(file.view("every third", &third));
  ASSERT_TRUE(file.view("rows", &rows));
  EXPECT_EQ(std::memcmp(whole.data(), x.data(), x.size() * sizeof(float)), 0);
  for (index_t i = 0; i < 100000; ++i) {
    ASSERT_EQ(third(i), static_cast<float>(3 * i));
    ASSERT_EQ(rows(i / 100, i % 100), static_cast<float>(i / 100 * 300 + i % 100));
  }
}

TEST(Write, NamesAndMetadataAreEscaped) {
  const ScratchDirectory scratch;
  const float x = 1;
  const std::string name = "quote\" back\\ newline\n bell\a del\x7f Δ 😀";
  io::SafetensorsWriter writer;
  writer.add(name, ssm::View<const float, 1>(&x, {1}));
  writer.set_metadata(name, name);
  ASSERT_TRUE(writer.write(scratch / "x"));
  io::SafetensorsFile file;
  ASSERT_TRUE(io::SafetensorsFile::open(scratch / "x", &file));
  EXPECT_NE(file.find(name), nullptr);
  EXPECT_EQ(file.metadata().at(name), name);
}

TEST(WriteError, ChecksEverythingBeforeTheFirstByte) {
  const ScratchDirectory scratch;
  const std::string path = (scratch / "x").string();
  const float x = 1;
  const ssm::View<const float, 1> one(&x, {1});
  const auto expect = [&](const io::SafetensorsWriter& writer, ErrorCode code, const char* part) {
    expect_failure(writer.write(path), code, part);
    EXPECT_TRUE(scratch.names().empty());
  };
  {
    io::SafetensorsWriter writer;
    writer.add("a", one);
    writer.add("a", one);
    expect(writer, ErrorCode::duplicate_name, "tensor 'a' has a name that is taken");
  }
  {
    io::SafetensorsWriter writer;
    writer.add("__metadata__", one);
    expect(writer, ErrorCode::duplicate_name, "'__metadata__' has a name that is taken");
  }
  {
    io::SafetensorsWriter writer;
    writer.add("\xff", one);
    expect(writer, ErrorCode::invalid_argument, "is not UTF-8");
  }
  {
    io::SafetensorsWriter writer;
    writer.set_metadata("key", "\xc3");
    expect(writer, ErrorCode::invalid_argument, "is not UTF-8");
  }
  {
    io::SafetensorsWriter writer;
    writer.add("a", ssm::View<const float, 2>(nullptr, {1, 2}));
    expect(writer, ErrorCode::invalid_argument, "tensor 'a' has null data");
  }
  {
    io::SafetensorsWriter writer;
    writer.add("a", ssm::View<const float, 2>(&x, {1, -2}));
    expect(writer, ErrorCode::size_overflow, "extents [1, -2]");
  }
  {
    io::SafetensorsWriter writer;
    writer.add("a", ssm::View<const float, 2>(&x, {index_t{1} << 40, index_t{1} << 40}));
    expect(writer, ErrorCode::size_overflow, "must fit in 63 bits");
  }
  {
    io::SafetensorsWriter writer;
    writer.add("a", ssm::View<const float, 1>(&x, {std::numeric_limits<index_t>::max() / 5}));
    writer.add("b", ssm::View<const float, 1>(&x, {std::numeric_limits<index_t>::max() / 5}));
    expect(writer, ErrorCode::size_overflow, "tensor 'b' ends beyond 63 bits");
  }
  {
    io::SafetensorsWriter writer;
    writer.add("a", one, {2});
    expect(writer, ErrorCode::shape_mismatch, "extents [1] and the shape [2]");
  }
}

// A file that is there, and a write that fails: the file must be as it was, with nothing beside it.
class Atomic : public ::testing::Test {
 protected:
  Atomic() : path(scratch / "model.safetensors"), values(1 << 20, 1.0f) {
    write_bytes(path, "the old file");
    writer.add("x", ssm::View<const float, 1>(values.data(), {1 << 20}));
  }
  void expect_old() {
    EXPECT_EQ(read_bytes(path), "the old file");
    EXPECT_EQ(scratch.names(), std::vector<std::string>{"model.safetensors"});
  }

  ScratchDirectory scratch;
  std::filesystem::path path;
  std::vector<float> values;
  io::SafetensorsWriter writer;
};

TEST_F(Atomic, ReplacesTheOldFile) {
  ASSERT_TRUE(writer.write(path));
  io::SafetensorsFile file;
  ASSERT_TRUE(io::SafetensorsFile::open(path, &file));
  EXPECT_EQ(file.find("x")->elements, 1 << 20);
  EXPECT_EQ(scratch.names(), std::vector<std::string>{"model.safetensors"});
}

TEST_F(Atomic, AReaderKeepsTheFileItOpened) {
  ASSERT_TRUE(writer.write(path));
  io::SafetensorsFile file;
  ASSERT_TRUE(io::SafetensorsFile::open(path, &file));
  ssm::View<const float, 1> before;
  ASSERT_TRUE(file.view("x", &before));
  values.assign(values.size(), 2.0f);
  ASSERT_TRUE(writer.write(path));
  EXPECT_EQ(before(12345), 1.0f);
}

TEST_F(Atomic, ABadTensorLeavesTheOldFile) {
  writer.add("x", ssm::View<const float, 1>(values.data(), {1}));
  expect_failure(writer.write(path), ErrorCode::duplicate_name, "'x'");
  expect_old();
}

TEST_F(Atomic, AMissingDirectory) {
  expect_failure(writer.write(scratch / "absent" / "x"), ErrorCode::cannot_write, "cannot create");
  expect_failure(writer.write(""), ErrorCode::cannot_write, "names no file");
  expect_old();
}

TEST_F(Atomic, ADirectoryInTheWay) {
  std::filesystem::create_directories(scratch / "taken" / "by");
  expect_failure(writer.write(scratch / "taken"), ErrorCode::cannot_write, "cannot replace");
  EXPECT_EQ(scratch.names(), (std::vector<std::string>{"model.safetensors", "taken"}));
}

#if !defined(_WIN32)

// Permissions do not stop root, who becomes somebody else for the write.
TEST_F(Atomic, AnUnwritableDirectory) {
  const uid_t user = ::geteuid();
  constexpr uid_t kNobody = 65534;
  ::chmod(scratch.path().c_str(), 0555);
  if (user == 0 && ::seteuid(kNobody) != 0) GTEST_SKIP() << "root cannot become somebody else";
  const io::Result result = writer.write(path);
  ASSERT_EQ(::seteuid(user), 0);
  ::chmod(scratch.path().c_str(), 0700);
  expect_failure(result, ErrorCode::cannot_write, "cannot create: Permission denied");
  expect_old();
}

// A limit on the size of files stands for a full disk: write() fails half-way.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &old_);
    rlimit limit = old_;
    limit.rlim_cur = bytes;
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &old_); }

 private:
  rlimit old_;
};

TEST_F(Atomic, AFullDisk) {
  const auto ignored = std::signal(SIGXFSZ, SIG_IGN);
  io::Result result;
  {
    const FileSizeLimit limit(1 << 20);  // of the 4 MiB to write
    result = writer.write(path);
  }
  std::signal(SIGXFSZ, ignored);
  expect_failure(result, ErrorCode::cannot_write, "cannot write: ");
  expect_old();
}

// The same limit with the signal at its default kills the writer in the middle of its file.
void write_until_killed(const io::SafetensorsWriter& writer, const std::filesystem::path& path) {
  std::signal(SIGXFSZ, SIG_DFL);
  const rlimit no_core{0, 0};
  ::setrlimit(RLIMIT_CORE, &no_core);
  const FileSizeLimit limit(1 << 20);
  static_cast<void>(writer.write(path).is_ok());
}

TEST_F(Atomic, AWriterThatDies) {
  EXPECT_EXIT(write_until_killed(writer, path), ::testing::KilledBySignal(SIGXFSZ), "");
  EXPECT_EQ(read_bytes(path), "the old file");
  EXPECT_EQ(scratch.names().size(), 2u);  // and the temporary file
  ASSERT_TRUE(writer.write(path));
  io::SafetensorsFile file;
  EXPECT_TRUE(io::SafetensorsFile::open(path, &file));
}

// A stale temporary file of a process with the same number is not an obstacle, nor touched.
TEST_F(Atomic, ATemporaryFileInTheWay) {
  const std::string stale = path.string() + "." + std::to_string(::getpid()) + "-0.tmp";
  write_bytes(stale, "stale");
  ASSERT_TRUE(writer.write(path));
  EXPECT_EQ(read_bytes(stale), "stale");
  EXPECT_EQ(scratch.names().size(), 2u);
}

TEST_F(Atomic, NewFilesHaveTheUsersPermissions) {
  const mode_t mask = ::umask(0027);
  const io::Result result = writer.write(scratch / "new");
  ::umask(mask);
  ASSERT_TRUE(result);
  struct stat info;
  ASSERT_EQ(::stat((scratch / "new").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777u, 0640u);
}

TEST(Large, OffsetsBeyondTwoAndFourGigabytes) {
  if (sizeof(void*) < 8) GTEST_SKIP() << "needs 64 bits of address space";
  const ScratchDirectory scratch;
  const std::uint64_t gap = (std::uint64_t{5} << 30) + 4;
  std::string header = R"({"gap":{"dtype":"U8","shape":[)" + std::to_string(gap) +
                       R"(],"data_offsets":[0,)" + std::to_string(gap) +
                       R"(]},"x":{"dtype":"F32","shape":[2],"data_offsets":[)" +
                       std::to_string(gap) + "," + std::to_string(gap + 8) + "]}}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  const std::filesystem::path path = scratch / "large.safetensors";
  write_bytes(path, ssm_test::safetensors_bytes(header, ""));
  const std::uint64_t begin = 8 + header.size() + gap;
  if (::truncate(path.c_str(), static_cast<off_t>(begin)) != 0) {
    GTEST_SKIP() << "no sparse file of 5 GiB here";
  }
  {
    std::ofstream stream(path, std::ios::binary | std::ios::app);
    const float values[] = {1.5f, -2.5f};
    stream.write(reinterpret_cast<const char*>(values), sizeof(values));
  }
  io::SafetensorsFile file;
  const io::Result result = io::SafetensorsFile::open(path, &file);
  ASSERT_TRUE(result) << result.message();
  ssm::View<const float, 1> x;
  ASSERT_TRUE(file.view("x", &x));
  EXPECT_EQ(x(0), 1.5f);
  EXPECT_EQ(x(1), -2.5f);
  ssm::View<const std::uint8_t, 1> hole;
  ASSERT_TRUE(file.view("gap", &hole));
  EXPECT_EQ(hole.extent(0), static_cast<index_t>(gap));
  EXPECT_EQ(hole(static_cast<index_t>(gap) - 1), 0);

  std::filesystem::resize_file(path, begin + 7);
  expect_failure(io::SafetensorsFile::open(path, &file), ErrorCode::truncated, "tensor 'x'");
}

#endif

}  // namespace
