#pragma once

#include <algorithm>
#include <cmath>
#include <complex>
#include <utility>

#include "ssm/lti/system.hpp"

SSM_NAMESPACE_BEGIN
namespace lti {

// The convolutional mode: y_k = sum_{j <= k} K_j u_{k-j} + D u_k + the response to the initial
// state, with the impulse response
//
//   K_0 = C Bbar,   K_l = C Abar^(l-1) (Abar Bbar + Bbar_previous)
//
// which is C Abar^l Bbar for rules without an input memory. Powers of Abar are taken in at least
// double: a float a^n obtained by squaring is off by n roundings.

// How Abar^l V, l = 0, 1, 2, …, is computed.
enum class KernelMethod {
  powers,    // V <- Abar V, one at a time: O(N^2) work a step, O(N) memory
  doubling,  // [S, Abar^n S] with n = 1, 2, 4, …: the same work plus log2(L) products Abar^n
             // Abar^n, but in large matrix products; O(N L) memory
};

enum class ConvolutionMethod {
  direct,  // O(L^2)
  fft,     // O(L log L), zero-padded so that nothing wraps around
};

namespace detail {

template <class Scalar>
Matrix<typename Work<Scalar>::type> widened(const Matrix<Scalar>& A) {
  return A.template cast<typename Work<Scalar>::type>();
}
template <class Scalar>
Diagonal<typename Work<Scalar>::type> widened(const Diagonal<Scalar>& A) {
  return Diagonal<typename Work<Scalar>::type>(
      A.diagonal().template cast<typename Work<Scalar>::type>());
}

template <class Scalar>
Matrix<Scalar> squared(const Matrix<Scalar>& A) {
  return A * A;
}
template <class Scalar>
Diagonal<Scalar> squared(const Diagonal<Scalar>& A) {
  return Diagonal<Scalar>(A.diagonal().cwiseProduct(A.diagonal()));
}

// [C V, C A V, C A^2 V, …], `count` blocks.
template <class Transition, class Scalar>
Matrix<Scalar> krylov_outputs(KernelMethod method, const Transition& A, Matrix<Scalar> V,
                              const Matrix<Scalar>& C, Eigen::Index count) {
  const Eigen::Index m = V.cols();
  if (method == KernelMethod::powers) {
    Matrix<Scalar> outputs(C.rows(), m * count);
    Matrix<Scalar> next(V.rows(), m);
    for (Eigen::Index l = 0; l < count; ++l) {
      outputs.middleCols(l * m, m).noalias() = C * V;
      next.noalias() = A * V;
      V.swap(next);
    }
    return outputs;
  }
  Matrix<Scalar> krylov(V.rows(), m * count);
  if (count > 0) krylov.leftCols(m) = V;
  Transition power = A;
  for (Eigen::Index done = 1; done < count;) {
    const Eigen::Index added = std::min(done, count - done);
    krylov.middleCols(done * m, added * m).noalias() = power * krylov.leftCols(added * m);
    done += added;
    if (done < count) power = squared(power);
  }
  return C * krylov;
}

// The discrete Fourier transform of a power-of-two length and its inverse. Own code because that of
// Eigen counts in int.
template <class Real>
class Fourier {
 public:
  using Complex = std::complex<Real>;

  explicit Fourier(Eigen::Index size) : roots_(std::max<Eigen::Index>(size / 2, 1)), size_(size) {
    // e^(-2 pi i j / size) by sine and cosine of each angle, not by powers, whose errors add up.
    using Wide = typename Work<Real>::type;
    const Wide turn = Wide(-6.283185307179586476925286766559005768L);
    for (Eigen::Index j = 0; j < roots_.size(); ++j) {
      const Wide angle = turn * (static_cast<Wide>(j) / static_cast<Wide>(size));
      roots_(j) = Complex(static_cast<Real>(std::cos(angle)), static_cast<Real>(std::sin(angle)));
    }
  }

