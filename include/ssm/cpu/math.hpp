#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "ssm/core/math.hpp"
#include "ssm/cpu/simd.hpp"

// Elementary functions on Vec, checked against a wider type over the whole range, denormal results
// included (tests/cpu/math_test.cpp): exp within 1 ulp, phi1_derivative within 8 (it cancels a
// little near 1/2), the others within 4, or 5 where fma rounds twice. NaN stays NaN and infinities
// go to their limits.

SSM_CPU_DETAIL_BEGIN
namespace simd {

// Minimax polynomials, found by Remez exchange in 60 digits. Those of exponentials have p(0) = 1
// exactly, so that a decay of exp(0) does not drift over long sequences.
template <class T>
struct MathConstants;

template <>
struct MathConstants<float> {
  static constexpr float magic = 12582912.0f;  // 1.5 2^23: x + magic rounds x to an integer
  static constexpr float log2e = 1.44269504f;
  static constexpr float ln2_high = 0.693359375f;  // few bits, so that n ln2_high is exact
  static constexpr float ln2_low = -2.12194440e-4f;
  static constexpr float exp_min = -104.0f;  // exp is zero at and below
  static constexpr float exp_max = 89.0f;    // and infinite here
  static constexpr float expm1_min = -40.0f;
  static constexpr float exp2_bound = 126.0f;
  // e^f, |f| <= ln(2)/2: 2^-28.2
  static constexpr float exp[] = {1.0f,         1.0f,          0.49999994f,  0.16666521f,
                                  0.041668274f, 0.0083686840f, 0.0013820080f};
  // 2^f, |f| <= 1/2: 2^-28.3
  static constexpr float exp2[] = {1.0f,          0.69314718f,   0.24022648f,   0.055503596f,
                                   0.0096185030f, 0.0013390998f, 0.00015327842f};
  // (log((1 + s)/(1 - s)) / s - 2) / s^2 in powers of s^2, 0 <= s <= 1/3: 2^-27.7
  static constexpr float log1p[] = {0.66666412f, 0.40021598f, 0.28000537f, 0.28018776f};
};

template <>
struct MathConstants<double> {
  static constexpr double magic = 6755399441055744.0;  // 1.5 2^52
  static constexpr double log2e = 1.4426950408889634;
  static constexpr double ln2_high = 0.693145751953125;
  static constexpr double ln2_low = 1.42860682030941723212e-6;
  static constexpr double exp_min = -746.0;
  static constexpr double exp_max = 710.0;
  static constexpr double expm1_min = -80.0;
  static constexpr double exp2_bound = 1022.0;
  // 2^-58.0
  static constexpr double exp[] = {1.0,
                                   1.0,
                                   0x1.000000000000bp-1,
                                   0x1.55555555554b0p-3,
                                   0x1.5555555550034p-5,
                                   0x1.111111113001bp-7,
                                   0x1.6c16c185aa1f4p-10,
                                   0x1.a01a0110126b9p-13,
                                   0x1.a019967e34777p-16,
                                   0x1.71df4af8b3563p-19,
                                   0x1.28b06a6437325p-22,
                                   0x1.ad5863c06572bp-26};
  // 2^-58.0
  static constexpr double exp2[] = {1.0,
                                    0x1.62e42fefa39efp-1,
                                    0x1.ebfbdff82c5a5p-3,
                                    0x1.c6b08d7049fe3p-5,
                                    0x1.3b2ab6fb9ffddp-7,
                                    0x1.5d87fe78ce0dap-10,
                                    0x1.4309130f1d93fp-13,
                                    0x1.ffcbfba763b7ep-17,
                                    0x1.62bfc6e4353b1p-20,
                                    0x1.b5267f741a1d5p-24,
                                    0x1.e61ca25579e01p-28,
                                    0x1.e79a78cbfda0cp-32};
  // 2^-59.4
  static constexpr double log1p[] = {
      0x1.5555555555535p-1, 0x1.99999999a07cfp-2, 0x1.2492492088345p-2, 0x1.c71c741e91236p-3,
      0x1.745cb3b229575p-3, 0x1.3b1de230a50f1p-3, 0x1.1067694dc6b02p-3, 0x1.efde2991629a2p-4,
      0x1.55969678e043ap-4, 0x1.5c923154e4a21p-3};
};

// Whether fma rounds once.
constexpr bool kFused = SSM_SIMD_AVX512 || SSM_SIMD_AVX2 || SSM_SIMD_NEON;

// c[0] + x (c[1] + x (c[2] + …))
template <std::size_t First = 0, class T, std::size_t N>
SSM_ALWAYS_INLINE Vec<T> horner(Vec<T> x, const T (&c)[N]) noexcept {
  if constexpr (First + 1 == N) {
    return Vec<T>(c[First]);
  } else {
    return fma(horner<First + 1>(x, c), x, Vec<T>(c[First]));
  }
}

// a 2^n for a near 1 and integral n, with one rounding where the result is denormal.
#if SSM_SIMD_AVX512
SSM_ALWAYS_INLINE Vec<float> scale_by_power(Vec<float> a, Vec<float> n) noexcept {
  return Vec<float>(_mm512_maskz_scalef_ps(Vec<float>::kAll, a.v, n.v));
}
SSM_ALWAYS_INLINE Vec<double> scale_by_power(Vec<double> a, Vec<double> n) noexcept {
  return Vec<double>(_mm512_maskz_scalef_pd(Vec<double>::kAll, a.v, n.v));
}
#else
template <class T>
SSM_ALWAYS_INLINE Vec<T> scale_by_power(Vec<T> a, Vec<T> n) noexcept {
  const Vec<T> magic(MathConstants<T>::magic);
  const Vec<T> half = fma(n, Vec<T>(T(0.5)), magic);
  const Vec<T> rest = (n - (half - magic)) + magic;
  const Vec<T> scaled = add_exponent(a, half) * add_exponent(Vec<T>(T(1)), rest);
  // The bits of a NaN in n would have been added to the exponent of a.
  return Vec<T>::select(equal(n, n), scaled, n);
}
#endif

// x = n ln 2 + f with integral n and |f| <= ln(2)/2, for |x| <= 1000.
template <class T>
struct ReducedExponent {
  Vec<T> n, f;
};
template <class T>
SSM_ALWAYS_INLINE ReducedExponent<T> reduce_exponent(Vec<T> x) noexcept {
  using K = MathConstants<T>;
  const Vec<T> magic(K::magic);
  const Vec<T> n = fma(x, Vec<T>(K::log2e), magic) - magic;
  const Vec<T> f = fnma(n, Vec<T>(K::ln2_low), fnma(n, Vec<T>(K::ln2_high), x));
  return {n, f};
}

template <class T>
SSM_ALWAYS_INLINE Vec<T> exp(Vec<T> x) noexcept {
  using K = MathConstants<T>;
  const auto r = reduce_exponent(min(Vec<T>(K::exp_max), max(Vec<T>(K::exp_min), x)));
  if constexpr (kFused) return scale_by_power(horner(r.f, K::exp), r.n);
  // 1 + (f + f^2 q): of the roundings only the last is larger than a quarter ulp.
  const Vec<T> rest = r.f + r.f * r.f * horner<2>(r.f, K::exp);
  return scale_by_power(Vec<T>(T(1)) + rest, r.n);
}

// e^x - 1 with full relative precision near zero, as 2 (2^(n-1) (e^f - 1) + (2^(n-1) - 1/2)).
template <class T>
SSM_ALWAYS_INLINE Vec<T> expm1(Vec<T> x) noexcept {
  using K = MathConstants<T>;
  const auto r = reduce_exponent(min(Vec<T>(K::exp_max), max(Vec<T>(K::expm1_min), x)));
  const Vec<T> fraction = fma(r.f * r.f, horner<2>(r.f, K::exp), r.f);
  const Vec<T> half = add_exponent(Vec<T>(T(0.5)), r.n + Vec<T>(K::magic));
  const Vec<T> result = fma(half, fraction, half - Vec<T>(T(0.5)));
  return Vec<T>::select(equal(x, x), result + result, x);
}

// (e^x - 1) / x, 1 at zero and where 1 + x / 2 rounds to it.
template <class T>
SSM_ALWAYS_INLINE Vec<T> phi1(Vec<T> x) noexcept {
  return Vec<T>::select(less(abs(x), Vec<T>(T(1e-20))), Vec<T>(T(1)), expm1(x) / x);
}

// The coefficients (k + 1) / (k + 2)! of phi_1': enough for |x| < 1/2 in each type.
template <class T>
struct Phi1Series {
  static constexpr int kTerms = sizeof(T) == sizeof(float) ? 9 : 16;
  T terms[kTerms];
  constexpr Phi1Series() noexcept : terms() {
    double factorial = 2;
    for (int k = 0; k < kTerms; ++k) {
      terms[k] = static_cast<T>((k + 1) / factorial);
      factorial *= k + 3;
    }
  }
};
template <class T>
inline constexpr Phi1Series<T> kPhi1Series{};

// phi_1'(x) = (e^x - phi_1(x)) / x, and its series where that cancels.
template <class T>
SSM_ALWAYS_INLINE Vec<T> phi1_derivative(Vec<T> x) noexcept {
  return Vec<T>::select(less(abs(x), Vec<T>(T(0.5))), horner(x, kPhi1Series<T>.terms),
                        (exp(x) - phi1(x)) / x);
}

// log(1 + e^x) for x <= 20, x above: max(x, 0) + 2 atanh(s), s = e / (2 + e), e = e^-|x|.
template <class T>
SSM_ALWAYS_INLINE Vec<T> softplus(Vec<T> x) noexcept {
  using K = MathConstants<T>;
  const Vec<T> e = exp(Vec<T>(T(0)) - abs(x));
  const Vec<T> s = e / (e + Vec<T>(T(2)));
  const Vec<T> u = s * s;
  const Vec<T> log1p = fma(horner(u, K::log1p) * u, s, s + s);
  const Vec<T> sum = max(Vec<T>(T(0)), x) + log1p;
  // In float the logarithm is lost in the rounding of x long before the threshold.
  if constexpr (sizeof(T) == sizeof(float)) return sum;
  return Vec<T>::select(less(Vec<T>(T(kSoftplusThreshold)), x), x, sum);
}

// z / (1 + e^-z). With t = e^(-|z|/2), so that neither e^-z overflows nor z e^z loses digits to a
// denormal e^z: (z t) t / (1 + t^2) below zero, z / (1 + t^2) above.
template <class T>
SSM_ALWAYS_INLINE Vec<T> silu(Vec<T> z) noexcept {
  z = max(Vec<T>(std::numeric_limits<T>::lowest()), z);  // -infinity times zero would be NaN
  const Vec<T> t = exp(abs(z) * Vec<T>(T(-0.5)));
  const Vec<T> numerator = Vec<T>::select(less(z, Vec<T>(T(0))), z * t * t, z);
  return numerator / fma(t, t, Vec<T>(T(1)));
}

// sigma(z) and 1 - sigma(z), neither by a difference, from t = e^-|z|, which cannot overflow.
template <class T>
struct SigmoidPair {
  Vec<T> at, of_minus;
};
template <class T>
SSM_ALWAYS_INLINE SigmoidPair<T> sigmoid_pair(Vec<T> z) noexcept {
  const Vec<T> t = exp(Vec<T>(T(0)) - abs(z));
  const Vec<T> large = Vec<T>(T(1)) / (Vec<T>(T(1)) + t);
  const Vec<T> small = t * large;
  const auto negative = less(z, Vec<T>(T(0)));
  return {Vec<T>::select(negative, small, large), Vec<T>::select(negative, large, small)};
}

// silu'(z) = s (1 + z (1 - s)), s = sigma(z).
template <class T>
SSM_ALWAYS_INLINE Vec<T> silu_derivative(Vec<T> z) noexcept {
  // An infinity times zero would be NaN.
  z = min(Vec<T>(std::numeric_limits<T>::max()), max(Vec<T>(std::numeric_limits<T>::lowest()), z));
  const SigmoidPair<T> s = sigmoid_pair(z);
  return s.at * fma(z, s.of_minus, Vec<T>(T(1)));
}

// softplus'(x) = sigma(x) for x <= 20, 1 above.
template <class T>
SSM_ALWAYS_INLINE Vec<T> softplus_derivative(Vec<T> x) noexcept {
  return Vec<T>::select(less(Vec<T>(T(kSoftplusThreshold)), x), Vec<T>(T(1)), sigmoid_pair(x).at);
}

// 2^(a b) for |a b| <= exp2_bound, where the result is normal: the inner loop of the scan, with
// nothing to clamp. Elsewhere, NaN included, the result is not defined. A product of two, because a
// compiler may fuse it with what follows or not; here it always is, where fma is.
template <class T>
SSM_ALWAYS_INLINE Vec<T> exp2_bounded(Vec<T> a, Vec<T> b) noexcept {
  using K = MathConstants<T>;
  const Vec<T> magic(K::magic);
  const Vec<T> rounded = fma(a, b, magic);
  const Vec<T> f = fma(a, b, magic - rounded);
  return add_exponent(horner(f, K::exp2), rounded);
}

#if SSM_SIMD_AVX512
// 2^t = 2^n T[i] p(f) with i in sixteenths, T in one register, |f| <= 1/32 and p of degree 3
// (2^-29.2): six instructions on the multipliers instead of eight, which are what the scan waits
// for.
struct Exp2Table {
  // bits of 2^(i/16), less i << 19, which shifting n and i together into place adds.
  alignas(64) static constexpr std::uint32_t bits[16] = {
      0x3f800000u, 0x3f7daac3u, 0x3f7b95c2u, 0x3f79c3d3u, 0x3f7837f0u, 0x3f76f532u,
      0x3f75fed7u, 0x3f75583fu, 0x3f7504f3u, 0x3f7508a4u, 0x3f75672au, 0x3f76248cu,
      0x3f7744fdu, 0x3f78ccdfu, 0x3f7ac0c7u, 0x3f7d257du};
};
SSM_ALWAYS_INLINE Vec<float> exp2_bounded(Vec<float> a, Vec<float> b) noexcept {
  const Vec<float> magic(786432.0f);  // 1.5 2^19: the last bit is 1/16
  const Vec<float> rounded = fma(a, b, magic);
  const Vec<float> f = fma(a, b, magic - rounded);
  const __m512i index = _mm512_castps_si512(rounded.v);
  const __m512i table = _mm512_load_si512(Exp2Table::bits);
  const __m512i power =
      _mm512_add_epi32(_mm512_maskz_permutexvar_epi32(Vec<float>::kAll, index, table),
                       _mm512_maskz_slli_epi32(Vec<float>::kAll, index, 19));
  static constexpr float kPolynomial[] = {0.69314718f, 0.24023430f, 0.055502348f};
  const Vec<float> scale(_mm512_castsi512_ps(power));
  return fma(scale * f, horner(f, kPolynomial), scale);
}
#endif

template <class T>
SSM_ALWAYS_INLINE Vec<T> exp2_bounded(Vec<T> t) noexcept {
  return exp2_bounded(t, Vec<T>(T(1)));
}

// 2^(a b) for any a and b, and within exp2_bound the bits of exp2_bounded: a lane never depends on
// whether its neighbours allowed the faster function. Beyond, 2^(a b / 2) squared goes to 0 or
// infinity.
template <class T>
SSM_ALWAYS_INLINE Vec<T> exp2_any(Vec<T> a, Vec<T> b) noexcept {
  const Vec<T> bound(MathConstants<T>::exp2_bound);
  const Vec<T> t = a * b;
  const auto within = less_equal(abs(t), bound);
  const Vec<T> inside = exp2_bounded(Vec<T>::select(within, a, Vec<T>(T(0))), b);
  const Vec<T> half = min(bound, max(Vec<T>(T(0)) - bound, t * Vec<T>(T(0.5))));
  const Vec<T> root = exp2_bounded(half);
  return Vec<T>::select(equal(t, t), Vec<T>::select(within, inside, root * root), t);
}

}  // namespace simd
SSM_CPU_DETAIL_END
