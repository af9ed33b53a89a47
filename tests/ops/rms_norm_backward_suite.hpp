#pragma once

#include "ops/run_backward.hpp"
#include "support/differences.hpp"
#include "support/gradient.hpp"
#include "support/oracle_backward.hpp"

// What every backend's gradient of RMS normalisation must be, against support/oracle_backward.hpp:
//
//   using Types = testing::Types<NormGradTypes<HostTarget<ssm::Cpu>, float>, …>;
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, RmsNormBackwardSuite, Types, TypeNames);
namespace ssm_test {

struct NormGradCase {
  index_t batch = 2, length = 3, features = 12;
  bool residual = false;  // r is the stream; else x
  bool weight = true, gate = true, norm_before_gate = false, later = true;
  bool in_place = false;  // dx is dy and dresidual is dr_later
  Layout layout = Layout::contiguous;
  double scale = 1, eps = 1e-5;
  ssm::GradMode inputs = ssm::GradMode::overwrite, parameters = ssm::GradMode::overwrite;

  friend std::ostream& operator<<(std::ostream& out, const NormGradCase& c) {
    return out << "batch " << c.batch << " length " << c.length << " features " << c.features
               << " residual " << c.residual << " weight " << c.weight << " gate " << c.gate
               << " norm before gate " << c.norm_before_gate << " later " << c.later << " in place "
               << c.in_place << " layout " << static_cast<int>(c.layout) << " scale " << c.scale
               << " eps " << c.eps << " inputs " << static_cast<int>(c.inputs) << " parameters "
               << static_cast<int>(c.parameters);
  }
};

template <class Target_, class T_, class TGrad_ = T_>
struct NormGradTypes {
  using Target = Target_;
  using T = T_;
  using TGrad = TGrad_;
  using Args = ssm::RmsNormGradArgs<T, TGrad>;
  static std::string name() { return type_name<T>() + "_" + type_name<TGrad>(); }
};

template <class Types>
class RmsNormBackwardSuite : public testing::Test {
 public:
  using T = typename Types::T;
  using TGrad = typename Types::TGrad;
  using Accum = ssm::accum_t<T>;
  using Args = typename Types::Args;

  struct Problem {
    explicit Problem(const NormGradCase& norm_case) : c(norm_case) {
      Random random(3);
      const ssm::Extents<3> shape{c.batch, c.length, c.features};
      if (c.residual) {
        residual = Tensor<Accum, 3>(shape, c.layout), residual.fill(random, -c.scale, c.scale);
      } else {
        x = Tensor<T, 3>(shape, c.layout), x.fill(random, -c.scale, c.scale);
      }
      if (c.weight) weight = Tensor<T, 1>({c.features}, c.layout), weight.fill(random, -2, 2);
      if (c.gate) z = Tensor<T, 3>(shape, c.layout), z.fill(random, -3, 3);
      dy = Tensor<TGrad, 3>(shape, c.layout), dy.fill(random, -1, 1);
      if (c.later) later = Tensor<Accum, 3>(shape, c.layout), later.fill(random, -1, 1);
      if (!c.in_place) {
        dx = {shape, c.layout, c.inputs, random};
        dresidual = {shape, c.layout, c.inputs, random};
      }
      dz = {shape, c.layout, c.inputs, random};
      dweight = {{c.features}, c.layout, c.parameters, random};
    }
    Args args() const {
      Args a;
      a.x = x.view();
      a.residual = residual.view();
      a.weight = weight.view();
      a.z = z.view();
      a.eps = static_cast<Accum>(c.eps);
      a.norm_before_gate = c.norm_before_gate;
      a.dy = dy.view();
      a.dr_later = later.view();
      a.dx = c.in_place ? dy.view() : dx.view();
      a.dresidual = c.in_place ? later.view() : dresidual.view();
      if (c.gate) a.dz = dz.view();
      a.dweight = dweight.view();
      a.inputs = c.inputs;
      a.parameters = c.parameters;
      return a;
    }
    oracle::Norm row(index_t b, index_t t) const {
      oracle::Norm p;
      if (c.residual) p.residual = real_values(residual.view().select(0, b).select(0, t));
      if (!c.residual) p.x = real_values(x.view().select(0, b).select(0, t));
      p.weight = real_values(weight.view());
      if (c.gate) p.z = real_values(z.view().select(0, b).select(0, t));
      p.eps = to_real(args().eps);
      p.norm_before_gate = c.norm_before_gate;
      return p;
    }
    // dr without dr_later, dz and dweight over all rows; to be asked before the run.
    oracle::NormGradient expected() const {
      oracle::NormGradient all;
      all.dweight.assign(static_cast<std::size_t>(c.features), 0);
      for (index_t b = 0; b < c.batch; ++b) {
        for (index_t t = 0; t < c.length; ++t) {
          const oracle::NormGradient g = oracle::rms_norm_backward(
              row(b, t), real_values(dy.view().select(0, b).select(0, t)));
          all.dr.insert(all.dr.end(), g.dr.begin(), g.dr.end());
          all.dz.insert(all.dz.end(), g.dz.begin(), g.dz.end());
          for (std::size_t i = 0; i < g.dweight.size(); ++i) all.dweight[i] += g.dweight[i];
        }
      }
      if (c.later) {
        const auto more = real_values(later.view());
        for (std::size_t i = 0; i < more.size(); ++i) all.dr[i] += more[i];
      }
      return all;
    }
    // Norm-relative: the forward's error twice, once in n and once in the projection on it.
    static double sum_tolerance() { return 2 * accum_tolerance<T>(Op::rms_norm); }
    void expect(const oracle::NormGradient& wanted) const {
      const double rounded = sum_tolerance() + unit_roundoff<TGrad>();
      dx.expect("dx", wanted.dr, rounded);
      dresidual.expect("dresidual", wanted.dr, sum_tolerance());
      if (c.gate) dz.expect("dz", wanted.dz, rounded);
      dweight.expect("dweight", wanted.dweight, sum_tolerance());
      if (!c.in_place) return;
      EXPECT_TRUE(norm_relative_error(real_values(dy.view()), wanted.dr) <= rounded);
      EXPECT_TRUE(norm_relative_error(real_values(later.view()), wanted.dr) <= sum_tolerance());
    }

