#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>

#include "fuzz/require.hpp"
#include "ssm/io/huggingface.hpp"

// Any text: either an error with a message, or shards that all lie in the index's directory.

namespace io = ssm::io;
using ssm_test::require;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::map<std::string, std::string> weight_map;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const io::Result result = io::parse_index(text, "index.json", &weight_map);
  require(result.is_ok() == result.message().empty());
  require(result.is_ok() || weight_map.empty());
  for (const auto& [name, shard] : weight_map) {
    const std::filesystem::path path = std::filesystem::path("directory") / shard;
    require(path.parent_path() == "directory" && path.filename() == shard);
    require(shard != "." && shard != "..");
  }
  return 0;
}
