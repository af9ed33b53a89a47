#pragma once

#include <cstring>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "ssm/io/huggingface_config.hpp"
#include "ssm/io/json.hpp"
#include "ssm/io/safetensors.hpp"

// Checkpoints of model_type mamba and falcon_mamba as directories: config.json beside
// model.safetensors, or beside model.safetensors.index.json and its shards. Parameters come and go
// through any object with for_each(f) that calls f(name, view) with the Hugging Face name of each
// parameter and a View of rank 1 or 2 on its memory in the host; the library's
// LanguageModelParameters is one.

SSM_NAMESPACE_BEGIN
namespace io {

namespace detail {

inline constexpr const char* kEmbedding = "backbone.embeddings.weight";
inline constexpr const char* kOriginalEmbedding = "backbone.embedding.weight";
inline constexpr const char* kHead = "lm_head.weight";

inline std::string canonical_name(std::string_view name) {
  return std::string(name == kOriginalEmbedding ? kEmbedding : name);
}

using WeightMap = std::map<std::string, std::string>;

// Whether the two shapes are equal once extents of one are left out: a depthwise convolution is
// stored as (channels, 1, width) and used as (channels, width).
template <class T, int Rank>
bool same_squeezed(const std::vector<index_t>& shape, const View<T, Rank>& view) {
  std::size_t i = 0;
  int j = 0;
  for (;;) {
    while (i < shape.size() && shape[i] == 1) ++i;
    while (j < Rank && view.extent(j) == 1) ++j;
    if (i == shape.size() || j == Rank) return i == shape.size() && j == Rank;
    if (shape[i++] != view.extent(j++)) return false;
  }
}

// What stands in the way of loading, gathered over all parameters and told in one message.
class LoadProblems {
 public:
  void missing(const std::string& name, const std::string& shape) {
    add(&missing_, name + " " + shape);
  }
  void mismatch(const std::string& name, const std::string& found, const std::string& wanted) {
    add(&mismatched_, name + " is " + found + ", must be " + wanted);
  }
  void unexpected(const std::string& name, const std::string& shape) {
    add(&unexpected_, name + " " + shape);
  }
  void other(const Result& result) {
    if (other_) other_ = result;
  }

  Result result(const std::string& where) const {
    std::string message;
    const auto list = [&message](const char* what, const std::string& names) {
      if (!names.empty()) message += (message.empty() ? "" : "; ") + std::string(what) + names;
    };
    list("missing parameters: ", missing_);
    list("wrong shapes: ", mismatched_);
    list("parameters that the configuration has no place for: ", unexpected_);
    if (message.empty()) return other_;
    const ErrorCode code = !missing_.empty()      ? ErrorCode::missing
                           : !mismatched_.empty() ? ErrorCode::shape_mismatch
                                                  : ErrorCode::unexpected;
    return Result::error(code, where + ": " + message);
  }

