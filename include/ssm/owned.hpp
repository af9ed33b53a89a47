#pragma once

#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "ssm/core/arena.hpp"
#include "ssm/core/view.hpp"

// Opt-in owning memory: the only header that allocates, and the only one outside io/ that may throw
// (std::bad_alloc when memory is short, std::bad_array_new_length when a size is negative or does
// not fit; built without exceptions it ends the program there). The library itself never uses it;
// it serves set-up code, tests and examples.

SSM_NAMESPACE_BEGIN

namespace detail {

struct AlignedDelete {
  void operator()(unsigned char* data) const noexcept {
    ::operator delete(data, std::align_val_t(Arena::kAlignment));
  }
};
using AlignedBytes = std::unique_ptr<unsigned char, AlignedDelete>;

[[noreturn]] inline void bad_size() {
#if defined(__cpp_exceptions)
  throw std::bad_array_new_length();
#else
  std::abort();
#endif
}

// Asks for 2 MiB pages where a piece has room for them: weights in such pages are read 1.2 (f32) to
// 1.5 (bf16) times as fast (bench_linear, head), since prefetching ends where a page does.
inline void prefer_large_pages(void* data, std::size_t bytes) noexcept {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t kPage = std::uintptr_t{2} << 20;
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  const std::uintptr_t skip = (kPage - address % kPage) % kPage;
  if (bytes < skip + kPage) return;
  // Advice: where the system refuses, the memory is as good as it was.
  (void)madvise(static_cast<unsigned char*>(data) + skip, (bytes - skip) / kPage * kPage,
                MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

// Null for zero bytes.
inline AlignedBytes allocate_aligned(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  if (bytes > std::numeric_limits<std::size_t>::max() / 2) bad_size();
  void* const data = ::operator new(bytes, std::align_val_t(Arena::kAlignment));
  prefer_large_pages(data, bytes);
  return AlignedBytes(static_cast<unsigned char*>(data));
}

}  // namespace detail

// A contiguous row-major array that owns its elements: 64-byte aligned, zero at first, copied with
// its contents (a state is snapshot by copying it and rolled back by assigning the copy).
//
//   Owned<float, 3> x({batch, length, channels});
//   x.view()(0, 0, 0) = 1.0f;
//
// Memory with another order of dimensions is a transposed view: the state (sequences, channels,
// d_state) with channels contiguous is Owned<float, 3>({sequences, d_state, channels}).view()
// .transpose(1, 2).
template <class T, int Rank>
class Owned {
  static_assert(!std::is_const<T>::value, "an owned array is written by its owner");
  static_assert(std::is_trivially_destructible<T>::value && std::is_copy_constructible<T>::value,
                "elements are plain values");
  static_assert(alignof(T) <= Arena::kAlignment, "over-aligned type");

 public:
  // Absent: view().present() is false.
  Owned() = default;

  // Extents are >= 0; a zero extent owns nothing and its view is present and empty.
  explicit Owned(const Extents<Rank>& extents)
      : bytes_(detail::allocate_aligned(checked_bytes(extents))), view_(elements(), extents) {
    std::uninitialized_value_construct_n(view_.data(), size());
  }

  Owned(const Owned& other)
      : bytes_(detail::allocate_aligned(other.size() * sizeof(T))),
        view_(elements(), other.extents()) {
    std::uninitialized_copy_n(other.view_.data(), size(), view_.data());
  }
  Owned(Owned&& other) noexcept
      : bytes_(std::move(other.bytes_)), view_(std::exchange(other.view_, View<T, Rank>())) {}
  Owned& operator=(Owned other) noexcept {
    bytes_ = std::move(other.bytes_);
    view_ = std::exchange(other.view_, View<T, Rank>());
    return *this;
  }
  ~Owned() = default;

  View<T, Rank> view() noexcept { return view_; }
  View<const T, Rank> view() const noexcept { return view_; }
  T* data() noexcept { return view_.data(); }
  const T* data() const noexcept { return view_.data(); }
  index_t extent(int i) const noexcept { return view_.extent(i); }
  std::size_t size() const noexcept { return static_cast<std::size_t>(view_.size()); }

 private:
  T* elements() const noexcept { return reinterpret_cast<T*>(bytes_.get()); }
  Extents<Rank> extents() const noexcept {
    Extents<Rank> extents{};
    for (int i = 0; i < Rank; ++i) extents[i] = view_.extent(i);
    return extents;
  }
  static std::size_t checked_bytes(const Extents<Rank>& extents) {
    for (int i = 0; i < Rank; ++i) {
      if (extents[i] < 0) detail::bad_size();
    }
    const index_t count = View<T, Rank>(nullptr, extents).size();
    if (count > std::numeric_limits<index_t>::max() / static_cast<index_t>(sizeof(T))) {
      detail::bad_size();
    }
    return static_cast<std::size_t>(count) * sizeof(T);
  }

  detail::AlignedBytes bytes_;
  View<T, Rank> view_;
};

// Scratch memory for as many calls as need it; allocate it once, for the largest.
//
//   OwnedWorkspace workspace(block.workspace_bytes(batch, length, pass));
//   Status status = block.forward(backend, x, y, state, workspace.arena());
class OwnedWorkspace {
 public:
  OwnedWorkspace() = default;
  explicit OwnedWorkspace(std::size_t bytes)
      : bytes_(detail::allocate_aligned(bytes)), size_(bytes) {}
  OwnedWorkspace(OwnedWorkspace&& other) noexcept
      : bytes_(std::move(other.bytes_)), size_(std::exchange(other.size_, 0)) {}
  OwnedWorkspace& operator=(OwnedWorkspace&& other) noexcept {
    bytes_ = std::move(other.bytes_);
    size_ = std::exchange(other.size_, 0);
    return *this;
  }
  OwnedWorkspace(const OwnedWorkspace&) = delete;
  OwnedWorkspace& operator=(const OwnedWorkspace&) = delete;
  ~OwnedWorkspace() = default;

  // Runs `f` on a counting arena, allocates what it counted, and returns f of an arena over that:
  //
  //   OwnedWorkspace memory;
  //   const auto weights = memory.carve([&](Arena& a) {
  //     return MambaParameters<float>::carve(config, a);
  //   });
  template <class F>
  auto carve(F&& f) {
    Arena counter;
    f(counter);
    *this = OwnedWorkspace(counter.bytes_needed());
    Arena exact = arena();
    return f(exact);
  }

  // Reallocates, without keeping the contents, when there are fewer bytes than this.
  void reserve(std::size_t bytes) {
    if (bytes > size_) *this = OwnedWorkspace(bytes);
  }

  // The whole workspace, uncarved. Arenas made by two calls share the same memory.
  Arena arena() const noexcept { return Arena(bytes_.get(), size_); }
  std::size_t size() const noexcept { return size_; }

 private:
  detail::AlignedBytes bytes_;
  std::size_t size_ = 0;
};

SSM_NAMESPACE_END
