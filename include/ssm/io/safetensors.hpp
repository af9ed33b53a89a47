#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

#include "ssm/core/dtype.hpp"
#include "ssm/core/view.hpp"
#include "ssm/io/file.hpp"
#include "ssm/io/result.hpp"

// The safetensors format (https://huggingface.co/docs/safetensors): eight bytes of little-endian
// header length, a JSON header {"name": {"dtype", "shape", "data_offsets": [begin, end]}, …} with
// an optional "__metadata__" of strings, and the tensors' bytes, row-major and little-endian, one
// after the other without holes.

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "ssm/io/safetensors.hpp maps little-endian data and needs a little-endian machine"
#endif

SSM_NAMESPACE_BEGIN
namespace io {

enum class Dtype { f64, f32, f16, bf16, i64, i32, i16, i8, u64, u32, u16, u8, boolean };

namespace detail {

// One byte that means false when zero and true otherwise.
struct Bool8 {
  std::uint8_t byte;
};

// Calls f(S()) with the C++ type S that stores `dtype`.
template <class F>
decltype(auto) with_storage_type(Dtype dtype, F&& f) {
  switch (dtype) {
    case Dtype::f64:
      return f(double());
    case Dtype::f32:
      return f(float());
    case Dtype::f16:
      return f(f16());
    case Dtype::bf16:
      return f(bf16());
    case Dtype::i64:
      return f(std::int64_t());
    case Dtype::i32:
      return f(std::int32_t());
    case Dtype::i16:
      return f(std::int16_t());
    case Dtype::i8:
      return f(std::int8_t());
    case Dtype::u64:
      return f(std::uint64_t());
    case Dtype::u32:
      return f(std::uint32_t());
    case Dtype::u16:
      return f(std::uint16_t());
    case Dtype::u8:
      return f(std::uint8_t());
    case Dtype::boolean:
      break;
  }
  return f(Bool8());
}

struct DtypeName {
  Dtype dtype;
  const char* name;
};
inline constexpr DtypeName kDtypeNames[] = {
    {Dtype::f64, "F64"},     {Dtype::f32, "F32"}, {Dtype::f16, "F16"}, {Dtype::bf16, "BF16"},
    {Dtype::i64, "I64"},     {Dtype::i32, "I32"}, {Dtype::i16, "I16"}, {Dtype::i8, "I8"},
    {Dtype::u64, "U64"},     {Dtype::u32, "U32"}, {Dtype::u16, "U16"}, {Dtype::u8, "U8"},
    {Dtype::boolean, "BOOL"}};

// The dtype that stores a C++ type. Integers go by size and sign, so that long and long long are
// both 64 bits where they are.
template <class T>
constexpr Dtype dtype_of() {
  if constexpr (std::is_same_v<T, double>) {
    return Dtype::f64;
  } else if constexpr (std::is_same_v<T, float>) {
    return Dtype::f32;
  } else if constexpr (std::is_same_v<T, f16>) {
    return Dtype::f16;
  } else if constexpr (std::is_same_v<T, bf16>) {
    return Dtype::bf16;
  } else {
    static_assert(std::is_integral_v<T> && !std::is_same_v<T, bool>,
                  "no safetensors dtype stores this type; read and write BOOL as std::uint8_t");
    constexpr bool kSigned = std::is_signed_v<T>;
    if constexpr (sizeof(T) == 8) return kSigned ? Dtype::i64 : Dtype::u64;
    if constexpr (sizeof(T) == 4) return kSigned ? Dtype::i32 : Dtype::u32;
    if constexpr (sizeof(T) == 2) return kSigned ? Dtype::i16 : Dtype::u16;
    return kSigned ? Dtype::i8 : Dtype::u8;
  }
}

}  // namespace detail

// The dtype as the format spells it: "F32".
inline const char* dtype_name(Dtype dtype) noexcept {
  for (const detail::DtypeName& entry : detail::kDtypeNames) {
    if (entry.dtype == dtype) return entry.name;
  }
  return "?";
}

// Bytes of one element.
inline index_t dtype_size(Dtype dtype) noexcept {
  return detail::with_storage_type(
      dtype, [](auto tag) { return static_cast<index_t>(sizeof(decltype(tag))); });
}

// One tensor of an open file.
struct TensorInfo {
  std::string name;
  Dtype dtype = Dtype::f32;
  std::vector<index_t> shape;           // empty for a scalar
  index_t elements = 0;                 // product of the shape; 1 for a scalar
  const unsigned char* data = nullptr;  // elements * dtype_size(dtype) bytes, of any alignment
  std::size_t bytes = 0;
};

namespace detail {

inline std::string shape_text(const index_t* extents, std::size_t rank) {
  std::string out = "[";
  for (std::size_t i = 0; i < rank; ++i) {
    if (i > 0) out += ", ";
    out += std::to_string(extents[i]);
  }
  return out + "]";
}
inline std::string shape_text(const std::vector<index_t>& shape) {
  return shape_text(shape.data(), shape.size());
}
template <class T, int Rank>
std::string shape_text(const View<T, Rank>& view) {
  index_t extents[Rank];
  for (int i = 0; i < Rank; ++i) extents[i] = view.extent(i);
  return shape_text(extents, Rank);
}

// Builds the table of tensors from the events of the JSON parser. Any event that the format does
// not allow ends the parse at once, so neither nesting nor length of hostile input costs memory.
// The signatures are those of nlohmann's SAX interface.
class HeaderReader {
 public:
  struct Entry {
    std::string name;
    Dtype dtype = Dtype::f32;
    std::vector<index_t> shape;
    std::uint64_t offsets[2] = {0, 0};
  };

