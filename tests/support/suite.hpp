#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "ssm/core/status.hpp"
#include "support/error.hpp"
#include "support/oracle.hpp"
#include "support/tensor.hpp"
#include "support/tolerance.hpp"

namespace ssm_test {

template <class T>
std::string type_name() {
  if constexpr (ssm::is_complex_v<T>) return "complex_" + type_name<ssm::real_t<T>>();
  if constexpr (std::is_same<T, ssm::bf16>::value) return "bf16";
  if constexpr (std::is_same<T, ssm::f16>::value) return "f16";
  if constexpr (std::is_same<T, float>::value) return "float";
  if constexpr (std::is_same<T, double>::value) return "double";
  return "long_double";
}

// Names the instances of a typed suite by the name() of their parameter.
struct TypeNames {
  template <class Types>
  static std::string GetName(int) {
    return Types::name();
  }
};

// Which tokens are which sequence, as a case states it.
struct Partition {
  std::vector<index_t> lengths;  // valid tokens per row, or empty
  std::vector<index_t> starts;   // cumulative lengths of a packed row, or empty

  std::vector<oracle::Range> ranges(index_t batch, index_t length) const {
    std::vector<oracle::Range> out;
    for (std::size_t i = 0; i + 1 < starts.size(); ++i)
      out.push_back({0, starts[i], starts[i + 1]});
    if (!starts.empty()) return out;
    for (index_t b = 0; b < batch; ++b) {
      out.push_back({b, 0, lengths.empty() ? length : lengths[static_cast<std::size_t>(b)]});
    }
    return out;
  }
};

// The elements of a View in row-major order as the oracle's numbers.
template <class T, int Rank>
std::vector<oracle::Complex> complex_values(const ssm::View<T, Rank>& v) {
  std::vector<oracle::Complex> out;
  if constexpr (Rank == 1) {
    for (index_t i = 0; i < v.extent(0); ++i) out.push_back(to_complex(v(i)));
  } else {
    for (index_t i = 0; i < v.extent(0); ++i) {
      const auto part = complex_values(v.select(0, i));
      out.insert(out.end(), part.begin(), part.end());
    }
  }
  return out;
}
template <class T, int Rank>
std::vector<oracle::Real> real_values(const ssm::View<T, Rank>& v) {
  std::vector<oracle::Real> out;
  for (const oracle::Complex& c : complex_values(v)) out.push_back(c.real());
  return out;
}

template <class T>
void set_nan(const ssm::View<T, 1>& v) {
  for (index_t i = 0; i < v.extent(0); ++i) v(i) = test_nan<T>();
}
template <class T, int Rank>
void set_nan(const ssm::View<T, Rank>& v) {
  for (index_t i = 0; i < v.extent(0); ++i) set_nan(v.select(0, i));
}

// Overwrites the tokens (dimension 1) behind each row's valid length with NaN: padding is not read.
template <class T, int Rank>
void poison_padding(const Tensor<T, Rank>& tensor, const std::vector<index_t>& lengths) {
  if (!tensor.present()) return;
  for (std::size_t b = 0; b < lengths.size(); ++b) {
    const auto row = tensor.view().select(0, static_cast<index_t>(b));
    set_nan(row.slice(0, lengths[b], row.extent(0) - lengths[b]));
  }
}

// A call that must be refused: what is wrong with which argument.
template <class Args>
struct BadCall {
  const char* argument;  // occurs in status.argument()
  ssm::ErrorCode code;
  std::function<void(Args&)> spoil;
};

// The message names the operation, the argument and, for comparisons, both numbers.
inline void expect_refused(const ssm::Status& status, const char* operation, const char* argument,
                           ssm::ErrorCode code) {
  EXPECT_EQ(status.code(), code) << status.message().text;
  EXPECT_NE(std::strstr(status.argument(), argument), nullptr) << status.message().text;
  const std::string text = status.message().text;
  EXPECT_EQ(text.find(operation), 0u) << text;
  EXPECT_NE(text.find(argument), std::string::npos) << text;
  EXPECT_NE(text.find("must "), std::string::npos) << text;
}

}  // namespace ssm_test
