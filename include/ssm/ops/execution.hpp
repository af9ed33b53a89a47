#pragma once

#include <cstddef>

#include "ssm/core/config.hpp"

SSM_NAMESPACE_BEGIN

// How many tokens a block pushes through all its operations at once. A backend that wants scratch
// memory independent of the sequence length, and activations that stay in cache, overloads this for
// its own type; `length` (the default) means no cutting. State is carried across the cuts, so the
// result is the same. Positive whenever length is, and at least n for every n up to the chunk.
template <class Backend>
index_t time_chunk(const Backend&, index_t length) noexcept {
  return length;
}

// Whether the host can read what the backend's views point at. A device backend specialises this to
// false; a block then never looks at the values of its arguments.
template <class Backend>
inline constexpr bool reads_on_host = true;

// Bytes of the Arena that an operation needs for these arguments, whose views may have null data:
// only shapes and options count. A backend overloads it for the operations that need any.
template <class Backend, class Args>
std::size_t scratch_bytes(const Backend&, const Args&) noexcept {
  return 0;
}

SSM_NAMESPACE_END