  explicit HeaderReader(std::string file) : file_(std::move(file)) {}

  bool null() { return unexpected("null"); }
  bool boolean(bool) { return unexpected("a boolean"); }
  bool number_integer(std::int64_t value) { return unexpected(std::to_string(value)); }
  bool number_float(double, const std::string& text) { return unexpected("the number " + text); }
  bool binary(std::vector<std::uint8_t>&) { return unexpected("binary data"); }
  bool number_unsigned(std::uint64_t value) {
    if (where_ == Where::shape) {
      if (value > static_cast<std::uint64_t>(std::numeric_limits<index_t>::max())) {
        return fail(ErrorCode::size_overflow, "has an extent of " + std::to_string(value) +
                                                  ", which does not fit in 63 bits");
      }
      entry_.shape.push_back(static_cast<index_t>(value));
      return true;
    }
    if (where_ == Where::offsets && offsets_read_ < 2) {
      entry_.offsets[offsets_read_++] = value;
      return true;
    }
    return unexpected(std::to_string(value));
  }
  bool string(std::string& value) {
    if (where_ == Where::metadata) {
      if (!metadata_.emplace(key_, value).second) {
        return fail(ErrorCode::duplicate_name, "has the key " + quote_text(key_) + " twice");
      }
      return true;
    }
    if (where_ != Where::tensor || field_ != kDtype)
      return unexpected("the string " + quote_text(value));
    for (const DtypeName& known : kDtypeNames) {
      if (value == known.name) {
        entry_.dtype = known.dtype;
        return true;
      }
    }
    std::string supported;
    for (const DtypeName& known : kDtypeNames) supported += std::string(" ") + known.name;
    return fail(ErrorCode::unknown_dtype,
                "has dtype " + quote_text(value) + "; supported are" + supported);
  }
  bool start_object(std::size_t) {
    switch (where_) {
      case Where::outside:
        where_ = Where::header;
        return true;
      case Where::header:
        if (entry_.name == kMetadata) {
          where_ = Where::metadata;
        } else {
          where_ = Where::tensor;
          fields_seen_ = 0;
          offsets_read_ = 0;
        }
        return true;
      default:
        return unexpected("an object");
    }
  }
  bool key(std::string& name) {
    if (where_ == Where::header) {
      entry_ = Entry();
      entry_.name = name;
      return names_.insert(name).second ||
             fail(ErrorCode::duplicate_name, "appears twice in the header");
    }
    if (where_ == Where::metadata) {
      key_ = name;
      return true;
    }
    field_ = name == "dtype"          ? kDtype
             : name == "shape"        ? kShape
             : name == "data_offsets" ? kOffsets
                                      : 0u;
    if (field_ == 0) {
      return fail(ErrorCode::invalid_header,
                  "has the key " + quote_text(name) + "; allowed are dtype, shape, data_offsets");
    }
    if ((fields_seen_ & field_) != 0) {
      return fail(ErrorCode::duplicate_name, "has the key " + quote_text(name) + " twice");
    }
    fields_seen_ |= field_;
    return true;
  }
  bool end_object() {
    if (where_ == Where::tensor) {
      if (fields_seen_ != (kDtype | kShape | kOffsets)) {
        const char* missing = (fields_seen_ & kDtype) == 0   ? "dtype"
                              : (fields_seen_ & kShape) == 0 ? "shape"
                                                             : "data_offsets";
        return fail(ErrorCode::invalid_header, std::string("lacks the key '") + missing + "'");
      }
      entries_.push_back(std::move(entry_));
      entry_ = Entry();
    }
    where_ = where_ == Where::header ? Where::outside : Where::header;
    return true;
  }
  bool start_array(std::size_t) {
    if (where_ == Where::tensor && field_ == kShape) {
      where_ = Where::shape;
    } else if (where_ == Where::tensor && field_ == kOffsets) {
      where_ = Where::offsets;
    } else {
      return unexpected("an array");
    }
    return true;
  }
  bool end_array() {
    if (where_ == Where::offsets && offsets_read_ != 2) {
      return fail(ErrorCode::invalid_header, "has " + std::to_string(offsets_read_) +
                                                 " data_offsets, must have 2: begin and end");
    }
    where_ = Where::tensor;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) {
    result_ =
        Result::error(ErrorCode::invalid_json, file_ + ": header is not valid JSON at byte " +
                                                   std::to_string(position) + ": " + error.what());
    return false;
  }

