#pragma once

#include <algorithm>
#include <complex>
#include <cstring>
#include <map>
#include <memory>
#include <vector>

#include "ssm/core/dtype.hpp"
#include "ssm/core/view.hpp"
#include "support/random.hpp"

namespace ssm_test {

using ssm::index_t;

// Every byte of test memory that has not been given a value: a NaN in every floating type, -1 in
// integers.
inline constexpr unsigned char kPoison = 0xff;

// The allocations behind all live Tensors, so that a device backend can mirror a whole allocation,
// guard bands included, given a pointer into it.
class TestMemory {
 public:
  struct Block {
    unsigned char* begin;
    std::size_t bytes;
  };

  static void add(unsigned char* begin, std::size_t bytes) { blocks()[begin] = bytes; }
  static void remove(unsigned char* begin) { blocks().erase(begin); }

  // The block that holds `pointer`, or {nullptr, 0}.
  static Block find(const void* pointer) {
    auto* const p = static_cast<unsigned char*>(const_cast<void*>(pointer));
    auto next = blocks().upper_bound(p);
    if (next == blocks().begin()) return {nullptr, 0};
    const auto block = std::prev(next);
    return p <= block->first + block->second ? Block{block->first, block->second}
                                             : Block{nullptr, 0};
  }

 private:
  static std::map<unsigned char*, std::size_t>& blocks() {
    static std::map<unsigned char*, std::size_t> all;
    return all;
  }
};

// How a Tensor lies in memory.
enum class Layout {
  contiguous,
  padded,      // gaps between rows and between the elements of a row
  transposed,  // the last two dimensions swapped in memory
  reversed     // every stride negative
};
inline constexpr Layout kAllLayouts[] = {Layout::contiguous, Layout::padded, Layout::transposed,
                                         Layout::reversed};

// An owning test array between two guard bands. It starts poisoned: elements, gaps and guards.
template <class T, int Rank>
class Tensor {
 public:
  Tensor() = default;  // absent: view() is absent too

  explicit Tensor(const ssm::Extents<Rank>& extents, Layout layout = Layout::contiguous) {
    // Dimensions from the fastest in memory to the slowest.
    int order[Rank];
    for (int i = 0; i < Rank; ++i) order[i] = Rank - 1 - i;
    if constexpr (Rank > 1) {
      if (layout == Layout::transposed) std::swap(order[0], order[1]);
    }
    ssm::Extents<Rank> strides{};
    index_t span = layout == Layout::padded ? 2 : 1;
    for (const int i : order) {
      strides[i] = span;
      span = span * std::max<index_t>(extents[i], 1) + (layout == Layout::padded ? 3 : 0);
    }
    bytes_.reset(new Bytes(static_cast<std::size_t>(span + 2 * kGuard) * sizeof(T)));
    view_ = ssm::View<T, Rank>(reinterpret_cast<T*>(bytes_->data()) + kGuard, extents, strides);
    if (layout == Layout::reversed) {
      for (int i = 0; i < Rank; ++i) view_ = view_.reverse(i);
    }
  }

  const ssm::View<T, Rank>& view() const { return view_; }
  bool present() const { return bytes_ != nullptr; }

  template <class... Index>
  T& operator()(Index... index) const {
    return view_(index...);
  }

  // Calls f(element) for each element, last index fastest.
  template <class F>
  void for_each(F f) const {
    index_t index[Rank] = {};
    for (index_t i = 0; i < view_.size(); ++i) {
      f(view_.data()[offset(index)]);
      for (int k = Rank - 1; k >= 0 && ++index[k] == view_.extent(k); --k) index[k] = 0;
    }
  }

