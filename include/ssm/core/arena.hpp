#pragma once

#include <limits>

#include "ssm/core/status.hpp"
#include "ssm/core/view.hpp"

SSM_NAMESPACE_BEGIN

// Caller-owned scratch, carved front to back. A default-constructed Arena only counts: running the
// carving code on it gives the bytes that the same code takes from a real one, so the size and the
// use of a workspace cannot drift apart.
//
//   Arena counter;  carve(counter);  void* memory = my_alloc(counter.bytes_needed());
//   Arena arena(memory, counter.bytes_needed());  carve(arena);
//
// Passed by value: a callee's carving ends with the call, and the caller's arena is as it was.
class Arena {
 public:
  // Every piece starts on a cache line, which is also the widest vector.
  static constexpr std::size_t kAlignment = 64;

  Arena() = default;

  // `data` may have any alignment; at most kAlignment - 1 bytes are lost to it, which
  // bytes_needed() has included.
  Arena(void* data, std::size_t bytes) noexcept : counting_(false) {
    const auto address = reinterpret_cast<std::uintptr_t>(data);
    const std::size_t skip = (kAlignment - address % kAlignment) % kAlignment;
    begin_ = data == nullptr || bytes < skip ? nullptr : static_cast<unsigned char*>(data) + skip;
    capacity_ = begin_ == nullptr ? 0 : bytes - skip;
  }

  // `count` uninitialised elements, or null when counting or when the arena is too small; the
  // latter is remembered and reported by exhausted().
  template <class T>
  T* allocate(index_t count) noexcept {
    static_assert(alignof(T) <= kAlignment, "over-aligned type");
    if (count <= 0) return nullptr;
    constexpr std::size_t kLimit = std::numeric_limits<std::size_t>::max() / 2;
    const std::size_t n = static_cast<std::size_t>(count);
    if (used_ >= kLimit || n > (kLimit - used_) / sizeof(T)) {
      exhausted_ = true;
      used_ = kLimit;
      return nullptr;
    }
    const std::size_t offset = used_;
    used_ += (n * sizeof(T) + kAlignment - 1) / kAlignment * kAlignment;
    if (counting_) return nullptr;
    if (used_ > capacity_) {
      exhausted_ = true;
      return nullptr;
    }
    return reinterpret_cast<T*>(begin_ + offset);
  }

  // A contiguous View over freshly carved memory.
  template <class T, int Rank>
  View<T, Rank> view(const Extents<Rank>& extents) noexcept {
    const View<T, Rank> shape(nullptr, extents);
    return View<T, Rank>(allocate<T>(shape.size()), extents);
  }

  bool counting() const noexcept { return counting_; }
  // True once an allocation did not fit (or its size overflowed).
  bool exhausted() const noexcept { return exhausted_; }
  // Ok, or workspace_too_small with the bytes there are and the bytes needed: what was carved from
  // an arena that only counts is not there either.
  Status status(const char* operation) const noexcept {
    if (!exhausted_ && !(counting_ && used_ > 0)) return Status::ok();
    return Status::error(ErrorCode::workspace_too_small, operation, "workspace bytes",
                         static_cast<double>(capacity_), Relation::at_least,
                         static_cast<double>(used_));
  }
  std::size_t used() const noexcept { return used_; }
  std::size_t capacity() const noexcept { return capacity_; }
  // The bytes to hand to Arena(data, bytes) so that everything carved so far fits.
  std::size_t bytes_needed() const noexcept { return used_ == 0 ? 0 : used_ + kAlignment - 1; }

 private:
  unsigned char* begin_ = nullptr;
  std::size_t capacity_ = 0;
  std::size_t used_ = 0;
  bool counting_ = true;
  bool exhausted_ = false;
};

SSM_NAMESPACE_END