  const Result& result() const { return result_; }
  std::vector<Entry>& entries() { return entries_; }
  std::map<std::string, std::string, std::less<>>& metadata() { return metadata_; }

 private:
  enum class Where { outside, header, metadata, tensor, shape, offsets };
  static constexpr unsigned kDtype = 1, kShape = 2, kOffsets = 4;
  static constexpr const char* kMetadata = "__metadata__";

  bool fail(ErrorCode code, const std::string& what) {
    const std::string who = where_ == Where::outside   ? std::string("header")
                            : entry_.name == kMetadata ? std::string(kMetadata)
                                                       : "tensor " + quote_text(entry_.name);
    result_ = Result::error(code, file_ + ": " + who + " " + what);
    return false;
  }
  bool unexpected(const std::string& found) {
    const char* wanted = "an object of tensors";
    switch (where_) {
      case Where::outside:
        break;
      case Where::header:
        wanted = entry_.name == kMetadata ? "an object of strings"
                                          : "an object with dtype, shape and data_offsets";
        break;
      case Where::metadata:
        wanted = "a string";
        break;
      case Where::tensor:
        wanted = field_ == kDtype   ? "a string for dtype"
                 : field_ == kShape ? "an array of extents for shape"
                                    : "an array [begin, end] for data_offsets";
        break;
      case Where::shape:
        wanted = "a non-negative integer below 2^63 in shape";
        break;
      case Where::offsets:
        wanted = "two non-negative integers below 2^64 in data_offsets";
        break;
    }
    return fail(ErrorCode::invalid_header, "has " + found + ", must have " + wanted);
  }