    NormGradCase c;
    Tensor<T, 3> x, z;
    Tensor<Accum, 3> residual, later;
    Tensor<T, 1> weight;
    Tensor<TGrad, 3> dy;
    GradientArray<TGrad, 3> dx, dz;
    GradientArray<Accum, 3> dresidual;
    GradientArray<Accum, 1> dweight;
  };

  static void check(const NormGradCase& c) {
    SCOPED_TRACE(testing::Message() << c);
    const Problem p(c);
    const oracle::NormGradient wanted = p.expected();
    const ssm::Status status = run<typename Types::Target>(p.args());
    ASSERT_TRUE(status.is_ok()) << status.message().text;
    p.expect(wanted);
  }
};

TYPED_TEST_SUITE_P(RmsNormBackwardSuite);

TYPED_TEST_P(RmsNormBackwardSuite, EveryCombinationOfOptions) {
  for (int bits = 0; bits < 64; ++bits) {
    NormGradCase c;
    c.residual = (bits & 1) != 0;
    c.weight = (bits & 2) != 0;
    c.gate = (bits & 4) != 0;
    c.norm_before_gate = (bits & 8) != 0;
    c.later = (bits & 16) != 0;
    c.in_place = c.later && (bits & 32) != 0;
    this->check(c);
  }
}

TYPED_TEST_P(RmsNormBackwardSuite, IgnoreOverwriteAccumulate) {
  for (const ssm::GradMode inputs : kGradModes) {
    for (const ssm::GradMode parameters : kGradModes) {
      NormGradCase c;
      c.inputs = inputs;
      c.parameters = parameters;
      this->check(c);
    }
  }
}

TYPED_TEST_P(RmsNormBackwardSuite, AnySizeScaleAndStrides) {
  for (const index_t features : {1, 2, 3, 7, 8, 15, 16, 17, 33, 64, 65, 257}) {
    NormGradCase c;
    c.features = features;
    // One feature alone has no gradient but eps's: nothing to be relative to.
    c.eps = features == 1 ? 0.5 : 1e-5;
    this->check(c);
  }
  for (const index_t rows : {0, 1, 33}) {
    NormGradCase c;
    c.length = rows;
    this->check(c);
  }
  for (const Layout layout : kAllLayouts) {
    NormGradCase c;
    c.layout = layout;
    c.features = 37;
    this->check(c);
    c.in_place = true;
    this->check(c);
  }
  for (const double scale : {1e-4, 1e-2, 1e2, 1e4}) {
    for (const double eps : {1e-6, 1e-1}) {
      NormGradCase c;
      c.scale = scale;
      c.eps = eps;
      this->check(c);
    }
  }
}

TYPED_TEST_P(RmsNormBackwardSuite, EveryGradientEqualsDifferences) {
  if (!std::is_same<typename TypeParam::T, double>::value) return;
  for (const bool before : {false, true}) {
    NormGradCase c;
    c.batch = c.length = 1;
    c.later = false;
    c.norm_before_gate = before;
    const typename TestFixture::Problem p(c);
    oracle::Norm o = p.row(0, 0);
    const auto dy = real_values(p.dy.view());
    ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
    const auto loss = [&] {
      const oracle::NormResult r = oracle::rms_norm(o);
      oracle::Real sum = 0;
      for (std::size_t i = 0; i < dy.size(); ++i) sum += dy[i] * r.y[i];
      return sum;
    };
    p.dx.expect("dx", oracle::gradient(o.x, loss), 1e-13L);
    p.dz.expect("dz", oracle::gradient(o.z, loss), 1e-13L);
    p.dweight.expect("dweight", oracle::gradient(o.weight, loss), 1e-13L);
  }
}

TYPED_TEST_P(RmsNormBackwardSuite, BadArgumentsAreNamedAndNothingIsWritten) {
  using Call = typename TypeParam::Args;
  using ssm::ErrorCode;
  const ErrorCode shape = ErrorCode::shape_mismatch;
  const ErrorCode invalid = ErrorCode::invalid_argument;
  const BadCall<Call> calls[] = {
      {"dy", invalid,
       [](Call& a) {
         a.dy = {nullptr, {2, 3, 12}};
       }},
      {"x", invalid, [](Call& a) { a.x = {}; }},
      {"x", shape, [](Call& a) { a.x = a.x.slice(1, 0, 2); }},
      {"weight", shape, [](Call& a) { a.weight = a.weight.slice(0, 0, 11); }},
      {"z", shape, [](Call& a) { a.z = a.z.slice(0, 0, 1); }},
      {"dr_later", shape, [](Call& a) { a.dr_later = a.dr_later.slice(0, 0, 1); }},
      {"dx", shape, [](Call& a) { a.dx = a.dx.slice(2, 0, 11); }},
      {"dresidual", shape, [](Call& a) { a.dresidual = a.dresidual.slice(2, 0, 11); }},
      {"dz", shape, [](Call& a) { a.dz = a.dz.slice(2, 0, 11); }},
      {"dweight", shape, [](Call& a) { a.dweight = a.dweight.slice(0, 0, 11); }},
      {"eps", invalid, [](Call& a) { a.eps = test_nan<ssm::accum_t<typename TypeParam::T>>(); }},
  };
  for (const BadCall<Call>& bad : calls) {
    SCOPED_TRACE(bad.argument);
    const typename TestFixture::Problem p(NormGradCase{});
    Call a = p.args();
    bad.spoil(a);
    expect_refused(run<typename TypeParam::Target>(a), "rms_norm_backward", bad.argument, bad.code);
    EXPECT_TRUE(p.dx.tensor.untouched());
    EXPECT_TRUE(p.dresidual.tensor.untouched());
    EXPECT_TRUE(p.dweight.tensor.untouched());
  }
  const typename TestFixture::Problem p(NormGradCase{});
  expect_counter_refused<typename TypeParam::Target>(
      "rms_norm_backward", p.args(), [](const auto& backend, const Call& a, ssm::Arena arena) {
        return rms_norm_backward(backend, a, arena);
      });
  EXPECT_TRUE(p.dx.tensor.untouched());
  EXPECT_TRUE(p.dweight.tensor.untouched());
}

REGISTER_TYPED_TEST_SUITE_P(RmsNormBackwardSuite, EveryCombinationOfOptions,
                            IgnoreOverwriteAccumulate, AnySizeScaleAndStrides,
                            EveryGradientEqualsDifferences,
                            BadArgumentsAreNamedAndNothingIsWritten);

}  // namespace ssm_test
