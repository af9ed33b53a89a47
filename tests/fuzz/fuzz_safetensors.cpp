#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "fuzz/require.hpp"
#include "ssm/io/safetensors.hpp"

// Any bytes: either an error with a message, or tensors that tile the data exactly and can all be
// read.

namespace {

namespace io = ssm::io;
using ssm_test::require;

template <class T>
void read(const io::SafetensorsFile& file, const io::TensorInfo& tensor) {
  std::vector<T> values(static_cast<std::size_t>(tensor.elements));
  const auto copy = [&](const auto& view) {
    const io::Result result = file.copy_to(tensor.name, view);
    require(result.is_ok() == result.message().empty());
    if (ssm::io::detail::is_floating_storage_v<T>) require(result.is_ok());
  };
  if (tensor.shape.size() <= 1) {
    copy(ssm::View<T, 1>(values.data(), {tensor.elements}));
  } else if (tensor.shape.size() == 2) {
    copy(ssm::View<T, 2>(values.data(), {tensor.shape[0], tensor.shape[1]}));
  } else if (tensor.shape.size() == 3) {
    copy(ssm::View<T, 3>(values.data(), {tensor.shape[0], tensor.shape[1], tensor.shape[2]}));
  }
}

template <class T, int Rank>
void view(const io::SafetensorsFile& file, const io::TensorInfo& tensor) {
  ssm::View<const T, Rank> out;
  if (!file.view(tensor.name, &out)) return;
  require(out.size() == tensor.elements);
  if (out.size() > 0) {
    require(static_cast<const void*>(out.data()) == static_cast<const void*>(tensor.data));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  io::SafetensorsFile file;
  const io::Result result = io::SafetensorsFile::from_memory(data, size, &file);
  require(result.is_ok() == result.message().empty());
  if (!result) {
    require(file.tensors().empty());
    return 0;
  }
  std::size_t total = 0;
  const unsigned char* begin = data + size;
  for (const io::TensorInfo& tensor : file.tensors()) {
    require(file.find(tensor.name) == &tensor);
    require(tensor.data >= data && tensor.data + tensor.bytes <= data + size);
    if (tensor.data < begin) begin = tensor.data;
    total += tensor.bytes;
    read<double>(file, tensor);
    read<float>(file, tensor);
    read<ssm::bf16>(file, tensor);
    read<ssm::f16>(file, tensor);
    read<std::int8_t>(file, tensor);
    read<std::uint64_t>(file, tensor);
    view<float, 1>(file, tensor);
    view<double, 2>(file, tensor);
    view<std::uint8_t, 3>(file, tensor);
  }
  require(total == static_cast<std::size_t>(data + size - begin));
  return 0;
}