 private:
  static void add(std::string* list, const std::string& item) {
    *list += (list->empty() ? "" : ", ") + item;
  }
  std::string missing_, mismatched_, unexpected_;
  Result other_;
};

// `find(name)` gives the TensorInfo of a canonical name or null.
template <class Find, class Parameters>
void check_parameters(const std::string& where, const Find& find, const Parameters& parameters,
                      LoadProblems* problems) {
  parameters.for_each([&](std::string_view name, const auto& view) {
    using Element = typename std::decay_t<decltype(view)>::element_type;
    const TensorInfo* tensor = find(name);
    if (tensor == nullptr) {
      problems->missing(std::string(name), shape_text(view));
    } else if (!same_squeezed(tensor->shape, view)) {
      problems->mismatch(std::string(name), shape_text(tensor->shape), shape_text(view));
    } else {
      const Result result = check_destination<Element>(where, *tensor, view);
      if (!result) problems->other(result);
    }
  });
}

template <class Find, class Parameters>
void copy_parameters(const Find& find, const Parameters& parameters) {
  parameters.for_each(
      [&](std::string_view name, const auto& view) { copy_elements(*find(name), view); });
}

}  // namespace detail

// Reads the text of a model.safetensors.index.json: which file holds each tensor. Files must be
// names in the index's own directory.
inline Result parse_index(std::string_view text, const std::string& file,
                          std::map<std::string, std::string>* weight_map) {
  nlohmann::json object;
  Result result = detail::parse_json(text, file, &object);
  if (!result) return result;
  const auto map = object.find("weight_map");
  if (map == object.end() || !map->is_object()) {
    return Result::error(ErrorCode::invalid_config, file + ": must have an object weight_map");
  }
  std::map<std::string, std::string> read;
  for (const auto& [name, value] : map->items()) {
    const std::string shard = value.is_string() ? value.get<std::string>() : std::string();
    if (shard.empty() || shard == "." || shard == ".." ||
        shard.find_first_of("/\\:") != std::string::npos) {
      return Result::error(ErrorCode::invalid_config,
                           file + ": weight_map puts " + detail::quote_text(name) + " in " +
                               detail::quote_text(shard) +
                               ", must be the name of a file in the same directory");
    }
    read.emplace(name, shard);
  }
  *weight_map = std::move(read);
  return Result::ok();
}

// An open checkpoint: its configuration and its tensors, mapped, under canonical (Hugging Face)
// names whichever style the files use.
class Checkpoint {
 public:
  // On an error *checkpoint is as it was.
  static Result open(const std::filesystem::path& directory, Checkpoint* checkpoint) {
    Checkpoint opened;
    opened.name_ = detail::path_text(directory);
    Result result = opened.read_config(directory / "config.json");
    if (!result) return result;

    std::error_code ignored;
    const std::filesystem::path single = directory / "model.safetensors";
    const std::filesystem::path index = directory / "model.safetensors.index.json";
    if (std::filesystem::exists(single, ignored)) {
      result = opened.add_file(single);
    } else if (std::filesystem::exists(index, ignored)) {
      result = opened.add_shards(directory, index);
    } else {
      const bool pickled = std::filesystem::exists(directory / "pytorch_model.bin", ignored);
      return Result::error(ErrorCode::missing,
                           opened.name_ +
                               ": has neither model.safetensors nor model.safetensors.index.json" +
                               (pickled ? "; convert pytorch_model.bin to safetensors first" : ""));
    }
    if (result) *checkpoint = std::move(opened);
    return result;
  }

  // The directory as given.
  const std::string& name() const noexcept { return name_; }
  const HuggingFaceConfig& config() const noexcept { return config_; }
  // By canonical name.
  const std::map<std::string, const TensorInfo*, std::less<>>& tensors() const noexcept {
    return tensors_;
  }
  // By either spelling; null when there is no such tensor.
  const TensorInfo* find(std::string_view name) const {
    const auto at = tensors_.find(detail::canonical_name(name));
    return at == tensors_.end() ? nullptr : at->second;
  }

 private:
  Result read_config(const std::filesystem::path& path) {
    detail::MappedFile file;
    const Result result = detail::MappedFile::open(path, &file);
    if (!result) return result;
    return parse_config(file.text(), detail::path_text(path), &config_);
  }

  Result add_file(const std::filesystem::path& path) {
    SafetensorsFile file;
    Result result = SafetensorsFile::open(path, &file);
    if (!result) return result;
    files_.push_back(std::move(file));
    for (const TensorInfo& tensor : files_.back().tensors()) {
      if (result) result = add_tensor(tensor, detail::path_text(path));
    }
    return result;
  }

  Result add_shards(const std::filesystem::path& directory, const std::filesystem::path& index) {
    detail::MappedFile text;
    Result result = detail::MappedFile::open(index, &text);
    if (!result) return result;
    detail::WeightMap weight_map;
    result = parse_index(text.text(), detail::path_text(index), &weight_map);
    if (!result) return result;
    std::map<std::string, std::size_t> shards;
    for (const auto& [name, shard] : weight_map) {
      if (!shards.emplace(shard, files_.size()).second) continue;
      files_.emplace_back();
      result = SafetensorsFile::open(directory / shard, &files_.back());
      if (!result) return result;
    }
    std::string missing;
    for (const auto& [name, shard] : weight_map) {
      const TensorInfo* tensor = files_[shards[shard]].find(name);
      if (tensor == nullptr) {
        missing += (missing.empty() ? "" : ", ") + detail::quote_text(name) + " in " + shard;
      } else {
        result = add_tensor(*tensor, detail::path_text(index));
        if (!result) return result;
      }
    }
    if (missing.empty()) return Result::ok();
    return Result::error(ErrorCode::missing, detail::path_text(index) +
                                                 ": names tensors that are not there: " + missing);
  }

