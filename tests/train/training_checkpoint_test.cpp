#include "ssm/io/training_checkpoint.hpp"

#include <string>
#include <vector>

#include "io/scratch_directory.hpp"
#include "ssm/reference/adamw.hpp"
#include "ssm/reference/causal_conv1d.hpp"
#include "ssm/reference/causal_conv1d_backward.hpp"
#include "ssm/reference/cross_entropy.hpp"
#include "ssm/reference/embedding.hpp"
#include "ssm/reference/embedding_backward.hpp"
#include "ssm/reference/linear.hpp"
#include "ssm/reference/linear_backward.hpp"
#include "ssm/reference/residual_add.hpp"
#include "ssm/reference/rms_norm.hpp"
#include "ssm/reference/rms_norm_backward.hpp"
#include "ssm/reference/selective_scan.hpp"
#include "ssm/reference/selective_scan_backward.hpp"
#include "ssm/reference/state_matrix.hpp"
#include "ssm/reference/sum_of_squares.hpp"
#include "train/training_under_test.hpp"

namespace ssm_test {
namespace {

template <class T>
class TrainingCheckpoint : public ::testing::Test {};
using Elements = ::testing::Types<float, ssm::bf16>;
TYPED_TEST_SUITE(TrainingCheckpoint, Elements);

template <class T>
using Training = TrainingRun<On<ssm::Reference, T>>;

ssm::TrainingConfig training(bool carry) {
  ssm::TrainingConfig c = small_training();
  c.carry_state = carry;
  return c;
}

// k steps, a file, k more: the bits of 2k steps.
TYPED_TEST(TrainingCheckpoint, ResumesBitForBit) {
  for (const bool carry : {false, true}) {
    SCOPED_TRACE(carry);
    const ScratchDirectory directory;
    Training<TypeParam> straight(training(carry)), first(training(carry)), second(training(carry));
    for (ssm::index_t number = 1; number <= 10; ++number) straight.run(number);
    for (ssm::index_t number = 1; number <= 5; ++number) first.run(number);
    ssm::io::TrainingProgress written;
    written.step = 5;
    written.random = 0xfedcba9876543210u;
    written.settings["seed"] = "3";
    const auto saved =
        ssm::io::save_training(directory / "training.safetensors", first.state, written);
    ASSERT_TRUE(saved) << saved.message();
    EXPECT_EQ(directory.names(), std::vector<std::string>{"training.safetensors"});

    ssm::io::TrainingProgress read;
    read.settings["seed"] = "3";
    const auto loaded =
        ssm::io::load_training(directory / "training.safetensors", second.state, &read);
    ASSERT_TRUE(loaded) << loaded.message();
    EXPECT_EQ(read.step, 5);
    EXPECT_EQ(read.random, written.random);
    EXPECT_EQ(second.values(), first.values());
    SSM_EXPECT_OK(second.step.prepare(second.backend, second.config, second.state, second.batch,
                                      second.memory[2].arena(), second.memory[3].arena()));
    for (ssm::index_t number = 6; number <= 10; ++number) second.run(number);
    EXPECT_EQ(second.values(), straight.values());
    EXPECT_NE(second.values(), first.values());
  }
}

TYPED_TEST(TrainingCheckpoint, ForeignFilesAreNamedAndNothingIsRead) {
  using T = TypeParam;
  const ScratchDirectory directory;
  const auto path = directory / "training.safetensors";
  Training<T> test(training(false));
  ssm::io::TrainingProgress progress;
  progress.settings["seed"] = "3";
  const auto saved = ssm::io::save_training(path, test.state, progress);
  ASSERT_TRUE(saved) << saved.message();
  const std::string file = path.string();

  const auto refused = [&](auto& other, const std::string& seed, const std::string& name) {
    const auto before = other.values();
    ssm::io::TrainingProgress wanted;
    wanted.step = 77;
    wanted.settings["seed"] = seed;
    const auto result = ssm::io::load_training(directory / name, other.state, &wanted);
    EXPECT_EQ(other.values(), before);
    EXPECT_EQ(wanted.step, 77);
    return result.message();
  };
  const std::string name = "training.safetensors";
  test.run(1);
  EXPECT_EQ(refused(test, "4", name), file + ": was written with seed '3', must be '4'");
  ssm::TrainingConfig wider = training(false);
  wider.model.vocab_size = 24;
  Training<T> other(wider);
  const std::string type = sizeof(T) == 2 ? "BF16" : "F32";
  EXPECT_EQ(refused(other, "3", name), file + ": tensor 'backbone.embeddings.weight' is " + type +
                                           " [23, 10], must be " + type + " [24, 10]");
  Training<double> precise(training(false));
  EXPECT_EQ(refused(precise, "3", name), file + ": tensor 'backbone.embeddings.weight' is " + type +
                                             " [23, 10], must be F64 [23, 10]");
  Training<T> carries(training(true));
  EXPECT_EQ(refused(carries, "3", name), file + ": has no tensor 'carried.0.conv'");
  ssm::TrainingConfig fewer = training(false);
  fewer.model.n_layer = 1;
  Training<T> shallow(fewer);
  EXPECT_EQ(refused(shallow, "3", name),
            file + ": tensor 'backbone.layers.1.mixer.A_log' has no place in this training");
  EXPECT_NE(refused(test, "3", "none").find("cannot open"), std::string::npos);

  // A file of the format that is no training, and a step that is no number.
  ssm::io::SafetensorsWriter writer;
  ASSERT_TRUE(writer.write(directory / "model.safetensors"));
  EXPECT_NE(refused(test, "3", "model.safetensors").find("is no checkpoint of a training"),
            std::string::npos);
  for (const char* step : {"", "-1", "1e3", "9223372036854775808", "99999999999999999999"}) {
    writer.set_metadata("format", "ssm-training-1");
    writer.set_metadata("setting.seed", "3");
    writer.set_metadata("step", step);
    writer.set_metadata("random", "1");
    ASSERT_TRUE(writer.write(directory / "step.safetensors"));
    EXPECT_NE(refused(test, "3", "step.safetensors").find(": step is '" + std::string(step) + "'"),
              std::string::npos);
  }
  // Cut short: whatever is left is refused.
  const std::string bytes = read_bytes(path);
  write_bytes(directory / "cut", std::string_view(bytes).substr(0, bytes.size() - 1));
  EXPECT_FALSE(refused(test, "3", "cut").empty());
}

}  // namespace
}  // namespace ssm_test