  std::string file_;
  Where where_ = Where::outside;
  Entry entry_;               // the tensor being read; its name is the current key of the header
  std::string key_;           // the current key of the metadata
  unsigned field_ = 0;        // the current key of the tensor
  unsigned fields_seen_ = 0;  // those that came before it
  std::size_t offsets_read_ = 0;
  std::unordered_set<std::string> names_;
  std::vector<Entry> entries_;
  std::map<std::string, std::string, std::less<>> metadata_;
  Result result_;
};

// An integer as a float that a second rounding, to fewer than 23 bits, turns into the correctly
// rounded value: excess bits are not rounded but or-ed into the last one ("round to odd").
inline float round_to_odd(std::uint64_t magnitude, bool negative) noexcept {
  float scale = negative ? -1.0f : 1.0f;
  while (magnitude >= (std::uint64_t{1} << 24)) {
    magnitude = (magnitude >> 1) | (magnitude & 1u);
    scale *= 2;
  }
  return static_cast<float>(magnitude) * scale;
}
// The same for a double; NaN stays NaN, and what lies beyond float rounds on to infinity.
inline float round_to_odd(double value) noexcept {
  const float nearest = static_cast<float>(value);
  if (!(static_cast<double>(nearest) != value) || value != value) return nearest;
  auto bits = ssm::detail::bit_cast<std::uint32_t>(nearest);
  const double back = static_cast<double>(nearest);
  if ((back < 0 ? -back : back) > (value < 0 ? -value : value)) --bits;  // towards zero
  return ssm::detail::bit_cast<float>(bits | 1u);
}

template <class S>
inline constexpr bool is_floating_storage_v =
    std::is_floating_point_v<S> || std::is_same_v<S, f16> || std::is_same_v<S, bf16>;

// Whether an element of S may become a T: everything but a fraction into an integer.
template <class T, class S>
constexpr bool convertible() {
  return is_floating_storage_v<T> || !is_floating_storage_v<S>;
}

template <class T, class S>
bool fits(S value) noexcept {
  if constexpr (std::is_integral_v<T> && std::is_integral_v<S>) {
    if constexpr (std::is_signed_v<S>) {
      if constexpr (std::is_signed_v<T>) {
        return value >= std::numeric_limits<T>::min() && value <= std::numeric_limits<T>::max();
      } else {
        return value >= 0 &&
               static_cast<std::make_unsigned_t<S>>(value) <= std::numeric_limits<T>::max();
      }
    } else {
      return value <= static_cast<std::make_unsigned_t<T>>(std::numeric_limits<T>::max());
    }
  } else {
    static_cast<void>(value);
    return true;
  }
}

// One rounding, to nearest even; beyond the largest finite T lies infinity.
template <class T, class S>
T convert(S value) noexcept {
  if constexpr (std::is_same_v<S, Bool8>) {
    return convert<T>(static_cast<std::uint8_t>(value.byte != 0 ? 1 : 0));
  } else if constexpr (std::is_same_v<T, S>) {
    return value;
  } else if constexpr (std::is_same_v<S, f16> || std::is_same_v<S, bf16>) {
    return static_cast<T>(static_cast<float>(value));
  } else if constexpr (std::is_same_v<T, f16> || std::is_same_v<T, bf16>) {
    if constexpr (std::is_same_v<S, double>) {
      return T(round_to_odd(value));
    } else if constexpr (std::is_same_v<S, float>) {
      return T(value);
    } else {
      const bool negative = value < 0;
      const auto bits = static_cast<std::uint64_t>(value);
      return T(round_to_odd(negative ? 0u - bits : bits, negative));
    }
  } else {
    return static_cast<T>(value);
  }
}

template <class S>
S load(const unsigned char* bytes) noexcept {
  S value;
  std::memcpy(&value, bytes, sizeof(S));
  return value;
}

// Calls f(pointer to the element) for every element of `view`, the last index fastest.
template <class T, int Rank, class F>
void for_each_element(const View<T, Rank>& view, F&& f) {
  if (view.size() == 0) return;
  index_t index[Rank] = {};
  T* row = view.data();
  constexpr int kLast = Rank - 1;
  for (;;) {
    for (index_t i = 0; i < view.extent(kLast); ++i) f(row + i * view.stride(kLast));
    int d = kLast - 1;
    for (; d >= 0; --d) {
      row += view.stride(d);
      if (++index[d] < view.extent(d)) break;
      row -= index[d] * view.stride(d);
      index[d] = 0;
    }
    if (d < 0) return;
  }
}

// "<file>: tensor 'name' ".
inline std::string tensor_text(const std::string& file, const TensorInfo& tensor) {
  return file + ": tensor " + quote_text(tensor.name) + " ";
}

// Whether every element of the tensor can become a T.
template <class T>
Result check_convertible(const std::string& file, const TensorInfo& tensor) {
  return with_storage_type(tensor.dtype, [&](auto tag) -> Result {
    using S = decltype(tag);
    if constexpr (!convertible<T, S>()) {
      return Result::error(ErrorCode::dtype_mismatch,
                           tensor_text(file, tensor) + "has dtype " + dtype_name(tensor.dtype) +
                               ", which does not convert to the integers wanted");
    } else if constexpr (std::is_integral_v<T> && std::is_integral_v<S>) {
      for (index_t i = 0; i < tensor.elements; ++i) {
        const S value = load<S>(tensor.data + i * static_cast<index_t>(sizeof(S)));
        if (!fits<T>(value)) {
          return Result::error(ErrorCode::value_out_of_range,
                               tensor_text(file, tensor) + "holds " + std::to_string(value) +
                                   " at element " + std::to_string(i) + ", must be in [" +
                                   std::to_string(std::numeric_limits<T>::min()) + ", " +
                                   std::to_string(std::numeric_limits<T>::max()) + "]");
        }
      }
    }
    return Result::ok();
  });
}

// Copies a tensor that passed check_convertible into a view of as many elements.
template <class T, int Rank>
void copy_elements(const TensorInfo& tensor, const View<T, Rank>& out) {
  with_storage_type(tensor.dtype, [&](auto tag) {
    using S = decltype(tag);
    if constexpr (convertible<T, S>()) {
      const unsigned char* bytes = tensor.data;
      for_each_element(out, [&](T* element) {
        *element = convert<T>(load<S>(bytes));
        bytes += sizeof(S);
      });
    }
  });
}

template <class T, int Rank>
Result check_destination(const std::string& file, const TensorInfo& tensor,
                         const View<T, Rank>& out) {
  static_assert(!std::is_const_v<T>, "the destination must be writable");
  static_assert(is_floating_storage_v<T> || (std::is_integral_v<T> && !std::is_same_v<T, bool>),
                "a tensor is copied to a real floating-point or integer type");
  if (out.size() > 0 && out.data() == nullptr) {
    return Result::error(ErrorCode::invalid_argument,
                         tensor_text(file, tensor) + "has a null destination");
  }
  return check_convertible<T>(file, tensor);
}

}  // namespace detail

// An open safetensors file: a table of tensors that point into the mapped file, nothing copied.
// Opening checks everything the format promises (see ErrorCode) before any tensor is handed out.
// Movable, not copyable; views stay valid while the object (or the one it was moved to) lives.
class SafetensorsFile {
 public:
  // The format's own limit on the header.
  static constexpr std::size_t kMaxHeaderBytes = 100000000;

