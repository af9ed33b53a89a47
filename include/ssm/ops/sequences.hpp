#pragma once

#include "ssm/core/check.hpp"

SSM_NAMESPACE_BEGIN

// Which tokens of a (batch, length, channels) activation belong to which sequence. Default: each
// batch row is one sequence of the full length. At most one of the two views is present.
//
//   lengths  (batch): row b holds lengths(b) valid tokens, 0 <= lengths(b) <= length, then padding
//            on the right. Padding is not read, does not enter a state, and its outputs are not
//            written.
//   starts   (sequences + 1), with batch = 1: sequence i is the tokens [starts(i), starts(i + 1)),
//            starts(0) = 0, non-decreasing, starts(sequences) = length (cumulative lengths). Each
//            sequence begins from its own initial state.
//
// States have one row per sequence: batch rows, or starts.extent(0) - 1 when packed.
struct Sequences {
  View<const index_t, 1> lengths;
  View<const index_t, 1> starts;

  bool present() const noexcept { return lengths.present() || starts.present(); }
  bool packed() const noexcept { return starts.present(); }
  index_t count(index_t batch) const noexcept { return packed() ? starts.extent(0) - 1 : batch; }

  // Sequence i covers the tokens [begin, end) of batch row `row`.
  struct Range {
    index_t row, begin, end;
  };
  Range range(index_t i, index_t length) const noexcept {
    if (packed()) return {0, starts(i), starts(i + 1)};
    return {i, 0, lengths.present() ? lengths(i) : length};
  }
};

// Shapes only; touches no element of either view, so it may be called on device memory.
inline Status check_shapes(const Sequences& s, const char* operation, index_t batch) noexcept {
  Check check(operation);
  check.optional_shape("sequences.lengths", s.lengths, {batch});
  if (s.starts.present()) {
    check.array("sequences.starts", s.starts)
        .at_least("sequences.starts.extent(0)", s.starts.extent(0), index_t{1})
        .equal("batch (packed sequences)", batch, 1)
        .require(!s.lengths.present(), ErrorCode::invalid_argument, "sequences.lengths",
                 "must be absent when sequences.starts is present");
  }
  return check.status();
}

// The values, in host memory: called by host backends after check_shapes.
inline Status check_values(const Sequences& s, const char* operation, index_t batch,
                           index_t length) noexcept {
  Check check(operation);
  if (s.lengths.present()) {
    for (index_t b = 0; b < batch; ++b) {
      check.at_least("sequences.lengths value", s.lengths(b), index_t{0});
      check.at_most("sequences.lengths value", s.lengths(b), length);
    }
  }
  if (s.packed()) {
    const index_t n = s.starts.extent(0) - 1;
    check.equal("sequences.starts(0)", s.starts(0), 0);
    for (index_t i = 0; i < n; ++i) {
      check.at_least("sequences.starts value", s.starts(i + 1), s.starts(i));
    }
    check.equal("sequences.starts(sequences)", s.starts(n), length);
  }
  return check.status();
}

SSM_NAMESPACE_END
