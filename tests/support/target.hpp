#pragma once

#include <utility>

#include "ssm/core/view.hpp"

namespace ssm_test {

// What the suites of tests/ops ask of the backend under test, its target:
//
//   backend()      the object that operations take first
//   map(view)      the same View on memory that the backend reaches. A device target copies the
//                  whole allocation behind it (TestMemory::find), once per run, so that Views of
//                  the same allocation still alias
//   finish()       waits for the backend and copies every mapped allocation back
//   supports(args) false if the backend answers these arguments with `unsupported`
//   kChecksValues  whether it checks conditions on the values in memory, as host backends do
//
// A target lives for one run: map, call, finish. This one serves backends in host memory.
template <class Backend>
class HostTarget {
 public:
  static constexpr bool kChecksValues = true;

  Backend backend() const { return Backend{}; }
  template <class View>
  View map(const View& view) {
    return view;
  }
  void finish() {}
  template <class Args>
  static bool supports(const Args&) {
    return true;
  }
};

}  // namespace ssm_test