  // Maps `path` and reads its header. On an error *file is as it was.
  static Result open(const std::filesystem::path& path, SafetensorsFile* file) {
    SafetensorsFile opened;
    Result result = detail::MappedFile::open(path, &opened.mapping_);
    if (!result) return result;
    result = opened.read(detail::path_text(path), opened.mapping_.data(), opened.mapping_.size());
    if (result) *file = std::move(opened);
    return result;
  }

  // Reads a file's bytes from memory, which must outlive *file and keep still; `label` stands for
  // the file's name in messages.
  static Result from_memory(const void* data, std::size_t bytes, SafetensorsFile* file,
                            const std::string& label = "memory") {
    SafetensorsFile opened;
    if (data == nullptr && bytes > 0) {
      return Result::error(ErrorCode::invalid_argument, label + ": data must not be null");
    }
    Result result = opened.read(label, static_cast<const unsigned char*>(data), bytes);
    if (result) *file = std::move(opened);
    return result;
  }

  // The path as given, or the label.
  const std::string& name() const noexcept { return name_; }
  // Every tensor, in order of its name.
  const std::vector<TensorInfo>& tensors() const noexcept { return tensors_; }
  const std::map<std::string, std::string, std::less<>>& metadata() const noexcept {
    return metadata_;
  }

  // Null when there is no such tensor.
  const TensorInfo* find(std::string_view name) const noexcept {
    const auto at =
        std::lower_bound(tensors_.begin(), tensors_.end(), name,
                         [](const TensorInfo& a, std::string_view b) { return a.name < b; });
    return at != tensors_.end() && at->name == name ? &*at : nullptr;
  }

  // The tensor's own memory as a View, without a copy: the dtype must store T (BOOL is read as
  // std::uint8_t), the rank must be Rank (a scalar is read as rank 1 of extent 1), and the address
  // must be aligned for T; copy_to has no such demands.
  template <class T, int Rank>
  Result view(std::string_view name, View<const T, Rank>* out) const {
    const TensorInfo* tensor = nullptr;
    const Result result = require(name, &tensor);
    if (!result) return result;
    constexpr Dtype kWanted = detail::dtype_of<T>();
    const bool same =
        tensor->dtype == kWanted || (tensor->dtype == Dtype::boolean && kWanted == Dtype::u8);
    if (!same) {
      return Result::error(ErrorCode::dtype_mismatch, detail::tensor_text(name_, *tensor) +
                                                          "has dtype " + dtype_name(tensor->dtype) +
                                                          ", must be " + dtype_name(kWanted));
    }
    const bool scalar = tensor->shape.empty() && Rank == 1;
    if (!scalar && tensor->shape.size() != static_cast<std::size_t>(Rank)) {
      return Result::error(ErrorCode::shape_mismatch,
                           detail::tensor_text(name_, *tensor) + "has shape " +
                               detail::shape_text(tensor->shape) + ", must have rank " +
                               std::to_string(Rank));
    }
    const auto address = reinterpret_cast<std::uintptr_t>(tensor->data);
    if (tensor->bytes > 0 && address % alignof(T) != 0) {
      return Result::error(ErrorCode::misaligned,
                           detail::tensor_text(name_, *tensor) + "starts " +
                               std::to_string(address % alignof(T)) + " bytes past a multiple of " +
                               std::to_string(alignof(T)) +
                               ", so that it cannot be viewed in place; copy it instead");
    }
    Extents<Rank> extents{};
    for (int i = 0; i < Rank; ++i) {
      extents[i] = scalar ? 1 : tensor->shape[static_cast<std::size_t>(i)];
    }
    *out = View<const T, Rank>(reinterpret_cast<const T*>(tensor->data), extents);
    return Result::ok();
  }

  // Copies the tensor into `out`, whose extents must be the tensor's shape (rank 1 of extent 1 for
  // a scalar) and whose strides are free, converting each element to T with one rounding to nearest
  // even. Integers must fit in an integer T; fractions do not convert to integers. Nothing is
  // written unless everything is.
  template <class T, int Rank>
  Result copy_to(std::string_view name, const View<T, Rank>& out) const {
    const TensorInfo* tensor = nullptr;
    Result result = require(name, &tensor);
    if (!result) return result;
    bool same = tensor->shape.size() == static_cast<std::size_t>(Rank);
    for (int i = 0; same && i < Rank; ++i) {
      same = tensor->shape[static_cast<std::size_t>(i)] == out.extent(i);
    }
    if (tensor->shape.empty() && Rank == 1 && out.extent(0) == 1) same = true;
    if (!same) {
      return Result::error(ErrorCode::shape_mismatch, detail::tensor_text(name_, *tensor) +
                                                          "has shape " +
                                                          detail::shape_text(tensor->shape) +
                                                          ", must be " + detail::shape_text(out));
    }
    result = detail::check_destination(name_, *tensor, out);
    if (result) detail::copy_elements(*tensor, out);
    return result;
  }