  // X_k = sum_j x_j e^(-2 pi i j k / size), in place.
  void forward(Vector<Complex>& x) const {
    for (Eigen::Index i = 1, reversed = 0; i < size_; ++i) {
      Eigen::Index bit = size_ / 2;
      for (; (reversed & bit) != 0; bit /= 2) reversed ^= bit;
      reversed ^= bit;
      if (i < reversed) std::swap(x(i), x(reversed));
    }
    for (Eigen::Index half = 1; half < size_; half *= 2) {
      const Eigen::Index stride = size_ / (2 * half);
      for (Eigen::Index start = 0; start < size_; start += 2 * half) {
        for (Eigen::Index j = 0; j < half; ++j) {
          const Complex odd = product(roots_(j * stride), x(start + half + j));
          const Complex even = x(start + j);
          x(start + j) = even + odd;
          x(start + half + j) = even - odd;
        }
      }
    }
  }

  // x_j = 1/size sum_k X_k e^(2 pi i j k / size), in place.
  void inverse(Vector<Complex>& x) const {
    x = x.conjugate();
    forward(x);
    x = x.conjugate() / static_cast<Real>(size_);
  }

 private:
  // std::complex's operator also recovers infinities, which costs a branch and a call each time.
  static Complex product(const Complex& a, const Complex& b) noexcept {
    return Complex(a.real() * b.real() - a.imag() * b.imag(),
                   a.real() * b.imag() + a.imag() * b.real());
  }

