#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "ssm/io/result.hpp"

SSM_NAMESPACE_BEGIN
namespace io {
namespace detail {

// Builds a JSON document and refuses what nlohmann's own builder lets pass: a key twice in one
// object (it keeps the last) and nesting without bound. The signatures are those of nlohmann's SAX
// interface.
class JsonBuilder {
 public:
  static constexpr std::size_t kMaxDepth = 64;

  explicit JsonBuilder(std::string file) : file_(std::move(file)) {}

  bool null() { return place(nullptr); }
  bool boolean(bool value) { return place(value); }
  bool number_integer(std::int64_t value) { return place(value); }
  bool number_unsigned(std::uint64_t value) { return place(value); }
  bool number_float(double value, const std::string&) { return place(value); }
  bool string(std::string& value) { return place(std::move(value)); }
  bool binary(std::vector<std::uint8_t>&) { return false; }
  bool start_object(std::size_t) { return open(nlohmann::json::object()); }
  bool start_array(std::size_t) { return open(nlohmann::json::array()); }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool key(std::string& name) {
    if (stack_.back()->contains(name)) {
      result_ = Result::error(ErrorCode::duplicate_name,
                              file_ + ": the key " + quote_text(name) + " appears twice");
      return false;
    }
    key_ = name;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) {
    result_ =
        Result::error(ErrorCode::invalid_json, file_ + ": is not valid JSON at byte " +
                                                   std::to_string(position) + ": " + error.what());
    return false;
  }

  const Result& result() const { return result_; }
  nlohmann::json& root() { return root_; }

 private:
  nlohmann::json* insert(nlohmann::json value) {
    if (stack_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    if (stack_.back()->is_array()) {
      stack_.back()->push_back(std::move(value));
      return &stack_.back()->back();
    }
    nlohmann::json& slot = (*stack_.back())[key_];
    slot = std::move(value);
    return &slot;
  }
  bool place(nlohmann::json value) {
    insert(std::move(value));
    return true;
  }
  bool open(nlohmann::json value) {
    if (stack_.size() == kMaxDepth) {
      result_ = Result::error(ErrorCode::invalid_json, file_ + ": is nested deeper than " +
                                                           std::to_string(kMaxDepth) + " levels");
      return false;
    }
    stack_.push_back(insert(std::move(value)));
    return true;
  }
  bool close() {
    stack_.pop_back();
    return true;
  }

  std::string file_;
  nlohmann::json root_;
  std::vector<nlohmann::json*> stack_;  // the containers around the value being read
  std::string key_;
  Result result_;
};

// Python writes the floats NaN, Infinity and -Infinity as bare words, which JSON does not have and
// which published configurations contain. Outside strings they become null.
inline std::string without_python_floats(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  bool in_string = false;
  for (std::size_t i = 0; i < text.size();) {
    if (!in_string) {
      std::size_t word = 0;
      for (const std::string_view candidate : {"-Infinity", "Infinity", "NaN"}) {
        if (text.substr(i, candidate.size()) == candidate) word = candidate.size();
      }
      if (word > 0) {
        out += "null";
        i += word;
        continue;
      }
    }
    const char c = text[i++];
    out += c;
    if (c == '"') in_string = !in_string;
    if (in_string && c == '\\' && i < text.size()) out += text[i++];
  }
  return out;
}

// A document whose root is an object. `file` names it in messages.
inline Result parse_json(std::string_view text, const std::string& file, nlohmann::json* object) {
  constexpr std::size_t kMaxBytes = 100000000;
  if (text.size() > kMaxBytes) {
    return Result::error(ErrorCode::invalid_json, file + ": has " + std::to_string(text.size()) +
                                                      " bytes, must have at most " +
                                                      std::to_string(kMaxBytes));
  }
  // The parser takes a null byte for the end of its input and would not see what follows it.
  if (text.find('\0') != std::string_view::npos) {
    return Result::error(ErrorCode::invalid_json, file + ": contains a null byte");
  }
  const std::string clean = without_python_floats(text);
  JsonBuilder builder(file);
  const bool parsed = nlohmann::json::sax_parse(clean, &builder);
  if (!builder.result()) return builder.result();
  if (!parsed || !builder.root().is_object()) {
    return Result::error(ErrorCode::invalid_json, file + ": must be a JSON object");
  }
  *object = std::move(builder.root());
  return Result::ok();
}

}  // namespace detail
}  // namespace io
SSM_NAMESPACE_END