 private:
  Result require(std::string_view name, const TensorInfo** tensor) const {
    *tensor = find(name);
    if (*tensor != nullptr) return Result::ok();
    return Result::error(ErrorCode::missing, name_ + ": has no tensor " + detail::quote_text(name) +
                                                 " among its " + std::to_string(tensors_.size()));
  }

  Result read(const std::string& name, const unsigned char* data, std::size_t bytes) {
    name_ = name;
    constexpr std::size_t kPrefix = 8;
    if (bytes < kPrefix) {
      return Result::error(ErrorCode::truncated, name + ": has " + std::to_string(bytes) +
                                                     " bytes, must have at least 8");
    }
    const auto header_bytes = detail::load<std::uint64_t>(data);
    if (header_bytes > bytes - kPrefix || header_bytes > kMaxHeaderBytes) {
      return Result::error(ErrorCode::header_too_long,
                           name + ": header length is " + std::to_string(header_bytes) +
                               ", must be at most " +
                               std::to_string(std::min(bytes - kPrefix, kMaxHeaderBytes)));
    }
    const auto* header = reinterpret_cast<const char*>(data + kPrefix);
    const auto header_size = static_cast<std::size_t>(header_bytes);
    if (header_size == 0 || header[0] != '{') {
      return Result::error(ErrorCode::invalid_header, name + ": header must start with '{'");
    }
    // The parser takes a null byte for the end of its input and would not see what follows it.
    if (std::memchr(header, 0, header_size) != nullptr) {
      return Result::error(ErrorCode::invalid_json, name + ": header contains a null byte");
    }
    detail::HeaderReader reader(name);
    const bool parsed = nlohmann::json::sax_parse(header, header + header_size, &reader);
    if (!reader.result()) return reader.result();
    if (!parsed) return Result::error(ErrorCode::invalid_json, name + ": header is not JSON");
    metadata_ = std::move(reader.metadata());
    return place(reader.entries(), data + kPrefix + header_size, bytes - kPrefix - header_size);
  }

  // Checks that the entries cover `bytes` bytes of data exactly, and points the tensors at them.
  Result place(std::vector<detail::HeaderReader::Entry>& entries, const unsigned char* data,
               std::size_t bytes) {
    using Entry = detail::HeaderReader::Entry;
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return std::make_pair(a.offsets[0], a.offsets[1]) <
             std::make_pair(b.offsets[0], b.offsets[1]);
    });
    std::uint64_t covered = 0;
    const std::string* previous = nullptr;
    for (const Entry& entry : entries) {
      const std::string who = name_ + ": tensor " + detail::quote_text(entry.name);
      const auto [begin, end] = entry.offsets;
      const std::string span =
          "data_offsets [" + std::to_string(begin) + ", " + std::to_string(end) + "]";
      const Result result = check_size(entry, who, span);
      if (!result) return result;
      if (end > bytes) {
        return Result::error(
            ErrorCode::truncated,
            who + " has " + span + ", but the file ends at " + std::to_string(bytes));
      }
      if (begin != covered) {
        const std::string neighbour = previous == nullptr ? std::string("the data starts")
                                                          : detail::quote_text(*previous) + " ends";
        return Result::error(ErrorCode::invalid_offsets,
                             who + " has " + span + ", which " +
                                 (begin < covered ? "overlaps" : "leaves a hole after") +
                                 " what is before it: " + neighbour + " at " +
                                 std::to_string(covered));
      }
      covered = end;
      previous = &entry.name;
    }
    if (covered != bytes) {
      return Result::error(ErrorCode::invalid_offsets,
                           name_ + ": " + std::to_string(bytes - covered) +
                               " bytes at the end of the file belong to no tensor");
    }
    tensors_.reserve(entries.size());
    for (Entry& entry : entries) {
      TensorInfo tensor;
      tensor.name = std::move(entry.name);
      tensor.dtype = entry.dtype;
      tensor.shape = std::move(entry.shape);
      tensor.data = data + static_cast<std::size_t>(entry.offsets[0]);
      tensor.bytes = static_cast<std::size_t>(entry.offsets[1] - entry.offsets[0]);
      tensor.elements = static_cast<index_t>(tensor.bytes) / dtype_size(tensor.dtype);
      tensors_.push_back(std::move(tensor));
    }
    std::sort(tensors_.begin(), tensors_.end(),
              [](const TensorInfo& a, const TensorInfo& b) { return a.name < b.name; });
    return Result::ok();
  }

  static Result check_size(const detail::HeaderReader::Entry& entry, const std::string& who,
                           const std::string& span) {
    const auto [begin, end] = entry.offsets;
    if (end < begin) {
      return Result::error(ErrorCode::invalid_offsets,
                           who + " has " + span + ", must not end before it begins");
    }
    // Extents of zero are left out of the product, so that no later stride can overflow either.
    constexpr index_t kMax = std::numeric_limits<index_t>::max();
    index_t product = dtype_size(entry.dtype);
    bool empty = false;
    for (const index_t extent : entry.shape) {
      if (extent == 0) {
        empty = true;
      } else if (product > kMax / extent) {
        return Result::error(ErrorCode::size_overflow,
                             who + " has shape " + detail::shape_text(entry.shape) + " of " +
                                 dtype_name(entry.dtype) +
                                 ", whose product does not fit in 63 bits of bytes");
      } else {
        product *= extent;
      }
    }
    const auto wanted = static_cast<std::uint64_t>(empty ? 0 : product);
    if (end - begin != wanted) {
      return Result::error(ErrorCode::shape_mismatch,
                           who + " has shape " + detail::shape_text(entry.shape) + " of " +
                               dtype_name(entry.dtype) + ", which takes " + std::to_string(wanted) +
                               " bytes, but " + span + " span " + std::to_string(end - begin));
    }
    return Result::ok();
  }

  detail::MappedFile mapping_;
  std::string name_ = "(no file)";
  std::vector<TensorInfo> tensors_;
  std::map<std::string, std::string, std::less<>> metadata_;
};

