#pragma once

#include <type_traits>

#include "ssm/core/check.hpp"
#include "ssm/core/dtype.hpp"
#include "ssm/ops/sequences.hpp"

SSM_NAMESPACE_BEGIN

// How the input enters the state (discretization of B). The state itself always decays by
// exp(delta A).
enum class BRule {
  euler,            // delta B: "exponential Euler", what Mamba-1 and Mamba-2 checkpoints expect
  zero_order_hold,  // delta phi_1(delta A) B, phi_1(x) = (e^x - 1) / x
};

// How the recurrence is evaluated. All agree up to rounding; production backends choose their own
// order of summation for the first two.
enum class ScanMode {
  sequential,   // h <- a h + b, one token after another
  associative,  // the same through (a1, b1) o (a2, b2) = (a2 a1, a2 b1 + b2)
  accurate,     // carries e = a - 1 = expm1(delta A), for sequences of millions of tokens where
                // rounding a near 1 dominates: h <- h + (e h + b), compensated
};

// The selective scan of Mamba (Gu and Dao 2023, algorithm 2), per batch row b, channel d and
// state n:
//
//   delta_t = softplus(dt_t + dt_bias)                     (softplus only if delta_softplus)
//   h_t[n]  = exp(delta_t A[n]) h_{t-1}[n] + w_t B_t[n] x_t,   w_t = delta_t             (euler)
//                                                        w_t = delta_t phi_1(delta_t A[n])  (zoh)
//   y_t     = Re sum_n C_t[n] h_t[n] + D x_t               (2 Re sum when S is complex: A holds one
//                                                           of each conjugate pair)
//   y_t    <- y_t silu(z_t)                                (only if z is present)
//
// T is the storage type of activations; S the type of A and of the state: accum_t<T> for a real
// system, std::complex<accum_t<T>> for a complex one. B and C are stored as T when S is real and as
// S when it is complex. A single token (length 1) with h0 and h_last is the decoding step.
//
// Any strides are honoured. Outputs must not overlap inputs, except that y may be x or z exactly
// (same data and strides), and h_last may be h0.
template <class T, class S = accum_t<T>>
struct SelectiveScanArgs {
  static_assert(std::is_same<real_t<S>, accum_t<T>>::value,
                "S is accum_t<T> or std::complex<accum_t<T>>");
  using Accum = accum_t<T>;
  using Coefficient = std::conditional_t<is_complex_v<S>, S, T>;

  View<const T, 3> x;            // (batch, length, channels)
  View<const T, 3> dt;           // (batch, length, channels), before bias and softplus
  View<const S, 2> A;            // (channels, d_state), Re A <= 0
  View<const Coefficient, 4> B;  // (batch, length, groups, d_state), groups divides channels;
  View<const Coefficient, 4> C;  //   channel d reads group d / (channels / groups)
  View<const Accum, 1> D;        // (channels), optional skip
  View<const T, 3> z;            // (batch, length, channels), optional gate
  View<const Accum, 1> dt_bias;  // (channels), optional
  View<const S, 3> h0;           // (sequences, channels, d_state), optional: absent means zero
  View<S, 3> h_last;             // (sequences, channels, d_state), optional output
  View<T, 3> y;                  // (batch, length, channels), output

  Sequences sequences = {};
  bool delta_softplus = true;
  bool reverse = false;  // runs from the last token to the first; h0 enters at the last token and
                         // h_last is the state after the first
  BRule b_rule = BRule::euler;
  ScanMode mode = ScanMode::sequential;
};

// B or C that vary by channel and not along the sequence, (channels, d_state), as the 4-D view that
// SelectiveScanArgs wants: one group per channel, zero strides over batch and length. Its gradient
// is summed over both.
template <class T>
SSM_HOST_DEVICE View<T, 4> constant_over_sequence(const View<T, 2>& m, index_t batch,
                                                  index_t length) noexcept {
  return View<T, 4>(m.data(), {batch, length, m.extent(0), m.extent(1)},
                    {0, 0, m.stride(0), m.stride(1)});
}

