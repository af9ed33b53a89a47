#pragma once

#include "ssm/ops/linear.hpp"
#include "ssm/reference/backend.hpp"
#include "ssm/reference/row.hpp"

SSM_NAMESPACE_BEGIN

// The definition of the linear layer; see LinearArgs for the equation. Allocates nothing. On a bad
// argument it returns a Status and writes nothing; a packed weight is `unsupported`.
template <class T, class TOut>
Status linear(Reference, const LinearArgs<T, TOut>& a) {
  using Accum = accum_t<T>;
  const Status status = Check("linear")
                            .require(a.packed.data == nullptr, ErrorCode::unsupported, "packed",
                                     "must be absent: the reference reads the weight as stored")
                            .also(check_shapes(a))
                            .status();
  if (!status.is_ok()) return status;

  for (index_t b = 0; b < a.x.extent(0); ++b) {
    for (index_t t = 0; t < a.x.extent(1); ++t) {
      const auto x = detail::row(a.x.select(0, b).select(0, t));
      for (index_t o = 0; o < a.weight.extent(0); ++o) {
        Accum y = (x * detail::row(a.weight.select(0, o))).sum();
        if (a.bias.present()) y = y + widen(a.bias(o));
        a.y(b, t, o) = static_cast<TOut>(y);
      }
    }
  }
  return Status::ok();
}

SSM_NAMESPACE_END