namespace detail {

// `text` as a JSON string. False when it is not UTF-8.
inline bool json_string(std::string_view text, std::string* out) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[7];
      std::snprintf(escaped, sizeof(escaped), "\\u%04x", static_cast<unsigned>(c));
      quoted += escaped;
    } else {
      quoted += c;
    }
  }
  quoted += '"';
  if (!nlohmann::json::accept(quoted)) return false;
  *out += quoted;
  return true;
}

}  // namespace detail

// Writes a safetensors file. Tensors are added as views of any strides, which must stay valid and
// unchanged until write(); nothing is copied before. The file depends on the set of tensors alone,
// not on the order they were added in: they are laid out by element size, largest first, then by
// name, so that every tensor is aligned.
class SafetensorsWriter {
 public:
  template <class T, int Rank>
  void add(std::string name, const View<T, Rank>& view) {
    std::vector<index_t> shape;
    for (int i = 0; i < Rank; ++i) shape.push_back(view.extent(i));
    add(std::move(name), view, std::move(shape));
  }

  // Stores the view's elements, in its row-major order, under another shape of as many elements; an
  // empty `shape` is a scalar.
  template <class T, int Rank>
  void add(std::string name, const View<T, Rank>& view, std::vector<index_t> shape) {
    Entry entry;
    entry.name = std::move(name);
    entry.dtype = detail::dtype_of<std::remove_cv_t<T>>();
    entry.shape = std::move(shape);
    entry.data = reinterpret_cast<const unsigned char*>(view.data());
    for (int i = 0; i < Rank; ++i) {
      entry.extents.push_back(view.extent(i));
      entry.strides.push_back(view.stride(i));
    }
    entries_.push_back(std::move(entry));
  }

  // A later value for the same key replaces the earlier one.
  void set_metadata(const std::string& key, std::string value) {
    metadata_[key] = std::move(value);
  }

  // Writes the file atomically: afterwards `path` holds either all of it or what it held before.
  Result write(const std::filesystem::path& path) const {
    const std::string file = detail::path_text(path);
    std::vector<const Entry*> order;
    for (const Entry& entry : entries_) order.push_back(&entry);
    std::sort(order.begin(), order.end(), [](const Entry* a, const Entry* b) {
      const index_t size_a = dtype_size(a->dtype);
      const index_t size_b = dtype_size(b->dtype);
      return size_a != size_b ? size_a > size_b : a->name < b->name;
    });

    std::string header(8, '\0');
    Result result = make_header(file, order, &header);
    if (!result) return result;
    detail::AtomicFile out;
    result = out.create(path);
    if (result) result = out.append(header.data(), header.size());
    for (const Entry* entry : order) {
      if (result) result = append(*entry, &out);
    }
    return result ? out.commit() : result;
  }

 private:
  struct Entry {
    std::string name;
    Dtype dtype = Dtype::f32;
    std::vector<index_t> shape;  // as the file states it
    const unsigned char* data = nullptr;
    std::vector<index_t> extents;  // of the view
    std::vector<index_t> strides;  // in elements
  };

  // -1 when an extent is negative or the product does not fit.
  static index_t bytes_of(const std::vector<index_t>& shape, index_t element_size) {
    index_t bytes = element_size;
    for (const index_t extent : shape) {
      if (extent < 0) return -1;
      bytes = saturating_mul(bytes, extent);
    }
    return bytes == std::numeric_limits<index_t>::max() ? -1 : bytes;
  }