namespace detail {

// The shapes of everything that the scan reads.
template <class T, class S>
Check check_scan_inputs(const char* op, const SelectiveScanArgs<T, S>& a) noexcept {
  const index_t batch = a.x.extent(0);
  const index_t length = a.x.extent(1);
  const index_t channels = a.x.extent(2);
  const index_t d_state = a.A.extent(1);
  Check check(op);
  check.array("x", a.x).shape("dt", a.dt, {batch, length, channels});
  check.array("A", a.A).shape("A", a.A, {channels, d_state});
  check.at_least("A.extent(1) (d_state)", d_state, index_t{1});
  check.array("B", a.B).shape("B", a.B, {batch, length, a.B.extent(2), d_state});
  check.divides("B.extent(2) (groups)", a.B.extent(2), channels);
  check.array("C", a.C).shape("C", a.C, {batch, length, a.C.extent(2), d_state});
  check.divides("C.extent(2) (groups)", a.C.extent(2), channels);
  check.optional_shape("D", a.D, {channels})
      .optional_shape("z", a.z, {batch, length, channels})
      .optional_shape("dt_bias", a.dt_bias, {channels});
  check.also(check_shapes(a.sequences, op, batch));
  check.optional_shape("h0", a.h0, {a.sequences.count(batch), channels, d_state});
  return check;
}

}  // namespace detail

// Every shape condition; touches no element, so it serves device memory too. Empty batch, length
// and channels are valid.
template <class T, class S>
Status check_shapes(const SelectiveScanArgs<T, S>& a) noexcept {
  const index_t batch = a.x.extent(0);
  const index_t channels = a.x.extent(2);
  Check check = detail::check_scan_inputs("selective_scan", a);
  check.optional_shape("h_last", a.h_last, {a.sequences.count(batch), channels, a.A.extent(1)})
      .shape("y", a.y, {batch, a.x.extent(1), channels});
  return check.status();
}

namespace detail {

// Whether every Re A(d, n) <= 0 or NaN. The inner loop runs along the smaller stride: this is
// called for every token of a decoding loop.
template <class S>
bool state_matrix_decays(View<const S, 2> A) noexcept {
  if (A.stride(0) < A.stride(1)) A = A.transpose(0, 1);
  bool grows = false;
  for (index_t i = 0; i < A.extent(0); ++i) {
    const S* const row = A.data() + i * A.stride(0);
    for (index_t j = 0; j < A.extent(1); ++j) grows |= std::real(row[j * A.stride(1)]) > 0;
  }
  return !grows;
}

}  // namespace detail

// The conditions on values, for host backends: sequence lengths within the buffers and Re A <= 0
// (NaN passes and shows in the output of its channel).
template <class T, class S>
Status check_values(const SelectiveScanArgs<T, S>& a,
                    const char* operation = "selective_scan") noexcept {
  Check check(operation);
  check.also(check_values(a.sequences, operation, a.x.extent(0), a.x.extent(1)));
  if constexpr (std::is_arithmetic<real_t<S>>::value) {
    if (check.passed() && !detail::state_matrix_decays(a.A)) {
      for (index_t d = 0; d < a.A.extent(0); ++d) {
        for (index_t n = 0; n < a.A.extent(1); ++n) {
          const real_t<S> value = std::real(a.A(d, n));
          if (value > 0) check.at_most("A value (real part)", value, real_t<S>(0));
        }
      }
    }
  }
  return check.status();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class T, class S>
Status selective_scan(const Backend&, const SelectiveScanArgs<T, S>&) {
  static_assert(sizeof(Backend) == 0,
                "no selective_scan for this backend: include <ssm/reference/selective_scan.hpp>, "
                "<ssm/cpu/selective_scan.hpp> or <ssm/cuda/selective_scan.cuh>, or pass a backend "
                "object first");
  return Status::ok();
}

// The operator of the associative scan, a public function object: composing the affine maps
// h -> a1 h + b1 and then h -> a2 h + b2. Associative, not commutative; identity (1, 0).
template <class S>
struct AffineMap {
  S a = S(1);
  S b = S(0);
};
struct ComposeAffine {
  template <class S>
  SSM_HOST_DEVICE AffineMap<S> operator()(const AffineMap<S>& first,
                                          const AffineMap<S>& second) const {
    return {second.a * first.a, second.a * first.b + second.b};
  }
};

// The same map carried as e = a - 1, which keeps the digits of a decay near 1:
// (e1, b1) o (e2, b2) = (e1 + e2 + e1 e2, b2 + b1 + e2 b1); identity (0, 0).
template <class S>
struct AffineMapMinusOne {
  S e = S(0);
  S b = S(0);
};
struct ComposeAffineMinusOne {
  template <class S>
  SSM_HOST_DEVICE AffineMapMinusOne<S> operator()(const AffineMapMinusOne<S>& first,
                                                  const AffineMapMinusOne<S>& second) const {
    return {first.e + second.e + first.e * second.e, second.b + first.b + second.e * first.b};
  }
};

SSM_NAMESPACE_END
