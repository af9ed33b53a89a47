#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <initializer_list>
#include <map>
#include <string>
#include <vector>

#include "io/scratch_directory.hpp"
#include "ssm/io/huggingface.hpp"
#include "ssm/model/language_model_parameters.hpp"
#include "ssm/owned.hpp"
#include "support/tensor.hpp"

// Checkpoints written by Hugging Face through the loader, the writer and back; and checkpoints with
// something wrong, of which not a byte may reach the parameters.

namespace {

namespace io = ssm::io;
using io::ErrorCode;
using ssm::index_t;
using ssm_test::read_bytes;
using ssm_test::ScratchDirectory;
using ssm_test::write_bytes;

std::filesystem::path golden(const std::string& name) {
  return std::filesystem::path(SSM_GOLDEN_DIR) / name;
}

constexpr const char* kGoldenModels[] = {"mamba1_dev", "mamba1_untied_dev", "falcon_mamba_dev"};

// The parameters of a model in poisoned memory of their own.
template <class T>
struct Model {
  explicit Model(const ssm::LanguageModelConfig& config)
      : parameters(memory.carve([&](ssm::Arena& arena) {
          return ssm::LanguageModelParameters<T>::carve(config, arena, arena);
        })) {
    parameters.for_each([](const char*, const auto& view) {
      std::memset(view.data(), ssm_test::kPoison, bytes(view));
    });
  }

  template <class V>
  static std::size_t bytes(const V& view) {
    return static_cast<std::size_t>(view.size()) * sizeof(*view.data());
  }
  // Every parameter's bytes, by name.
  std::map<std::string, std::string> contents() const {
    std::map<std::string, std::string> out;
    parameters.for_each([&](const char* name, const auto& view) {
      out[name] = std::string(reinterpret_cast<const char*>(view.data()), bytes(view));
    });
    return out;
  }
  bool untouched() const {
    for (const auto& [name, value] : contents()) {
      if (value.find_first_not_of(static_cast<char>(ssm_test::kPoison)) != std::string::npos) {
        return false;
      }
    }
    return true;
  }

