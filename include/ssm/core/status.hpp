#pragma once

#include <cstdio>

#include "ssm/core/config.hpp"

SSM_NAMESPACE_BEGIN

enum class ErrorCode {
  ok,
  invalid_argument,  // a value outside its range, a null pointer, options that exclude each other
  shape_mismatch,    // two extents that must agree do not
  size_overflow,     // a product of extents does not fit in 63 bits
  workspace_too_small,  // the arena holds fewer bytes than the call needs
  unsupported,          // correct input that this backend does not handle
  device_error,         // a device runtime refused the work; the reason is its own text
};

// How the value found had to relate to the value wanted.
enum class Relation { none, equal, not_equal, at_least, at_most, greater, less, divides };

// The outcome of a call: ok, or which condition on which argument failed, with the value found and
// the value wanted. It never allocates and never throws; `operation` and `argument` point at string
// literals.
class [[nodiscard]] Status {
 public:
  Status() = default;

  static Status ok() noexcept { return Status(); }

  static Status error(ErrorCode code, const char* operation, const char* argument, double found,
                      Relation relation, double wanted, int dimension = -1) noexcept {
    return Status(code, operation, argument, found, relation, wanted, dimension, nullptr);
  }

  // For conditions that are not a comparison; `reason` is a string literal that completes the
  // sentence "<argument> …", for example "must not be null".
  static Status error(ErrorCode code, const char* operation, const char* argument,
                      const char* reason) noexcept {
    return Status(code, operation, argument, 0, Relation::none, 0, -1, reason);
  }

  bool is_ok() const noexcept { return code_ == ErrorCode::ok; }
  explicit operator bool() const noexcept { return is_ok(); }

  ErrorCode code() const noexcept { return code_; }
  const char* operation() const noexcept { return operation_; }
  const char* argument() const noexcept { return argument_; }
  Relation relation() const noexcept { return relation_; }
  int dimension() const noexcept { return dimension_; }
  double found() const noexcept { return found_; }
  double wanted() const noexcept { return wanted_; }

  // A sentence for people, in a buffer of its own: status.message().text.
  struct Message {
    char text[256];
  };
  Message message() const noexcept {
    Message m;
    if (is_ok()) {
      std::snprintf(m.text, sizeof(m.text), "ok");
    } else if (reason_ != nullptr) {
      std::snprintf(m.text, sizeof(m.text), "%s: %s %s", operation_, argument_, reason_);
    } else if (dimension_ >= 0) {
      std::snprintf(m.text, sizeof(m.text), "%s: %s.extent(%d) is %.17g, %s %.17g", operation_,
                    argument_, dimension_, found_, phrase(relation_), wanted_);
    } else {
      std::snprintf(m.text, sizeof(m.text), "%s: %s is %.17g, %s %.17g", operation_, argument_,
                    found_, phrase(relation_), wanted_);
    }
    return m;
  }

 private:
  Status(ErrorCode code, const char* operation, const char* argument, double found,
         Relation relation, double wanted, int dimension, const char* reason) noexcept
      : code_(code),
        relation_(relation),
        dimension_(dimension),
        operation_(operation),
        argument_(argument),
        reason_(reason),
        found_(found),
        wanted_(wanted) {}

  static const char* phrase(Relation relation) noexcept {
    switch (relation) {
      case Relation::equal:
        return "must equal";
      case Relation::not_equal:
        return "must not equal";
      case Relation::at_least:
        return "must be at least";
      case Relation::at_most:
        return "must be at most";
      case Relation::greater:
        return "must be greater than";
      case Relation::less:
        return "must be less than";
      case Relation::divides:
        return "must divide";
      case Relation::none:
        break;
    }
    return "is not";
  }

  ErrorCode code_ = ErrorCode::ok;
  Relation relation_ = Relation::none;
  int dimension_ = -1;  // which extent of the argument, or -1 for the argument itself
  const char* operation_ = "";
  const char* argument_ = "";
  const char* reason_ = nullptr;
  double found_ = 0;
  double wanted_ = 0;
};

SSM_NAMESPACE_END
