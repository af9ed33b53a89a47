#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

// Runs a fuzz target on the files of the directories given, with any compiler: the corpus is a test
// that does not need libFuzzer.

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

int main(int argc, char** argv) {
  int files = 0;
  for (int i = 1; i < argc; ++i) {
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
      std::ifstream stream(entry.path(), std::ios::binary);
      const std::vector<char> bytes{std::istreambuf_iterator<char>(stream),
                                    std::istreambuf_iterator<char>()};
      // An allocation of exactly this size, so that a sanitizer sees the first byte too many.
      const std::unique_ptr<std::uint8_t[]> exact(new std::uint8_t[bytes.size()]);
      if (!bytes.empty()) std::memcpy(exact.get(), bytes.data(), bytes.size());
      std::printf("%s\n", entry.path().filename().string().c_str());
      std::fflush(stdout);
      LLVMFuzzerTestOneInput(exact.get(), bytes.size());
      ++files;
    }
  }
  std::printf("%d files\n", files);
  return files > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