  // Elements uniform in [low, high), real and imaginary part alike, rounded to T.
  void fill(Random& random, double low, double high) const {
    for_each([&](T& v) {
      using R = ssm::real_t<T>;
      if constexpr (ssm::is_complex_v<T>) {
        const R re = static_cast<R>(random.uniform(low, high));
        v = T(re, static_cast<R>(random.uniform(low, high)));
      } else {
        v = from_double(random.uniform(low, high));
      }
    });
  }
  // Small integers in {low, …, high}: sums and products of them are exact in every order.
  void fill_integers(Random& random, index_t low, index_t high) const {
    for_each([&](T& v) { v = from_double(static_cast<double>(random.integer(low, high))); });
  }
  void fill(double value) const {
    for_each([&](T& v) { v = from_double(value); });
  }
  void poison() const { std::memset(bytes_->data(), kPoison, bytes_->size()); }

  // The elements in row-major order.
  std::vector<T> values() const {
    std::vector<T> out;
    out.reserve(static_cast<std::size_t>(view_.size()));
    for_each([&](const T& v) { out.push_back(v); });
    return out;
  }

  // The whole allocation, for before-and-after comparisons.
  std::vector<unsigned char> snapshot() const {
    return present() ? std::vector<unsigned char>(bytes_->data(), bytes_->data() + bytes_->size())
                     : std::vector<unsigned char>();
  }

  // True if no byte outside the elements was written since the poison.
  bool guards_intact() const {
    if (!present()) return true;
    std::vector<unsigned char> outside = snapshot();
    const auto* const base = reinterpret_cast<const T*>(bytes_->data());
    for_each([&](const T& v) {
      std::memset(outside.data() + static_cast<std::size_t>(&v - base) * sizeof(T), kPoison,
                  sizeof(T));
    });
    return all_poison(outside);
  }
  // True if nothing at all was written since the poison.
  bool untouched() const { return all_poison(snapshot()); }

  static T from_double(double value) {
    if constexpr (sizeof(T) == 2) {
      return T(static_cast<float>(value));
    } else {
      return T(static_cast<ssm::real_t<T>>(value));
    }
  }

 private:
  static constexpr index_t kGuard = 64;

  class Bytes {
   public:
    explicit Bytes(std::size_t bytes) : storage_(bytes, kPoison) {
      TestMemory::add(storage_.data(), storage_.size());
    }
    ~Bytes() { TestMemory::remove(storage_.data()); }
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
    unsigned char* data() { return storage_.data(); }
    std::size_t size() const { return storage_.size(); }

   private:
    std::vector<unsigned char> storage_;
  };

  static bool all_poison(const std::vector<unsigned char>& bytes) {
    return std::all_of(bytes.begin(), bytes.end(), [](unsigned char b) { return b == kPoison; });
  }

  index_t offset(const index_t (&index)[Rank]) const {
    index_t sum = 0;
    for (int i = 0; i < Rank; ++i) sum += index[i] * view_.stride(i);
    return sum;
  }

  std::unique_ptr<Bytes> bytes_;
  ssm::View<T, Rank> view_;
};

// True if this element still holds the poison it started with.
template <class T>
bool is_poison(const T& value) {
  unsigned char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  return std::all_of(bytes, bytes + sizeof(T), [](unsigned char b) { return b == kPoison; });
}

// Equal bit for bit (so that NaN equals itself).
template <class T>
bool same_bits(const T& a, const T& b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0;
}

// A quiet NaN that is not the poison.
template <class T>
T test_nan() {
  if constexpr (ssm::is_complex_v<T>) {
    return T(test_nan<ssm::real_t<T>>());
  } else {
    return T(std::numeric_limits<ssm::accum_t<T>>::quiet_NaN());
  }
}

// A tensor of the given values in row-major order.
template <class T, int Rank>
Tensor<T, Rank> tensor_of(const ssm::Extents<Rank>& extents, const std::vector<double>& values) {
  Tensor<T, Rank> out(extents);
  auto value = values.begin();
  out.for_each([&](T& element) { element = Tensor<T, Rank>::from_double(*value++); });
  return out;
}

// Lengths or starts of sequences.
inline Tensor<index_t, 1> index_tensor(const std::vector<index_t>& values) {
  Tensor<index_t, 1> out({static_cast<index_t>(values.size())});
  for (std::size_t i = 0; i < values.size(); ++i) out(static_cast<index_t>(i)) = values[i];
  return out;
}

}  // namespace ssm_test