  Result add_tensor(const TensorInfo& tensor, const std::string& where) {
    if (tensors_.emplace(detail::canonical_name(tensor.name), &tensor).second) return Result::ok();
    return Result::error(ErrorCode::duplicate_name, where + ": holds both " + detail::kEmbedding +
                                                        " and " + detail::kOriginalEmbedding);
  }

  std::string name_ = "(no checkpoint)";
  HuggingFaceConfig config_;
  std::vector<SafetensorsFile> files_;
  std::map<std::string, const TensorInfo*, std::less<>> tensors_;
};

// Fills every parameter from the checkpoint, converting as SafetensorsFile::copy_to does. Before
// the first byte is written everything is checked: all missing parameters are listed with the
// shapes wanted, as are all wrong shapes (extents of one aside) and all tensors that no parameter
// asks for. A tied model's lm_head.weight may be absent, or present if it is the embedding.
template <class Parameters>
Result load_parameters(const Checkpoint& checkpoint, const Parameters& parameters) {
  const auto find = [&](std::string_view name) { return checkpoint.find(name); };
  detail::LoadProblems problems;
  detail::check_parameters(checkpoint.name(), find, parameters, &problems);

  std::set<std::string, std::less<>> wanted;
  parameters.for_each(
      [&](std::string_view name, const auto&) { wanted.insert(detail::canonical_name(name)); });
  const TensorInfo* embedding = checkpoint.find(detail::kEmbedding);
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    if (wanted.count(name) > 0) continue;
    const bool tied_copy = name == detail::kHead && checkpoint.config().tie_word_embeddings &&
                           embedding != nullptr && tensor->dtype == embedding->dtype &&
                           tensor->shape == embedding->shape &&
                           std::memcmp(tensor->data, embedding->data, tensor->bytes) == 0;
    if (!tied_copy) problems.unexpected(name, detail::shape_text(tensor->shape));
  }
  const Result result = problems.result(checkpoint.name());
  if (result) detail::copy_parameters(find, parameters);
  return result;
}

// The same from one file of any kind, whose names are `prefix` followed by those of the parameters;
// other tensors in the file are left alone.
template <class Parameters>
Result load_parameters(const SafetensorsFile& file, const Parameters& parameters,
                       const std::string& prefix = "") {
  const auto find = [&](std::string_view name) { return file.find(prefix + std::string(name)); };
  detail::LoadProblems problems;
  detail::check_parameters(file.name(), find, parameters, &problems);
  const Result result = problems.result(file.name());
  if (result) detail::copy_parameters(find, parameters);
  return result;
}

// Writes a checkpoint that load_parameters reads back, and transformers (Hugging Face style) or
// mamba_ssm (original style) with it: model.safetensors first, then config.json, each atomically,
// in a directory that is created where it is not there. Parameters keep their dtypes;
// conv1d.weight is stored as (channels, 1, width).
template <class Parameters>
Result save_checkpoint(const std::filesystem::path& directory, const HuggingFaceConfig& config,
                       const Parameters& parameters, KeyStyle style = KeyStyle::huggingface) {
  const auto ends_with = [](std::string_view text, std::string_view end) {
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
  };
  SafetensorsWriter writer;
  writer.set_metadata("format", "pt");
  const char* torch_dtype = "float32";
  parameters.for_each([&](std::string_view name, const auto& view) {
    using V = std::decay_t<decltype(view)>;
    using T = typename V::value_type;
    std::string key(name);
    if (key == detail::kEmbedding) {
      torch_dtype = std::is_same_v<T, double> ? "float64"
                    : std::is_same_v<T, bf16> ? "bfloat16"
                    : std::is_same_v<T, f16>  ? "float16"
                                              : "float32";
      if (style == KeyStyle::original) key = detail::kOriginalEmbedding;
    }
    if (V::rank == 2 && ends_with(key, "conv1d.weight")) {
      writer.add(std::move(key), view, {view.extent(0), 1, view.extent(V::rank - 1)});
    } else {
      writer.add(std::move(key), view);
    }
  });
  std::string text;
  Result result = write_config(config, style, torch_dtype, &text);
  if (!result) return result;
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) {
    return Result::error(ErrorCode::cannot_write,
                         detail::path_text(directory) + ": cannot create: " + error.message());
  }
  result = writer.write(directory / "model.safetensors");
  if (!result) return result;
  detail::AtomicFile file;
  result = file.create(directory / "config.json");
  if (result) result = file.append(text.data(), text.size());
  return result ? file.commit() : result;
}

}  // namespace io
SSM_NAMESPACE_END
