#pragma once

#include <limits>

#include "ssm/core/status.hpp"
#include "ssm/core/view.hpp"

SSM_NAMESPACE_BEGIN

// Collects the conditions of one operation; the first that fails is the one reported, later ones
// are skipped. Used by every operation before it writes anything:
//
//   Check check("rms_norm");
//   check.array("x", x).shape("y", y, {batch, length, channels}).at_least("eps", eps, 0.0);
//   return check.status();
class Check {
 public:
  explicit Check(const char* operation) noexcept : operation_(operation) {}

  Status status() const noexcept { return status_; }
  bool passed() const noexcept { return status_.is_ok(); }

  // Two extents that must agree.
  Check& equal(const char* argument, index_t found, index_t wanted) noexcept {
    return compare(found == wanted, ErrorCode::shape_mismatch, argument, found, Relation::equal,
                   wanted);
  }
  template <class V>
  Check& at_least(const char* argument, V found, V wanted) noexcept {
    return compare(found >= wanted, ErrorCode::invalid_argument, argument, found,
                   Relation::at_least, wanted);
  }
  template <class V>
  Check& at_most(const char* argument, V found, V wanted) noexcept {
    return compare(found <= wanted, ErrorCode::invalid_argument, argument, found, Relation::at_most,
                   wanted);
  }
  template <class V>
  Check& greater(const char* argument, V found, V bound) noexcept {
    return compare(found > bound, ErrorCode::invalid_argument, argument, found, Relation::greater,
                   bound);
  }
  Check& divides(const char* argument, index_t found, index_t whole) noexcept {
    return compare(found > 0 && whole % found == 0, ErrorCode::shape_mismatch, argument, found,
                   Relation::divides, whole);
  }
  Check& require(bool condition, ErrorCode code, const char* argument,
                 const char* reason) noexcept {
    if (passed() && !condition) status_ = Status::error(code, operation_, argument, reason);
    return *this;
  }
  // Folds in the outcome of a nested check.
  Check& also(const Status& nested) noexcept {
    if (passed()) status_ = nested;
    return *this;
  }

  // A present view: no negative extent, a size that fits in index_t, data unless it is empty.
  template <class T, int Rank>
  Check& array(const char* argument, const View<T, Rank>& view) noexcept {
    for (int i = 0; i < Rank; ++i) {
      compare(view.extent(i) >= 0, ErrorCode::invalid_argument, argument, view.extent(i),
              Relation::at_least, index_t{0}, i);
    }
    const index_t limit = std::numeric_limits<index_t>::max() / static_cast<index_t>(sizeof(T));
    require(view.size() < limit, ErrorCode::size_overflow, argument,
            "must have extents whose product fits in 63 bits of bytes");
    require(view.size() == 0 || view.data() != nullptr, ErrorCode::invalid_argument, argument,
            "must not be null");
    return *this;
  }

  // A present view whose extents are known: array() plus the extent of each dimension.
  template <class T, int Rank>
  Check& shape(const char* argument, const View<T, Rank>& view,
               const Extents<Rank>& wanted) noexcept {
    array(argument, view);
    for (int i = 0; i < Rank; ++i) {
      compare(view.extent(i) == wanted[i], ErrorCode::shape_mismatch, argument, view.extent(i),
              Relation::equal, wanted[i], i);
    }
    return *this;
  }
  // The same for an optional argument: absent passes.
  template <class T, int Rank>
  Check& optional_shape(const char* argument, const View<T, Rank>& view,
                        const Extents<Rank>& wanted) noexcept {
    return view.present() ? shape(argument, view, wanted) : *this;
  }

 private:
  template <class V>
  Check& compare(bool holds, ErrorCode code, const char* argument, V found, Relation relation,
                 V wanted, int dimension = -1) noexcept {
    if (passed() && !holds) {
      status_ = Status::error(code, operation_, argument, static_cast<double>(found), relation,
                              static_cast<double>(wanted), dimension);
    }
    return *this;
  }

  const char* operation_;
  Status status_;
};

SSM_NAMESPACE_END
