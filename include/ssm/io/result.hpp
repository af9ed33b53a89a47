#pragma once

#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

#include "ssm/core/config.hpp"

SSM_NAMESPACE_BEGIN
namespace io {

enum class ErrorCode {
  ok,
  cannot_open,         // no such file, no permission, not a regular file
  cannot_read,         // the system refused to map or read an opened file
  cannot_write,        // the system refused to create, write, sync or rename
  truncated,           // the file ends before what it announces
  header_too_long,     // a header length beyond the file or beyond the format's limit
  invalid_json,        // not JSON: syntax, encoding, or a number out of every range
  invalid_header,      // JSON of the wrong form
  duplicate_name,      // the same key twice in one object
  unknown_dtype,       // a dtype outside the supported set
  invalid_offsets,     // overlapping, reversed, out of the data, or with a hole between tensors
  shape_mismatch,      // a shape that is not the one wanted, or that does not match its bytes
  size_overflow,       // a shape whose product does not fit in 63 bits
  dtype_mismatch,      // a tensor of another dtype than the one asked for
  misaligned,          // data at an address that a zero-copy view of its type cannot have
  value_out_of_range,  // an integer that the destination type cannot hold
  missing,             // tensors, keys or files that are not there
  unexpected,          // tensors that nothing asked for, or that contradict the configuration
  invalid_argument,    // a null pointer, a name that cannot be written, an empty list
  invalid_config,      // a value of config.json that is absent or outside its range
  unsupported_model,   // a model_type or an architecture option that is not supported
};

// The outcome of a call that touches files: ok, or a code and a sentence that names the file, the
// tensor or key, the value found and what is allowed. A call that fails has changed nothing.
class [[nodiscard]] Result {
 public:
  Result() = default;
  static Result ok() { return Result(); }
  static Result error(ErrorCode code, std::string message) {
    Result result;
    result.code_ = code;
    result.message_ = std::move(message);
    return result;
  }

  bool is_ok() const noexcept { return code_ == ErrorCode::ok; }
  explicit operator bool() const noexcept { return is_ok(); }
  ErrorCode code() const noexcept { return code_; }
  // Empty when ok.
  const std::string& message() const noexcept { return message_; }

 private:
  ErrorCode code_ = ErrorCode::ok;
  std::string message_;
};

namespace detail {

// Text from a file made fit for a message: control characters escaped, cut at 120 bytes.
inline std::string clean_text(std::string_view text) {
  constexpr std::size_t kLimit = 120;
  std::string out;
  for (const char c : text.substr(0, kLimit)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) {
      char escaped[5];
      std::snprintf(escaped, sizeof(escaped), "\\x%02x", static_cast<unsigned>(byte));
      out += escaped;
    } else {
      out += c;
    }
  }
  if (text.size() > kLimit) out += "...";
  return out;
}
inline std::string quote_text(std::string_view text) { return "'" + clean_text(text) + "'"; }

}  // namespace detail
}  // namespace io
SSM_NAMESPACE_END
