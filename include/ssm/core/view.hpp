#pragma once

#include <cassert>
#include <type_traits>

#include "ssm/core/config.hpp"

SSM_NAMESPACE_BEGIN

// a * b for extents, saturating at the largest index_t when the product does not fit.
SSM_HOST_DEVICE constexpr index_t saturating_mul(index_t a, index_t b) noexcept {
  constexpr index_t kMax = 0x7fffffffffffffff;
  if (a <= 0 || b <= 0) return 0;
  return a > kMax / b ? kMax : a * b;
}

// One index_t per dimension; brace-initialised: View<float, 2>(data, {rows, columns}).
template <int Rank>
struct Extents {
  index_t values[Rank];
  SSM_HOST_DEVICE constexpr index_t& operator[](int i) noexcept { return values[i]; }
  SSM_HOST_DEVICE constexpr index_t operator[](int i) const noexcept { return values[i]; }
};

// A pointer with extents and element strides: the only way arrays enter and leave this library.
// Trivially copyable, never owning. Extents and strides count elements, not bytes; strides may be
// zero (broadcast) or negative. View<T, R> converts to View<const T, R>.
//
// A default-constructed View is "absent", which is how optional arguments are left out. A View with
// a zero extent is present and empty, and may hold a null pointer.
template <class T, int Rank>
class View {
  static_assert(Rank >= 1, "a View has at least one dimension");

 public:
  using element_type = T;
  using value_type = std::remove_cv_t<T>;
  static constexpr int rank = Rank;

  View() = default;

  // Row-major and contiguous: the last dimension has stride 1.
  SSM_HOST_DEVICE constexpr View(T* data, const Extents<Rank>& extents) noexcept : data_(data) {
    index_t stride = 1;
    for (int i = Rank - 1; i >= 0; --i) {
      extents_[i] = extents[i];
      strides_[i] = stride;
      stride = saturating_mul(stride, extents_[i] > 0 ? extents_[i] : 1);
    }
  }

  SSM_HOST_DEVICE constexpr View(T* data, const Extents<Rank>& extents,
                                 const Extents<Rank>& strides) noexcept
      : data_(data) {
    for (int i = 0; i < Rank; ++i) {
      extents_[i] = extents[i];
      strides_[i] = strides[i];
    }
  }

  template <class U,
            class = std::enable_if_t<std::is_same<const U, T>::value && !std::is_same<U, T>::value>>
  SSM_HOST_DEVICE constexpr View(const View<U, Rank>& other) noexcept : data_(other.data()) {
    for (int i = 0; i < Rank; ++i) {
      extents_[i] = other.extent(i);
      strides_[i] = other.stride(i);
    }
  }

  SSM_HOST_DEVICE constexpr T* data() const noexcept { return data_; }
  SSM_HOST_DEVICE constexpr index_t extent(int i) const noexcept { return extents_[i]; }
  SSM_HOST_DEVICE constexpr index_t stride(int i) const noexcept { return strides_[i]; }

  // The number of elements; saturates at the largest index_t.
  SSM_HOST_DEVICE constexpr index_t size() const noexcept {
    index_t n = 1;
    for (int i = 0; i < Rank; ++i) n = saturating_mul(n, extents_[i]);
    return n;
  }

  // True unless default-constructed (null data and every extent zero).
  SSM_HOST_DEVICE constexpr bool present() const noexcept {
    if (data_ != nullptr) return true;
    for (int i = 0; i < Rank; ++i) {
      if (extents_[i] != 0) return true;
    }
    return false;
  }

  SSM_HOST_DEVICE constexpr bool contiguous() const noexcept {
    index_t expected = 1;
    for (int i = Rank - 1; i >= 0; --i) {
      if (extents_[i] != 1 && strides_[i] != expected) return false;
      expected = saturating_mul(expected, extents_[i] > 0 ? extents_[i] : 1);
    }
    return true;
  }

  template <class... Index>
  SSM_HOST_DEVICE constexpr T& operator()(Index... index) const noexcept {
    static_assert(sizeof...(Index) == Rank, "one index per dimension");
    const index_t indices[] = {static_cast<index_t>(index)...};
    index_t offset = 0;
    for (int i = 0; i < Rank; ++i) {
#if SSM_BOUNDS_CHECK
      assert(indices[i] >= 0 && indices[i] < extents_[i] && "View index out of range");
#endif
      offset += indices[i] * strides_[i];
    }
    return data_[offset];
  }

  // The part [begin, begin + length) of dimension `dim`.
  SSM_HOST_DEVICE constexpr View slice(int dim, index_t begin, index_t length) const noexcept {
    View out = *this;
    if (data_ != nullptr) out.data_ = data_ + begin * strides_[dim];
    out.extents_[dim] = length;
    return out;
  }

  // Fixes dimension `dim` at `index`; the rank drops by one.
  SSM_HOST_DEVICE constexpr View<T, (Rank > 1 ? Rank - 1 : 1)> select(
      int dim, index_t index) const noexcept {
    static_assert(Rank > 1, "select needs a View of rank two or more");
    Extents<Rank - 1> extents{};
    Extents<Rank - 1> strides{};
    int out = 0;
    for (int i = 0; i < Rank; ++i) {
      if (i == dim) continue;
      extents[out] = extents_[i];
      strides[out] = strides_[i];
      ++out;
    }
    T* data = data_ == nullptr ? nullptr : data_ + index * strides_[dim];
    return View<T, Rank - 1>(data, extents, strides);
  }

  // Swaps two dimensions: (batch, channels, length) memory seen as (batch, length, channels).
  SSM_HOST_DEVICE constexpr View transpose(int a, int b) const noexcept {
    View out = *this;
    out.extents_[a] = extents_[b];
    out.extents_[b] = extents_[a];
    out.strides_[a] = strides_[b];
    out.strides_[b] = strides_[a];
    return out;
  }

  // Reverses the order of dimension `dim` without touching memory.
  SSM_HOST_DEVICE constexpr View reverse(int dim) const noexcept {
    View out = *this;
    if (data_ != nullptr && extents_[dim] > 0) {
      out.data_ = data_ + (extents_[dim] - 1) * strides_[dim];
    }
    out.strides_[dim] = -strides_[dim];
    return out;
  }

 private:
  T* data_ = nullptr;
  index_t extents_[Rank] = {};
  index_t strides_[Rank] = {};
};

SSM_NAMESPACE_END
