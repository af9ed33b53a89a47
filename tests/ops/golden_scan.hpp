#pragma once

#include "ops/run.hpp"
#include "support/golden.hpp"
#include "support/suite.hpp"
#include "support/target.hpp"

namespace ssm_test {

// The cases of golden/selective_scan_dev.
inline constexpr int kGoldenScans = 11;

inline bool golden_scan_is_complex(const Golden& file, int number) {
  return file.shape("case" + std::to_string(number) + ".A").size() == 3;
}

// Case `number` of the file as arguments over memory in mamba_ssm's layouts, channels before
// tokens, seen through transposed views; y and h_last in layouts of our own.
template <class T, class S>
class GoldenScan {
 public:
  using Args = ssm::SelectiveScanArgs<T, S>;
  using Accum = ssm::accum_t<T>;
  using Coefficient = typename Args::Coefficient;

  GoldenScan(const Golden& file, int number) : prefix_("case" + std::to_string(number) + ".") {
    const std::vector<index_t> u = file.shape(prefix_ + "u");
    batch_ = u[0];
    channels_ = u[1];
    length_ = u[2];
    d_state_ = file.shape(prefix_ + "A")[1];
    softplus_ = file.metadata("case" + std::to_string(number)).find("\"delta_softplus\": true") !=
                std::string::npos;
    const ssm::Extents<3> activation{batch_, channels_, length_};
    u_ = file.tensor<T, 3>(prefix_ + "u", activation);
    delta_ = file.tensor<T, 3>(prefix_ + "delta", activation);
    if (file.has(prefix_ + "z")) z_ = file.tensor<T, 3>(prefix_ + "z", activation);
    A_ = file.tensor<S, 2>(prefix_ + "A", {channels_, d_state_});
    if (file.has(prefix_ + "D")) D_ = file.tensor<Accum, 1>(prefix_ + "D", {channels_});
    if (file.has(prefix_ + "delta_bias")) {
      bias_ = file.tensor<Accum, 1>(prefix_ + "delta_bias", {channels_});
    }
    load_coefficient(file, "B", B_, constant_B_);
    load_coefficient(file, "C", C_, constant_C_);
    out = file.tensor<double, 3>(prefix_ + "out", activation);
    using Wide = std::conditional_t<ssm::is_complex_v<S>, std::complex<double>, double>;
    const auto state = file.tensor<Wide, 3>(prefix_ + "last_state", {batch_, channels_, d_state_});
    last_state = complex_values(state.view());
    y = Tensor<T, 3>({batch_, length_, channels_});
    h_last = Tensor<S, 3>({batch_, channels_, d_state_});
  }

  Args args() const {
    Args a;
    a.x = u_.view().transpose(1, 2);
    a.dt = delta_.view().transpose(1, 2);
    if (z_.present()) a.z = z_.view().transpose(1, 2);
    a.A = A_.view();
    a.B = coefficient(B_, constant_B_);
    a.C = coefficient(C_, constant_C_);
    a.D = D_.view();
    a.dt_bias = bias_.view();
    a.y = y.view();
    a.h_last = h_last.view();
    a.delta_softplus = softplus_;
    return a;
  }

  // The file's `out` in the order of y.
  std::vector<oracle::Complex> wanted_y() const {
    return complex_values(out.view().transpose(1, 2));
  }

  Tensor<double, 3> out;
  std::vector<oracle::Complex> last_state;
  Tensor<T, 3> y;
  Tensor<S, 3> h_last;

 private:
  // (channels, d_state) if constant along the sequence, (batch, [groups,] d_state, length) if not.
  void load_coefficient(const Golden& file, const std::string& name, Tensor<Coefficient, 4>& m,
                        Tensor<Coefficient, 2>& constant) const {
    const std::vector<index_t> shape = file.shape(prefix_ + name);
    if (shape == file.shape(prefix_ + "A")) {
      constant = file.tensor<Coefficient, 2>(prefix_ + name, {channels_, d_state_});
      return;
    }
    const index_t groups = shape.size() == 4 ? shape[1] : 1;
    m = file.tensor<Coefficient, 4>(prefix_ + name, {batch_, groups, d_state_, length_});
  }
  ssm::View<const Coefficient, 4> coefficient(const Tensor<Coefficient, 4>& m,
                                              const Tensor<Coefficient, 2>& constant) const {
    if (m.present()) return m.view().transpose(1, 3).transpose(2, 3);
    return ssm::constant_over_sequence<Coefficient>(constant.view(), batch_, length_);
  }

  std::string prefix_;
  index_t batch_ = 0, channels_ = 0, length_ = 0, d_state_ = 0;
  bool softplus_ = true;
  Tensor<T, 3> u_, delta_, z_;
  Tensor<S, 2> A_;
  Tensor<Coefficient, 4> B_, C_;
  Tensor<Coefficient, 2> constant_B_, constant_C_;
  Tensor<Accum, 1> D_, bias_;
};

template <class Target_, class T_>
struct GoldenTypes {
  using Target = Target_;
  using T = T_;
  static std::string name() { return type_name<T>(); }
};

}  // namespace ssm_test
