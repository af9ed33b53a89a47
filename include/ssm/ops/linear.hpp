#pragma once

#include "ssm/core/arena.hpp"
#include "ssm/core/check.hpp"
#include "ssm/core/dtype.hpp"

SSM_NAMESPACE_BEGIN

// A weight copied once into a backend's own layout and storage format, which `linear` then reads
// instead of LinearArgs::weight. Made by pack_linear; memory is the arena's. data == nullptr means
// "not packed".
enum class WeightFormat {
  native,  // as stored, T
  f32,
  bf16,
  f16,
  int8,  // symmetric, one scale per row and block of inputs
};
struct PackedWeight {
  const void* data = nullptr;
  WeightFormat format = WeightFormat::native;
};

// Packs `weight` (out_features, in_features) for `backend`. This overload serves backends that read
// the row-major weight as it is: it packs nothing.
template <class Backend, class T>
PackedWeight pack_linear(const Backend&, const View<const T, 2>&, WeightFormat, Arena&) noexcept {
  return {};
}

// y = x W^T + bias over the last dimension, torch.nn.Linear:
//
//   y[b, t, o] = bias[o] + sum_i x[b, t, i] weight[o, i]
//
// Sums in accum_t<T>; the result is rounded once to TOut, which is T or accum_t<T> (logits).
// y must not overlap an input.
template <class T, class TOut = T>
struct LinearArgs {
  View<const T, 3> x;       // (batch, length, in_features)
  View<const T, 2> weight;  // (out_features, in_features)
  View<const T, 1> bias;    // (out_features), optional
  View<TOut, 3> y;          // (batch, length, out_features), output
  PackedWeight packed =
      {};  // optional; if present, weight gives the shape and its data is not read
};

// Every shape condition; touches no element.
template <class T, class TOut>
Status check_shapes(const LinearArgs<T, TOut>& a) noexcept {
  Check check("linear");
  check.array("x", a.x)
      .at_least("weight.extent(0)", a.weight.extent(0), index_t{0})
      .equal("weight.extent(1)", a.weight.extent(1), a.x.extent(2))
      .optional_shape("bias", a.bias, {a.weight.extent(0)})
      .shape("y", a.y, {a.x.extent(0), a.x.extent(1), a.weight.extent(0)});
  if (a.packed.data == nullptr) check.array("weight", a.weight);
  return check.status();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class T, class TOut>
Status linear(const Backend&, const LinearArgs<T, TOut>&) {
  static_assert(sizeof(Backend) == 0,
                "no linear for this backend: include <ssm/reference/linear.hpp>, "
                "<ssm/cpu/linear.hpp> or <ssm/cuda/linear.cuh>, or pass a backend object first");
  return Status::ok();
}

SSM_NAMESPACE_END