  ssm::OwnedWorkspace memory;
  ssm::LanguageModelParameters<T> parameters;
};

ssm::LanguageModelConfig config_of(const io::Checkpoint& checkpoint) {
  return io::model_config<ssm::LanguageModelConfig>(checkpoint.config());
}

template <class T>
std::map<std::string, std::string> load(const std::filesystem::path& directory) {
  io::Checkpoint checkpoint;
  io::Result result = io::Checkpoint::open(directory, &checkpoint);
  EXPECT_TRUE(result) << result.message();
  if (!result) return {};
  const Model<T> model(config_of(checkpoint));
  result = io::load_parameters(checkpoint, model.parameters);
  EXPECT_TRUE(result) << result.message();
  return model.contents();
}

TEST(Load, GoldenModelsAreTheBytesOfTheirFiles) {
  for (const char* name : kGoldenModels) {
    SCOPED_TRACE(name);
    const auto contents = load<float>(golden(name));
    io::SafetensorsFile file;
    ASSERT_TRUE(io::SafetensorsFile::open(golden(name) / "model.safetensors", &file));
    EXPECT_EQ(contents.size(), file.tensors().size());
    for (const io::TensorInfo& tensor : file.tensors()) {
      ASSERT_EQ(contents.count(tensor.name), 1u) << tensor.name;
      EXPECT_EQ(contents.at(tensor.name),
                std::string(reinterpret_cast<const char*>(tensor.data), tensor.bytes));
    }
  }
}

// Weights in T, A_log, D and dt bias in accum_t<T>: one rounding each.
template <class T>
void check_conversion() {
  io::Checkpoint checkpoint;
  ASSERT_TRUE(io::Checkpoint::open(golden("falcon_mamba_dev"), &checkpoint));
  const Model<T> model(config_of(checkpoint));
  ASSERT_TRUE(io::load_parameters(checkpoint, model.parameters));
  model.parameters.for_each([&](const char* name, const auto& view) {
    using X = typename std::decay_t<decltype(view)>::value_type;
    const io::TensorInfo* tensor = checkpoint.find(name);
    ASSERT_NE(tensor, nullptr) << name;
    ASSERT_EQ(tensor->elements, view.size());
    for (index_t i = 0; i < view.size(); ++i) {
      float stored;
      std::memcpy(&stored, tensor->data + 4 * i, 4);
      ASSERT_EQ(static_cast<double>(view.data()[i]), static_cast<double>(X(stored))) << name;
    }
  });
}

TEST(Load, ConvertsToAnyStorage) {
  check_conversion<double>();
  check_conversion<ssm::bf16>();
  check_conversion<ssm::f16>();
}

// The files of a checkpoint, to be changed and written elsewhere.
struct Files {
  explicit Files(const char* name)
      : config(read_bytes(golden(name) / "config.json")),
        model(read_bytes(golden(name) / "model.safetensors")) {}
  void write(const ScratchDirectory& to) const {
    write_bytes(to / "config.json", config);
    write_bytes(to / "model.safetensors", model);
  }
  // Of equal length, so that no offset moves.
  void rename(const std::string& from, const std::string& to) {
    ASSERT_EQ(from.size(), to.size());
    const std::size_t at = model.find(from);
    ASSERT_NE(at, std::string::npos);
    model.replace(at, from.size(), to);
  }
  std::string config;
  std::string model;
};

// The tensors of a golden model as a writer, so that tests can leave out, add and rename.
class Rewritten {
 public:
  explicit Rewritten(const char* name) : config_(read_bytes(golden(name) / "config.json")) {
    const io::Result result =
        io::SafetensorsFile::open(golden(name) / "model.safetensors", &source_);
    EXPECT_TRUE(result) << result.message();
    for (const io::TensorInfo& tensor : source_.tensors()) all.push_back(tensor);
  }
  void rename(const std::string& from, const std::string& to) {
    for (io::TensorInfo& tensor : all) {
      if (tensor.name == from) tensor.name = to;
    }
  }
  void erase(const std::string& name) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (all[i].name == name) all.erase(all.begin() + static_cast<std::ptrdiff_t>(i--));
    }
  }
  io::TensorInfo& at(const std::string& name) {
    for (io::TensorInfo& tensor : all) {
      if (tensor.name == name) return tensor;
    }
    ADD_FAILURE() << "no " << name;
    return all.front();
  }
  void config_replace(const std::string& from, const std::string& to) {
    const std::size_t where = config_.find(from);
    ASSERT_NE(where, std::string::npos) << from;
    config_.replace(where, from.size(), to);
  }
  void write(const ScratchDirectory& to) const {
    write_bytes(to / "config.json", config_);
    write_file(to / "model.safetensors", [](std::size_t) { return true; });
  }
  // Tensor i of the list goes to shard i % shards.
  void write_shards(const ScratchDirectory& to, std::size_t shards) const {
    write_bytes(to / "config.json", config_);
    std::string index;
    for (std::size_t s = 0; s < shards; ++s) {
      write_file(to / shard_name(s), [&](std::size_t i) { return i % shards == s; });
    }
    for (std::size_t i = 0; i < all.size(); ++i) {
      index += (i > 0 ? ",\"" : "\"") + all[i].name + "\":\"" + shard_name(i % shards) + "\"";
    }
    write_bytes(to / "model.safetensors.index.json", R"({"weight_map":{)" + index + "}}");
  }
  static std::string shard_name(std::size_t s) {
    return "model-" + std::to_string(s) + ".safetensors";
  }

  std::vector<io::TensorInfo> all;

 private:
  void write_file(const std::filesystem::path& path,
                  const std::function<bool(std::size_t)>& chosen) const {
    io::SafetensorsWriter writer;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const ssm::View<const float, 1> flat(reinterpret_cast<const float*>(all[i].data),
                                           {all[i].elements});
      if (chosen(i)) writer.add(all[i].name, flat, all[i].shape);
    }
    const io::Result result = writer.write(path);
    EXPECT_TRUE(result) << result.message();
  }

  std::string config_;
  io::SafetensorsFile source_;
};