  Vector<Complex> roots_;
  Eigen::Index size_;
};

template <class Scalar>
Matrix<Scalar> convolve_direct(MatrixArg<Scalar> K, MatrixArg<Scalar> u) {
  const Eigen::Index inputs = u.rows();
  const Eigen::Index taps = K.cols() / inputs;
  Matrix<Scalar> y = Matrix<Scalar>::Zero(K.rows(), u.cols());
  for (Eigen::Index k = 0; k < u.cols(); ++k) {
    for (Eigen::Index j = 0; j <= k && j < taps; ++j) {
      y.col(k).noalias() += K.middleCols(j * inputs, inputs) * u.col(k - j);
    }
  }
  return y;
}

template <class Scalar>
Matrix<Scalar> convolve_fft(MatrixArg<Scalar> K, MatrixArg<Scalar> u) {
  using Complex = std::complex<real_t<Scalar>>;
  const Eigen::Index inputs = u.rows();
  const Eigen::Index length = u.cols();
  const Eigen::Index taps = std::min(K.cols() / inputs, length);
  Matrix<Scalar> y = Matrix<Scalar>::Zero(K.rows(), length);
  if (taps == 0) return y;
  Eigen::Index size = 1;
  while (size < length + taps - 1) size *= 2;
  const Fourier<real_t<Scalar>> fourier(size);

  Matrix<Complex> spectra(size, inputs);
  Vector<Complex> signal(size);
  for (Eigen::Index m = 0; m < inputs; ++m) {
    signal.setZero();
    signal.head(length) = u.row(m).transpose().template cast<Complex>();
    fourier.forward(signal);
    spectra.col(m) = signal;
  }
  Vector<Complex> sum(size);
  for (Eigen::Index p = 0; p < K.rows(); ++p) {
    sum.setZero();
    for (Eigen::Index m = 0; m < inputs; ++m) {
      signal.setZero();
      for (Eigen::Index j = 0; j < taps; ++j) signal(j) = Complex(K(p, j * inputs + m));
      fourier.forward(signal);
      sum += signal.cwiseProduct(spectra.col(m));
    }
    fourier.inverse(sum);
    if constexpr (is_complex_v<Scalar>) {
      y.row(p) = sum.head(length).transpose();
    } else {
      y.row(p) = sum.head(length).real().transpose();
    }
  }
  return y;
}

}  // namespace detail

// K = [K_0, K_1, …, K_{length-1}], (P, M length): row p, column l M + m is the response of output
// p, l steps after a unit impulse at input m, without D. Errors, with nothing written: sizes that
// do not match, N or M of zero, length negative or beyond 63 bits of bytes.
template <class Transition>
Status kernel(KernelMethod method, const DiscreteSystem<Transition>& system, index_t length,
              Matrix<typename Transition::Scalar>& K) {
  using Scalar = typename Transition::Scalar;
  Check check("kernel");
  detail::check_system(check, system);
  if (check.passed()) {
    const index_t rows = std::max<index_t>(system.Abar.rows(), system.C.rows());
    detail::check_count<Scalar>(check, "length", length, rows, system.Bbar.cols());
  }
  if (!check.passed()) return check.status();

  const Eigen::Index count = static_cast<Eigen::Index>(length);
  const Eigen::Index inputs = system.Bbar.cols();
  Matrix<Scalar> result(system.C.rows(), inputs * count);
  if (count > 0) {
    const auto Abar = detail::widened(system.Abar);
    const auto Bbar = detail::widened(system.Bbar);
    const auto C = detail::widened(system.C);
    auto second = (Abar * Bbar).eval();
    if (system.has_input_memory()) second += detail::widened(system.Bbar_previous);
    result.leftCols(inputs) = (C * Bbar).template cast<Scalar>();
    result.rightCols(inputs * (count - 1)) =
        detail::krylov_outputs(method, Abar, second, C, count - 1).template cast<Scalar>();
  }
  K.swap(result);
  return Status::ok();
}

// What the initial state alone contributes to the outputs:
//
//   y_l = C Abar^l (Abar x_{-1} + Bbar_previous u_{-1}),  l = 0 .. length-1
//
// (P, length). Errors as for kernel(), and a state of the wrong size.
template <class Transition>
Status initial_response(KernelMethod method, const DiscreteSystem<Transition>& system,
                        const State<typename Transition::Scalar>& state, index_t length,
                        Matrix<typename Transition::Scalar>& y) {
  using Scalar = typename Transition::Scalar;
  Check check("initial_response");
  detail::check_system(check, system);
  detail::check_state(check, system, state);
  if (check.passed()) {
    const index_t rows = std::max<index_t>(system.Abar.rows(), system.C.rows());
    detail::check_count<Scalar>(check, "length", length, rows, 1);
  }
  if (!check.passed()) return check.status();

  using Wide = typename detail::Work<Scalar>::type;
  const auto Abar = detail::widened(system.Abar);
  Matrix<Wide> first = Abar * state.x.template cast<Wide>();
  if (system.has_input_memory()) {
    first += detail::widened(system.Bbar_previous) * state.u_previous.template cast<Wide>();
  }
  y = detail::krylov_outputs(method, Abar, first, detail::widened(system.C),
                             static_cast<Eigen::Index>(length))
          .template cast<Scalar>();
  return Status::ok();
}

// y_k = sum_j K_j u_{k-j}: the causal convolution of u (M, L) with K (P, M taps) as kernel() lays
// it out. taps may differ from L: a shorter K is a finite impulse response, the end of a longer one
// is not used. y becomes (P, L) and may be K or u. Errors, with nothing written: no inputs,
// K.cols() not a multiple of M.
template <class Scalar>
Status convolve(ConvolutionMethod method, MatrixArg<Scalar> K, MatrixArg<Scalar> u,
                Matrix<Scalar>& y) {
  Check check("convolve");
  check.at_least("u.rows()", index_t{u.rows()}, index_t{1}).divides("u.rows()", u.rows(), K.cols());
  if (!check.passed()) return check.status();

  Matrix<Scalar> result = method == ConvolutionMethod::direct
                              ? detail::convolve_direct<Scalar>(K, u)
                              : detail::convolve_fft<Scalar>(K, u);
  y.swap(result);
  return Status::ok();
}

// All of the convolutional mode: the same y as run() gives from this state, which is not changed
// (the state after the sequence is what only run() computes). Errors as for run().
template <class Transition>
Status run_by_convolution(KernelMethod kernel_method, ConvolutionMethod convolution_method,
                          const DiscreteSystem<Transition>& system,
                          MatrixArg<typename Transition::Scalar> u,
                          const State<typename Transition::Scalar>& state,
                          Matrix<typename Transition::Scalar>& y) {
  using Scalar = typename Transition::Scalar;
  Check check("run_by_convolution");
  detail::check_system(check, system);
  detail::check_state(check, system, state);
  check.equal("u.rows()", u.rows(), system.Bbar.cols());
  if (!check.passed()) return check.status();

  Matrix<Scalar> K;
  Matrix<Scalar> forced;
  Matrix<Scalar> result;
  check.also(kernel(kernel_method, system, u.cols(), K))
      .also(initial_response(kernel_method, system, state, u.cols(), result));
  if (check.passed()) check.also(convolve(convolution_method, K, u, forced));
  if (!check.passed()) return check.status();
  result += forced;
  if (system.D.size() != 0) result.noalias() += system.D * u;
  y.swap(result);
  return Status::ok();
}

}  // namespace lti
SSM_NAMESPACE_END
