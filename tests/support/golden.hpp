#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "ssm/io/safetensors.hpp"
#include "support/tensor.hpp"

namespace ssm_test {

// A file of tests/golden: numbers that this project did not compute. A test that asks for what is
// not there ends the process, for nothing after it would mean anything.
class Golden {
 public:
  // `name` is relative to tests/golden.
  explicit Golden(const std::string& name) {
    const auto result =
        ssm::io::SafetensorsFile::open(std::filesystem::path(SSM_GOLDEN_DIR) / name, &file_);
    require(result.is_ok(), result.message());
  }

  bool has(const std::string& name) const { return file_.find(name) != nullptr; }
  std::vector<index_t> shape(const std::string& name) const {
    require(has(name), "no golden tensor " + name);
    return file_.find(name)->shape;
  }
  std::string metadata(const std::string& key) const {
    const auto at = file_.metadata().find(key);
    require(at != file_.metadata().end(), "no golden metadata " + key);
    return at->second;
  }

  // The tensor rounded to T. For complex T the file holds real and imaginary parts in turn, along
  // an axis of their own or interleaved along the last one; `extents` is the shape without them.
  template <class T, int Rank>
  Tensor<T, Rank> tensor(const std::string& name, const ssm::Extents<Rank>& extents) const {
    const std::vector<double> values = flat(name);
    Tensor<T, Rank> out(extents);
    constexpr std::size_t kParts = ssm::is_complex_v<T> ? 2 : 1;
    require(values.size() == kParts * static_cast<std::size_t>(out.view().size()),
            "golden tensor " + name + " has another size");
    auto value = values.begin();
    out.for_each([&](T& element) {
      if constexpr (ssm::is_complex_v<T>) {
        using R = ssm::real_t<T>;
        element = T(static_cast<R>(value[0]), static_cast<R>(value[1]));
      } else {
        element = Tensor<T, Rank>::from_double(*value);
      }
      value += kParts;
    });
    return out;
  }

 private:
  static void require(bool condition, const std::string& what) {
    if (condition) return;
    ADD_FAILURE() << what;
    std::abort();
  }

  std::vector<double> flat(const std::string& name) const {
    const std::vector<index_t> extents = shape(name);
    switch (extents.size()) {
      case 1:
        return copy<1>(name, {extents[0]});
      case 2:
        return copy<2>(name, {extents[0], extents[1]});
      case 3:
        return copy<3>(name, {extents[0], extents[1], extents[2]});
      default:
        require(extents.size() == 4, "golden tensor " + name + " has rank 0 or above 4");
        return copy<4>(name, {extents[0], extents[1], extents[2], extents[3]});
    }
  }
  template <int Rank>
  std::vector<double> copy(const std::string& name, const ssm::Extents<Rank>& extents) const {
    const Tensor<double, Rank> all(extents);
    const auto result = file_.copy_to(name, all.view());
    require(result.is_ok(), result.message());
    return all.values();
  }

  ssm::io::SafetensorsFile file_;
};

}  // namespace ssm_test