TEST(Load, ShardsAreOneCheckpoint) {
  for (const std::size_t shards : {1u, 2u, 5u}) {
    const ScratchDirectory scratch;
    Rewritten("mamba1_untied_dev").write_shards(scratch, shards);
    EXPECT_EQ(load<float>(scratch.path()), load<float>(golden("mamba1_untied_dev")));
  }
}

TEST(Load, OriginalKeyNames) {
  const ScratchDirectory scratch;
  Rewritten model("mamba1_dev");
  model.rename("backbone.embeddings.weight", "backbone.embedding.weight");
  model.write(scratch);
  EXPECT_EQ(load<float>(scratch.path()), load<float>(golden("mamba1_dev")));
  io::Checkpoint checkpoint;
  ASSERT_TRUE(io::Checkpoint::open(scratch.path(), &checkpoint));
  const io::TensorInfo* embedding = checkpoint.find("backbone.embeddings.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(checkpoint.find("backbone.embedding.weight"), embedding);
}

// B2 of the test matrix: a tied head may be left out or stored twice.
TEST(Load, ATiedHeadMayBeStored) {
  const ScratchDirectory scratch;
  Rewritten model("mamba1_dev");
  io::TensorInfo head = model.at("backbone.embeddings.weight");
  head.name = "lm_head.weight";
  model.all.push_back(head);
  model.write(scratch);
  EXPECT_EQ(load<float>(scratch.path()), load<float>(golden("mamba1_dev")));
}

TEST(Load, TakesWholeNumbersToo) {
  const ScratchDirectory scratch;
  Files files("mamba1_dev");
  files.rename(R"("backbone.norm_f.weight":{"dtype":"F32")",
               R"("backbone.norm_f.weight":{"dtype":"I32")");
  files.write(scratch);
  io::Checkpoint checkpoint;
  ASSERT_TRUE(io::Checkpoint::open(scratch.path(), &checkpoint));
  const Model<float> model(config_of(checkpoint));
  ASSERT_TRUE(io::load_parameters(checkpoint, model.parameters));
  std::int32_t stored;
  std::memcpy(&stored, checkpoint.find("backbone.norm_f.weight")->data, 4);
  EXPECT_EQ(model.parameters.norm_f_weight(0), static_cast<float>(stored));
}

TEST(Load, OneBlockOfAnyFile) {
  io::SafetensorsFile file;
  ASSERT_TRUE(io::SafetensorsFile::open(golden("mamba1_dev/model.safetensors"), &file));
  const ssm::MambaConfig config = ssm::mamba_config(32);
  ssm::OwnedWorkspace memory;
  const auto block = memory.carve(
      [&](ssm::Arena& arena) { return ssm::MambaParameters<float>::carve(config, arena); });
  const io::Result result = io::load_parameters(file, block, "backbone.layers.1.mixer.");
  ASSERT_TRUE(result) << result.message();
  ssm::View<const float, 2> A_log;
  ASSERT_TRUE(file.view("backbone.layers.1.mixer.A_log", &A_log));
  EXPECT_EQ(std::memcmp(A_log.data(), block.A_log.data(), 64 * 16 * sizeof(float)), 0);
  const io::Result missing = io::load_parameters(file, block, "backbone.layers.3.mixer.");
  EXPECT_EQ(missing.code(), ErrorCode::missing);
  EXPECT_NE(missing.message().find("A_log [64, 16]"), std::string::npos) << missing.message();
}

// Opens and loads; expects an error with all the parts and not a byte written.
void expect_load_error(const ScratchDirectory& scratch, ErrorCode code,
                       std::initializer_list<const char*> parts) {
  io::Checkpoint checkpoint;
  io::Result result = io::Checkpoint::open(scratch.path(), &checkpoint);
  if (result) {
    const Model<float> model(config_of(checkpoint));
    result = io::load_parameters(checkpoint, model.parameters);
    EXPECT_TRUE(model.untouched());
  } else {
    EXPECT_TRUE(checkpoint.tensors().empty());
  }
  EXPECT_EQ(result.code(), code) << result.message();
  EXPECT_NE(result.message().find(scratch.path().string()), std::string::npos);
  for (const char* part : parts) {
    EXPECT_NE(result.message().find(part), std::string::npos)
        << "no \"" << part << "\" in: " << result.message();
  }
}

TEST(LoadError, MissingKeysAreAllListedWithTheShapesWanted) {
  const ScratchDirectory scratch;
  Rewritten model("mamba1_dev");
  model.erase("backbone.layers.1.mixer.dt_proj.bias");
  model.erase("backbone.layers.2.mixer.conv1d.weight");
  model.erase("backbone.embeddings.weight");
  model.write(scratch);
  expect_load_error(scratch, ErrorCode::missing,
                    {"missing parameters: backbone.embeddings.weight [67, 32], "
                     "backbone.layers.1.mixer.dt_proj.bias [64], "
                     "backbone.layers.2.mixer.conv1d.weight [64, 4]"});
}

TEST(LoadError, WrongShapesAreAllListed) {
  const ScratchDirectory scratch;
  Rewritten model("mamba1_dev");
  model.at("backbone.layers.0.mixer.A_log").shape = {16, 64};
  model.at("backbone.layers.0.mixer.conv1d.weight").shape = {64, 2, 2};
  model.at("backbone.norm_f.weight").shape = {2, 16};
  model.write(scratch);
  expect_load_error(scratch, ErrorCode::shape_mismatch,
                    {"wrong shapes: backbone.layers.0.mixer.conv1d.weight is [64, 2, 2], must be "
                     "[64, 4], backbone.layers.0.mixer.A_log is [16, 64], must be [64, 16], "
                     "backbone.norm_f.weight is [2, 16], must be [32]"});
}

TEST(LoadError, TheConfigurationDecidesTheShapes) {
  const ScratchDirectory scratch;
  Rewritten model("mamba1_dev");
  model.config_replace("\"vocab_size\": 67", "\"vocab_size\": 67, \"pad_vocab_size_multiple\": 8");
  model.write(scratch);
  expect_load_error(scratch, ErrorCode::shape_mismatch,
                    {"backbone.embeddings.weight is [67, 32], must be [72, 32]"});
}

TEST(LoadError, AnUntiedHeadMustBeThere) {
  const ScratchDirectory scratch;
  Rewritten model("mamba1_untied_dev");
  model.erase("lm_head.weight");
  model.write(scratch);
  expect_load_error(scratch, ErrorCode::missing, {"missing parameters: lm_head.weight [50, 24]"});
}

// A bias that the configuration switches off would be dropped, and the model quietly be another.
TEST(LoadError, TensorsWithoutAPlace) {
  const ScratchDirectory scratch;
  Rewritten model("mamba1_untied_dev");
  model.config_replace("\"use_bias\": true", "\"use_bias\": false");
  model.config_replace("\"tie_word_embeddings\": false", "\"tie_word_embeddings\": true");
  model.write(scratch);
  expect_load_error(scratch, ErrorCode::unexpected,
                    {"parameters that the configuration has no place for: "
                     "backbone.layers.0.mixer.in_proj.bias [96]",
                     "backbone.layers.1.mixer.out_proj.bias [24]", "lm_head.weight [50, 24]"});
}

TEST(LoadError, BothSpellingsOfTheEmbedding) {
  const ScratchDirectory scratch;
  Rewritten model("mamba1_dev");
  io::TensorInfo second = model.at("backbone.embeddings.weight");
  second.name = "backbone.embedding.weight";
  model.all.push_back(second);
  model.write(scratch);
  expect_load_error(scratch, ErrorCode::duplicate_name,
                    {"holds both backbone.embeddings.weight and backbone.embedding.weight"});
}

TEST(LoadError, WrongModelType) {
  const ScratchDirectory scratch;
  Files("mamba2_dev").write(scratch);
  expect_load_error(scratch, ErrorCode::unsupported_model,
                    {"config.json: model_type is \"mamba2\"", "supported are mamba, falcon_mamba"});
}

TEST(LoadError, AbsentFiles) {
  const ScratchDirectory scratch;
  expect_load_error(scratch, ErrorCode::cannot_open, {"config.json: cannot open"});
  write_bytes(scratch / "config.json", read_bytes(golden("mamba1_dev/config.json")));
  expect_load_error(scratch, ErrorCode::missing,
                    {"has neither model.safetensors nor model.safetensors.index.json"});
  write_bytes(scratch / "pytorch_model.bin", "");
  expect_load_error(scratch, ErrorCode::missing,
                    {"convert pytorch_model.bin to safetensors first"});
}

TEST(LoadError, ATruncatedModel) {
  const ScratchDirectory scratch;
  Files files("mamba1_dev");
  files.model.resize(files.model.size() - 1);
  files.write(scratch);
  expect_load_error(scratch, ErrorCode::truncated, {"tensor 'backbone.norm_f.weight'"});
}

TEST(LoadError, ShardsThatAreNotThere) {
  {
    const ScratchDirectory scratch;
    Rewritten("mamba1_dev").write_shards(scratch, 3);
    std::filesystem::remove(scratch / Rewritten::shard_name(1));
    expect_load_error(scratch, ErrorCode::cannot_open, {"model-1.safetensors: cannot open"});
  }
  {  // the index names tensors that their shards do not hold
    const ScratchDirectory scratch;
    Rewritten("mamba1_dev").write_shards(scratch, 2);
    const std::string index = read_bytes(scratch / "model.safetensors.index.json");
    const std::string begin =
        R"({"weight_map":{"a":"model-0.safetensors","b":"model-1.safetensors",)";
    write_bytes(scratch / "model.safetensors.index.json",
                begin + index.substr(index.find("\"backbone")));
    expect_load_error(scratch, ErrorCode::missing,
                      {"index.json: names tensors that are not there: "
                       "'a' in model-0.safetensors, 'b' in model-1.safetensors"});
  }
}

TEST(Save, RoundTripsInBothStyles) {
  for (const char* name : kGoldenModels) {
    for (const io::KeyStyle style : {io::KeyStyle::huggingface, io::KeyStyle::original}) {
      SCOPED_TRACE(name);
      io::Checkpoint checkpoint;
      ASSERT_TRUE(io::Checkpoint::open(golden(name), &checkpoint));
      const Model<float> model(config_of(checkpoint));
      ASSERT_TRUE(io::load_parameters(checkpoint, model.parameters));
      const ScratchDirectory scratch;
      const io::Result saved = io::save_checkpoint(scratch / "new/directory", checkpoint.config(),
                                                   model.parameters, style);
      if (style == io::KeyStyle::original && std::string(name) == "falcon_mamba_dev") {
        EXPECT_EQ(saved.code(), ErrorCode::unsupported_model);
        EXPECT_TRUE(scratch.names().empty());
        continue;
      }
      ASSERT_TRUE(saved) << saved.message();
      EXPECT_EQ(load<float>(scratch / "new/directory"), model.contents());
    }
  }
}

// What Hugging Face wrote and what this library writes differ in the order of the bytes only.
TEST(Save, HuggingFaceNamesShapesAndDtypes) {
  for (const char* name : kGoldenModels) {
    SCOPED_TRACE(name);
    io::Checkpoint checkpoint;
    ASSERT_TRUE(io::Checkpoint::open(golden(name), &checkpoint));
    const Model<float> model(config_of(checkpoint));
    ASSERT_TRUE(io::load_parameters(checkpoint, model.parameters));
    const ScratchDirectory scratch;
    ASSERT_TRUE(io::save_checkpoint(scratch.path(), checkpoint.config(), model.parameters));
    EXPECT_EQ(scratch.names(), (std::vector<std::string>{"config.json", "model.safetensors"}));
    io::SafetensorsFile ours, theirs;
    ASSERT_TRUE(io::SafetensorsFile::open(scratch / "model.safetensors", &ours));
    ASSERT_TRUE(io::SafetensorsFile::open(golden(name) / "model.safetensors", &theirs));
    EXPECT_EQ(ours.metadata(), theirs.metadata());
    ASSERT_EQ(ours.tensors().size(), theirs.tensors().size());
    for (std::size_t i = 0; i < ours.tensors().size(); ++i) {
      const io::TensorInfo& a = ours.tensors()[i];
      const io::TensorInfo& b = theirs.tensors()[i];
      EXPECT_EQ(a.name, b.name);
      EXPECT_EQ(a.dtype, b.dtype);
      EXPECT_EQ(a.shape, b.shape);
      ASSERT_EQ(a.bytes, b.bytes);
      EXPECT_EQ(std::memcmp(a.data, b.data, a.bytes), 0);
    }
  }
}

TEST(Save, OriginalNames) {
  io::Checkpoint checkpoint;
  ASSERT_TRUE(io::Checkpoint::open(golden("mamba1_dev"), &checkpoint));
  const Model<ssm::bf16> model(config_of(checkpoint));
  ASSERT_TRUE(io::load_parameters(checkpoint, model.parameters));
  const ScratchDirectory scratch;
  ASSERT_TRUE(io::save_checkpoint(scratch.path(), checkpoint.config(), model.parameters,
                                  io::KeyStyle::original));
  io::SafetensorsFile file;
  ASSERT_TRUE(io::SafetensorsFile::open(scratch / "model.safetensors", &file));
  EXPECT_EQ(file.find("backbone.embeddings.weight"), nullptr);
  ASSERT_NE(file.find("backbone.embedding.weight"), nullptr);
  EXPECT_EQ(file.find("backbone.embedding.weight")->dtype, io::Dtype::bf16);
  EXPECT_EQ(file.find("backbone.layers.0.mixer.A_log")->dtype, io::Dtype::f32);
  EXPECT_EQ(file.find("backbone.layers.0.mixer.conv1d.weight")->shape,
            (std::vector<index_t>{64, 1, 4}));
  EXPECT_NE(read_bytes(scratch / "config.json").find("\"d_model\": 32"), std::string::npos);
}

TEST(Save, AFailureLeavesTheOldCheckpoint) {
  const ScratchDirectory scratch;
  Files("mamba1_dev").write(scratch);
  io::Checkpoint checkpoint;
  ASSERT_TRUE(io::Checkpoint::open(scratch.path(), &checkpoint));
  Model<float> model(config_of(checkpoint));
  model.parameters.norm_f_weight = ssm::View<float, 1>(nullptr, {32});
  const io::Result result =
      io::save_checkpoint(scratch.path(), checkpoint.config(), model.parameters);
  EXPECT_EQ(result.code(), ErrorCode::invalid_argument);
  EXPECT_EQ(load<float>(scratch.path()), load<float>(golden("mamba1_dev")));
  EXPECT_EQ(
      io::save_checkpoint(scratch / "config.json", checkpoint.config(), model.parameters).code(),
      ErrorCode::cannot_write);
}

}  // namespace
