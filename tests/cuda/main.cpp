#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>

// Without a GPU every test is skipped, visibly; with SSM_REQUIRE_GPU=1 in the environment that is a
// failure instead.
namespace {

class Device : public testing::Environment {
 public:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) == cudaSuccess && devices > 0) return;
    const char* const required = std::getenv("SSM_REQUIRE_GPU");
    if (required != nullptr && std::strcmp(required, "1") == 0) {
      FAIL() << "SSM_REQUIRE_GPU=1 and no CUDA device";
    }
    GTEST_SKIP() << "no CUDA device";
  }
};

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  testing::AddGlobalTestEnvironment(new Device);
  return RUN_ALL_TESTS();
}
