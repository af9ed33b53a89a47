#pragma once

#include <vector>

#include "support/oracle.hpp"

// Derivatives of the oracles by central differences of order eight in long double: exact to about
// 1e-15 of the scale of the loss for functions as smooth as ours.
namespace oracle {

// f'(0)
template <class F>
Real derivative(F f) {
  constexpr Real kStep = 0.0005L;
  constexpr Real kWeights[] = {4.0L / 5, -1.0L / 5, 4.0L / 105, -1.0L / 280};
  Real sum = 0;
  for (int i = 4; i >= 1; --i) {
    const Real step = static_cast<Real>(i) * kStep;
    sum += kWeights[i - 1] * (f(step) - f(-step));
  }
  return sum / kStep;
}

// dL/dv for each element of `values`, which `loss` reads.
template <class F>
std::vector<Real> gradient(std::vector<Real>& values, F loss) {
  std::vector<Real> out;
  for (Real& v : values) {
    const Real at = v;
    out.push_back(derivative([&](Real step) {
      v = at + step;
      return loss();
    }));
    v = at;
  }
  return out;
}
// dL/dRe v + i dL/dIm v; the imaginary part only where `complex_values` says there is one.
template <class F>
std::vector<Complex> gradient(std::vector<Complex>& values, bool complex_values, F loss) {
  std::vector<Complex> out;
  for (Complex& v : values) {
    const Complex at = v;
    const auto along = [&](Complex direction) {
      return derivative([&](Real step) {
        v = at + step * direction;
        return loss();
      });
    };
    const Real re = along({1, 0});
    out.push_back({re, complex_values ? along({0, 1}) : 0});
    v = at;
  }
  return out;
}

}  // namespace oracle