  static Result check(const std::string& who, const Entry& entry) {
    const index_t size = dtype_size(entry.dtype);
    const index_t bytes = bytes_of(entry.extents, size);
    if (bytes < 0) {
      return Result::error(ErrorCode::size_overflow,
                           who + " has extents " + detail::shape_text(entry.extents) +
                               ", which must not be negative and must fit in 63 bits of bytes");
    }
    if (bytes != bytes_of(entry.shape, size)) {
      return Result::error(ErrorCode::shape_mismatch,
                           who + " has extents " + detail::shape_text(entry.extents) +
                               " and the shape " + detail::shape_text(entry.shape) +
                               ", which must have as many elements");
    }
    if (bytes > 0 && entry.data == nullptr) {
      return Result::error(ErrorCode::invalid_argument, who + " has null data");
    }
    return Result::ok();
  }

  Result make_header(const std::string& file, const std::vector<const Entry*>& order,
                     std::string* header) const {
    const auto not_utf8 = [&](const std::string& text) {
      return Result::error(ErrorCode::invalid_argument,
                           file + ": " + detail::quote_text(text) + " is not UTF-8");
    };
    *header += '{';
    const char* separator = "";
    if (!metadata_.empty()) {
      *header += "\"__metadata__\":{";
      for (const auto& [key, value] : metadata_) {
        *header += separator;
        if (!detail::json_string(key, header)) return not_utf8(key);
        *header += ':';
        if (!detail::json_string(value, header)) return not_utf8(value);
        separator = ",";
      }
      *header += '}';
    }
    std::unordered_set<std::string_view> names = {"__metadata__"};
    index_t offset = 0;
    for (const Entry* entry : order) {
      const std::string who = file + ": tensor " + detail::quote_text(entry->name);
      if (!names.insert(entry->name).second) {
        return Result::error(ErrorCode::duplicate_name, who + " has a name that is taken");
      }
      const Result result = check(who, *entry);
      if (!result) return result;
      const index_t bytes = bytes_of(entry->shape, dtype_size(entry->dtype));
      if (bytes > std::numeric_limits<index_t>::max() - offset) {
        return Result::error(ErrorCode::size_overflow, who + " ends beyond 63 bits of bytes");
      }
      *header += separator;
      if (!detail::json_string(entry->name, header)) return not_utf8(entry->name);
      *header += std::string(":{\"dtype\":\"") + dtype_name(entry->dtype) + "\",\"shape\":[";
      for (std::size_t i = 0; i < entry->shape.size(); ++i) {
        *header += (i > 0 ? "," : "") + std::to_string(entry->shape[i]);
      }
      *header += "],\"data_offsets\":[" + std::to_string(offset) + "," +
                 std::to_string(offset + bytes) + "]}";
      offset += bytes;
      separator = ",";
    }
    *header += '}';
    header->resize((header->size() + 7) / 8 * 8, ' ');
    const std::uint64_t header_bytes = header->size() - 8;
    if (header_bytes > SafetensorsFile::kMaxHeaderBytes) {
      return Result::error(ErrorCode::header_too_long,
                           file + ": header takes " + std::to_string(header_bytes) +
                               " bytes, must be at most " +
                               std::to_string(SafetensorsFile::kMaxHeaderBytes));
    }
    std::memcpy(header->data(), &header_bytes, 8);
    return Result::ok();
  }

  // The elements in row-major order, gathered row by row where they are not already.
  static Result append(const Entry& entry, detail::AtomicFile* out) {
    const auto size = static_cast<std::size_t>(dtype_size(entry.dtype));
    const auto elements = static_cast<std::size_t>(bytes_of(entry.extents, 1));
    if (elements == 0) return Result::ok();
    const std::size_t last = entry.extents.size() - 1;
    const auto columns = static_cast<std::size_t>(entry.extents[last]);
    const index_t stride = entry.strides[last] * static_cast<index_t>(size);
    std::vector<index_t> index(last, 0);
    std::vector<unsigned char> row(columns * size);
    for (std::size_t r = 0; r < elements / columns; ++r) {
      const unsigned char* from = entry.data;
      for (std::size_t d = 0; d < last; ++d) {
        from += index[d] * entry.strides[d] * static_cast<index_t>(size);
      }
      if (stride != static_cast<index_t>(size)) {
        for (std::size_t i = 0; i < columns; ++i) {
          std::memcpy(row.data() + i * size, from + static_cast<index_t>(i) * stride, size);
        }
        from = row.data();
      }
      const Result result = out->append(from, columns * size);
      if (!result) return result;
      for (std::size_t d = last; d-- > 0;) {
        if (++index[d] < entry.extents[d]) break;
        index[d] = 0;
      }
    }
    return Result::ok();
  }

  std::vector<Entry> entries_;
  std::map<std::string, std::string> metadata_;
};

}  // namespace io
SSM_NAMESPACE_END
