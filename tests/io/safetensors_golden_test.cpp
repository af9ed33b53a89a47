#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "ssm/io/safetensors.hpp"

// The golden files, read through the library and, for a few tensors whose offsets were read off the
// header by hand, byte by byte.

namespace {

namespace io = ssm::io;

std::string golden(const std::string& name) { return std::string(SSM_GOLDEN_DIR) + "/" + name; }

std::vector<char> bytes_of(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

// Element i of the tensor that starts `offset` bytes after a header of `header` bytes.
template <class T>
T element(const std::vector<char>& file, std::size_t header, std::size_t offset, std::size_t i) {
  T value;
  std::memcpy(&value, file.data() + 8 + header + offset + i * sizeof(T), sizeof(T));
  return value;
}

TEST(Golden, ViewsAndCopiesAreTheBytesOfTheFile) {
  const std::string path = golden("mamba1_dev/model.safetensors");
  const std::vector<char> bytes = bytes_of(path);
  io::SafetensorsFile file;
  const io::Result opened = io::SafetensorsFile::open(path, &file);
  ASSERT_TRUE(opened) << opened.message();
  EXPECT_EQ(file.tensors().size(), 32u);
  EXPECT_EQ(file.metadata().size(), 1u);
  EXPECT_EQ(file.metadata().at("format"), "pt");

  ssm::View<const float, 2> embeddings;
  ASSERT_TRUE(file.view("backbone.embeddings.weight", &embeddings));
  ASSERT_EQ(embeddings.extent(0), 67);
  ASSERT_EQ(embeddings.extent(1), 32);
  for (std::size_t i = 0; i < 67; ++i) {
    for (std::size_t j = 0; j < 32; ++j) {
      EXPECT_EQ(embeddings(i, j), element<float>(bytes, 3128, 0, i * 32 + j));
    }
  }

  ssm::View<const float, 3> conv;
  ASSERT_TRUE(file.view("backbone.layers.2.mixer.conv1d.weight", &conv));
  ASSERT_EQ(conv.extent(0), 64);
  ASSERT_EQ(conv.extent(1), 1);
  ASSERT_EQ(conv.extent(2), 4);
  std::vector<double> copy(256, -1.0);
  ASSERT_TRUE(file.copy_to("backbone.layers.2.mixer.conv1d.weight",
                           ssm::View<double, 3>(copy.data(), {64, 1, 4})));
  for (std::size_t i = 0; i < 256; ++i) {
    EXPECT_EQ(copy[i], static_cast<double>(element<float>(bytes, 3128, 92800, i)));
  }
}

TEST(Golden, EveryFileOpensInNameOrder) {
  for (const char* name :
       {"mamba1_dev/model.safetensors", "mamba1_dev/expected.safetensors",
        "mamba1_untied_dev/model.safetensors", "mamba1_untied_dev/expected.safetensors",
        "falcon_mamba_dev/model.safetensors", "falcon_mamba_dev/expected.safetensors",
        "mamba2_dev/model.safetensors", "mamba2_dev/expected.safetensors",
        "mamba2_groups_dev/model.safetensors", "mamba2_groups_dev/expected.safetensors",
        "selective_scan_dev.safetensors"}) {
    io::SafetensorsFile file;
    const io::Result opened = io::SafetensorsFile::open(golden(name), &file);
    ASSERT_TRUE(opened) << opened.message();
    ASSERT_FALSE(file.tensors().empty());
    for (std::size_t i = 0; i < file.tensors().size(); ++i) {
      const io::TensorInfo& tensor = file.tensors()[i];
      EXPECT_EQ(file.find(tensor.name), &tensor);
      if (i > 0) {
        EXPECT_LT(file.tensors()[i - 1].name, tensor.name);
      }
    }
    EXPECT_EQ(file.find("no such tensor"), nullptr);
  }
}

TEST(Golden, TokenIdsAreIntegers) {
  io::SafetensorsFile file;
  ASSERT_TRUE(io::SafetensorsFile::open(golden("mamba1_dev/expected.safetensors"), &file));
  const std::vector<char> bytes = bytes_of(golden("mamba1_dev/expected.safetensors"));
  std::vector<std::int32_t> copy(32, -1);
  ASSERT_TRUE(file.copy_to("generated", ssm::View<std::int32_t, 2>(copy.data(), {1, 32})));
  std::uint64_t header = 0;
  std::memcpy(&header, bytes.data(), 8);
  for (std::size_t i = 0; i < copy.size(); ++i) {
    EXPECT_EQ(copy[i], element<std::int64_t>(bytes, header, 0, i));
    EXPECT_GE(copy[i], 0);
    EXPECT_LT(copy[i], 67);
  }
}

}  // namespace
