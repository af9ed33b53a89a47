#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "ssm/io/safetensors.hpp"

SSM_NAMESPACE_BEGIN
namespace io {

// Where a training stands, besides its arrays.
struct TrainingProgress {
  index_t step = 0;          // steps taken
  std::uint64_t random = 0;  // state of the generator of the data: Random(random) goes on
  // What must be the same for a resumed training to be the one that was interrupted: "d_model" …
  std::map<std::string, std::string> settings;
};

namespace detail {
inline constexpr const char* kTrainingFormat = "ssm-training-1";
inline constexpr const char* kSetting = "setting.";
}  // namespace detail

// Writes a training to one safetensors file, atomically: a training interrupted at any time leaves
// the new checkpoint or the old one. State is any object with for_each(f) that calls f(name, view)
// with views on host memory; the library's TrainingState is one, and its parameters have their
// Hugging Face names. Arrays keep their types, so that the training resumes bit for bit.
template <class State>
Result save_training(const std::filesystem::path& path, const State& state,
                     const TrainingProgress& progress) {
  SafetensorsWriter writer;
  writer.set_metadata("format", detail::kTrainingFormat);
  writer.set_metadata("step", std::to_string(progress.step));
  writer.set_metadata("random", std::to_string(progress.random));
  for (const auto& [key, value] : progress.settings) {
    writer.set_metadata(detail::kSetting + key, value);
  }
  state.for_each([&](const char* name, const auto& view) { writer.add(name, view); });
  return writer.write(path);
}

// Reads what save_training wrote. progress->settings say what the file must have been written
// with; a difference is named with both values. Every array must be there with its own shape and
// dtype, and no other. Nothing is written unless everything is.
template <class State>
Result load_training(const std::filesystem::path& path, const State& state,
                     TrainingProgress* progress) {
  SafetensorsFile file;
  Result result = SafetensorsFile::open(path, &file);
  if (!result) return result;
  const auto& metadata = file.metadata();
  const auto found = [&](const std::string& key) {
    const auto at = metadata.find(key);
    return at == metadata.end() ? std::string("(absent)") : at->second;
  };
  if (found("format") != detail::kTrainingFormat) {
    return Result::error(ErrorCode::unsupported_model,
                         file.name() + ": is no checkpoint of a training: format is " +
                             detail::quote_text(found("format")) + ", must be " +
                             detail::quote_text(detail::kTrainingFormat));
  }
  for (const auto& [key, value] : progress->settings) {
    const std::string written = found(detail::kSetting + key);
    if (written == value) continue;
    return Result::error(ErrorCode::invalid_config, file.name() + ": was written with " + key +
                                                        " " + detail::quote_text(written) +
                                                        ", must be " + detail::quote_text(value));
  }
  std::uint64_t numbers[2] = {0, 0};
  const char* const keys[2] = {"step", "random"};
  for (int i = 0; i < 2; ++i) {
    const std::string text = found(keys[i]);
    bool valid = !text.empty() && text.size() <= 20;
    for (const char c : text) {
      const auto digit = static_cast<std::uint64_t>(c - '0');
      const std::uint64_t limit =
          i == 0 ? std::numeric_limits<index_t>::max() : std::numeric_limits<std::uint64_t>::max();
      valid = valid && c >= '0' && c <= '9' && numbers[i] <= (limit - digit) / 10;
      if (valid) numbers[i] = 10 * numbers[i] + digit;
    }
    if (!valid) {
      return Result::error(ErrorCode::invalid_config, file.name() + ": " + keys[i] + " is " +
                                                          detail::quote_text(text) +
                                                          ", must be a whole number");
    }
  }

  std::set<std::string, std::less<>> wanted;
  state.for_each([&](const char* name, const auto& view) {
    using V = std::decay_t<decltype(view)>;
    wanted.insert(name);
    const TensorInfo* const tensor = file.find(name);
    if (!result) return;
    if (tensor == nullptr) {
      result = Result::error(ErrorCode::missing,
                             file.name() + ": has no tensor " + detail::quote_text(name));
      return;
    }
    bool same = tensor->shape.size() == static_cast<std::size_t>(V::rank);
    for (int i = 0; same && i < V::rank; ++i) {
      same = tensor->shape[static_cast<std::size_t>(i)] == view.extent(i);
    }
    const Dtype dtype = detail::dtype_of<typename V::value_type>();
    if (!same || tensor->dtype != dtype) {
      result =
          Result::error(same ? ErrorCode::dtype_mismatch : ErrorCode::shape_mismatch,
                        detail::tensor_text(file.name(), *tensor) + "is " +
                            dtype_name(tensor->dtype) + " " + detail::shape_text(tensor->shape) +
                            ", must be " + dtype_name(dtype) + " " + detail::shape_text(view));
    }
  });
  for (const TensorInfo& tensor : file.tensors()) {
    if (result && wanted.count(tensor.name) == 0) {
      result = Result::error(ErrorCode::unexpected, detail::tensor_text(file.name(), tensor) +
                                                        "has no place in this training");
    }
  }
  if (!result) return result;
  state.for_each(
      [&](const char* name, const auto& view) { detail::copy_elements(*file.find(name), view); });
  progress->step = static_cast<index_t>(numbers[0]);
  progress->random = numbers[1];
  return result;
}

}  // namespace io
SSM_NAMESPACE_END
