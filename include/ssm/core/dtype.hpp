#pragma once

#include <complex>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "ssm/core/config.hpp"

SSM_NAMESPACE_BEGIN

namespace detail {

template <class To, class From>
SSM_HOST_DEVICE inline To bit_cast(const From& from) noexcept {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
  To to;
  std::memcpy(&to, &from, sizeof(To));
  return to;
}

// float -> bfloat16, round to nearest even; NaN stays NaN (quiet, sign kept).
SSM_HOST_DEVICE inline std::uint16_t bf16_from_float(float value) noexcept {
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) {
    return static_cast<std::uint16_t>((bits >> 16) | 0x0040u);
  }
  return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

SSM_HOST_DEVICE inline float bf16_to_float(std::uint16_t bits) noexcept {
  return bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

// float -> IEEE binary16, round to nearest even, subnormals and overflow to infinity included.
SSM_HOST_DEVICE inline std::uint16_t f16_from_float(float value) noexcept {
  const std::uint32_t bits = bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {  // NaN
    return static_cast<std::uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  }
  if (magnitude >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);  // >= 65520
  if (magnitude < 0x38800000u) {  // below 2^-14: add 0.5, whose last bit is 2^-24, and let it round
    const float shifted = bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign | (bit_cast<std::uint32_t>(shifted) - 0x3f000000u));
  }
  const std::uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return static_cast<std::uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

SSM_HOST_DEVICE inline float f16_to_float(std::uint16_t half) noexcept {
  const std::uint32_t sign = (static_cast<std::uint32_t>(half) & 0x8000u) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fu;
  const std::uint32_t mantissa = half & 0x3ffu;
  if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24, exact in float
    const float magnitude = static_cast<float>(mantissa) * 5.9604644775390625e-8f;
    return bit_cast<float>(sign | bit_cast<std::uint32_t>(magnitude));
  }
  if (exponent == 0x1fu) return bit_cast<float>(sign | 0x7f800000u | (mantissa << 13));
  return bit_cast<float>(sign | ((exponent + 112u) << 23) | (mantissa << 13));
}

}  // namespace detail

// Storage types of two bytes, layout-equal to __nv_bfloat16 and __half. They hold values; they do
// not compute: every operation widens to accum_t (float) first. Conversion from float rounds to
// nearest even and is explicit; conversion to float is exact and implicit.
struct bf16 {
  std::uint16_t bits;
  bf16() = default;
  SSM_HOST_DEVICE explicit bf16(float value) noexcept : bits(detail::bf16_from_float(value)) {}
  SSM_HOST_DEVICE operator float() const noexcept { return detail::bf16_to_float(bits); }
};

struct f16 {
  std::uint16_t bits;
  f16() = default;
  SSM_HOST_DEVICE explicit f16(float value) noexcept : bits(detail::f16_from_float(value)) {}
  SSM_HOST_DEVICE operator float() const noexcept { return detail::f16_to_float(bits); }
};

static_assert(sizeof(bf16) == 2 && std::is_trivially_copyable<bf16>::value, "bf16 is two bytes");
static_assert(sizeof(f16) == 2 && std::is_trivially_copyable<f16>::value, "f16 is two bytes");

namespace detail {
template <class T>
struct Accum {
  using type = T;
};
template <>
struct Accum<bf16> {
  using type = float;
};
template <>
struct Accum<f16> {
  using type = float;
};
template <class T>
struct IsComplex : std::false_type {};
template <class T>
struct IsComplex<std::complex<T>> : std::true_type {};
template <class T>
struct RealOf {
  using type = T;
};
template <class T>
struct RealOf<std::complex<T>> {
  using type = T;
};
}  // namespace detail

// The type that sums, states, A, D and dt bias live in when activations and weights are stored as
// T: float for bf16 and f16, T itself otherwise.
template <class T>
using accum_t = typename detail::Accum<std::remove_cv_t<T>>::type;

template <class T>
inline constexpr bool is_complex_v = detail::IsComplex<std::remove_cv_t<T>>::value;

// float for std::complex<float>, T itself for a real T.
template <class T>
using real_t = typename detail::RealOf<std::remove_cv_t<T>>::type;

// Widens a stored value to the type it is computed in (exact), and narrows a result back (one
// rounding, to nearest even).
template <class T>
SSM_HOST_DEVICE inline accum_t<T> widen(T value) noexcept {
  return static_cast<accum_t<T>>(value);
}
template <class T>
SSM_HOST_DEVICE inline T narrow(accum_t<T> value) noexcept {
  return static_cast<T>(value);
}

SSM_NAMESPACE_END
