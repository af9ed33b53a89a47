#include <cmath>

#include "ops/linear_backward_suite.hpp"
#include "ops/linear_suite.hpp"
#include "ssm/cpu/linear.hpp"
#include "ssm/cpu/linear_backward.hpp"
#include "support/backwards.hpp"
#if SSM_TEST_CBLAS
#include "ssm/cpu/cblas.hpp"
#endif

// The linear layer by a BLAS: the suites of every backend by a plain one, which fails on what BLAS
// does not allow, and by the one that is installed.
namespace ssm_test {

template <class R>
void plain_gemm(bool a_transposed, bool b_transposed, int m, int n, int k, const R* a, int a_stride,
                const R* b, int b_stride, R beta, R* c, int c_stride) {
  EXPECT_TRUE(m > 0 && n > 0 && k > 0);
  EXPECT_GE(a_stride, a_transposed ? m : k);
  EXPECT_GE(b_stride, b_transposed ? k : n);
  EXPECT_GE(c_stride, n);
  for (int i = 0; i < m; ++i) {
    for (int j = 0; j < n; ++j) {
      R sum = 0;
      for (int p = 0; p < k; ++p) {
        sum += a[a_transposed ? p * a_stride + i : i * a_stride + p] *
               b[b_transposed ? j * b_stride + p : p * b_stride + j];
      }
      R& out = c[i * c_stride + j];
      out = beta == R(0) ? sum : sum + beta * out;
    }
  }
}

struct PlainBlas : HostTarget<ssm::Cpu> {
  ssm::Cpu backend() const { return {{}, {plain_gemm<float>, plain_gemm<double>}}; }
};

template <class Target>
using Linears =
    testing::Types<LinearTypes<Target, float>, LinearTypes<Target, double>,
                   LinearTypes<Target, ssm::bf16>, LinearTypes<Target, ssm::bf16, float>>;
template <class Target>
using Gradients =
    testing::Types<LinearGradTypes<Target, float>, LinearGradTypes<Target, double>,
                   LinearGradTypes<Target, ssm::bf16>, LinearGradTypes<Target, ssm::bf16, float>>;
INSTANTIATE_TYPED_TEST_SUITE_P(PlainBlas, LinearSuite, Linears<PlainBlas>, TypeNames);
INSTANTIATE_TYPED_TEST_SUITE_P(PlainBlas, LinearBackwardSuite, Gradients<PlainBlas>, TypeNames);

#if SSM_TEST_CBLAS
struct InstalledBlas : HostTarget<ssm::Cpu> {
  ssm::Cpu backend() const { return {{}, ssm::cblas()}; }
};
INSTANTIATE_TYPED_TEST_SUITE_P(InstalledBlas, LinearSuite, Linears<InstalledBlas>, TypeNames);
INSTANTIATE_TYPED_TEST_SUITE_P(InstalledBlas, LinearBackwardSuite, Gradients<InstalledBlas>,
                               TypeNames);
#endif

namespace {

int calls = 0;
void counting_gemm(bool a_transposed, bool b_transposed, int m, int n, int k, const float* a,
                   int a_stride, const float* b, int b_stride, float beta, float* c, int c_stride) {
  ++calls;
  plain_gemm(a_transposed, b_transposed, m, n, k, a, a_stride, b, b_stride, beta, c, c_stride);
}

// Which products are handed over.
TEST(Blas, TakesWhatItCan) {
  const ssm::Cpu cpu{{}, {counting_gemm, nullptr}};
  const auto calls_of = [&](const auto& args) {
    calls = 0;
    EXPECT_TRUE(linear(cpu, args));
    return calls;
  };
  LinearCase c;
  c.batch = 2;
  c.length = 8;
  const LinearProblem<float, float> p(c);
  EXPECT_EQ(calls_of(p.args()), 1);
  p.expect();
  auto few = p.args();
  few.x = few.x.slice(1, 0, 7);
  few.y = few.y.slice(1, 0, 7);
  EXPECT_EQ(calls_of(few), 0) << "fewer than 16 tokens";
  auto strided = p.args();
  strided.x = ssm::View<const float, 3>(p.x.view().data(), {2, 8, c.in}, {1, 2, 16});
  EXPECT_EQ(calls_of(strided), 0) << "features not contiguous";
  const LinearProblem<double, double> other(c);
  EXPECT_EQ(calls_of(other.args()), 0) << "no dgemm";

  for (const auto format : {ssm::WeightFormat::native, ssm::WeightFormat::int8}) {
    ssm::Arena counter;
    pack_linear(cpu, p.args().weight, format, counter);
    std::vector<unsigned char> memory(counter.bytes_needed());
    ssm::Arena arena(memory.data(), memory.size());
    auto packed = p.args();
    packed.packed = pack_linear(cpu, packed.weight, format, arena);
    EXPECT_EQ(calls_of(packed), format == ssm::WeightFormat::native ? 1 : 0);
    packed.weight = ssm::View<const float, 2>(nullptr, {c.out, c.in});
    EXPECT_EQ(calls_of(packed), 0) << "the weight was dropped";
  }
}

// Several tiles either way, from several threads.
TEST(Blas, TilesAreTasks) {
  LinearCase c;
  c.batch = 1;
  c.length = 300;
  c.in = 20;
  c.out = 520;
  const LinearProblem<float, float> p(c);
  Backwards executor{3};
  const ssm::Cpu cpu{executor.parallel(), PlainBlas().backend().blas};
  ASSERT_TRUE(linear(cpu, p.args()));
  p.expect();
}

// Sums of small integers are exact: the same bits with and without.
TEST(Blas, TilesOfGradients) {
  const ssm::Extents<3> in{1, 20, 300};
  const ssm::Extents<3> out{1, 20, 520};
  const Tensor<float, 3> x(in), dx(in), dy(out);
  const Tensor<float, 2> weight({520, 300}), dweight({520, 300});
  Random random(3);
  x.fill_integers(random, -2, 2);
  dy.fill_integers(random, -2, 2);
  weight.fill_integers(random, -2, 2);
  for (const auto mode : {ssm::GradMode::overwrite, ssm::GradMode::accumulate}) {
    const auto outcome = [&](const ssm::Cpu& cpu) {
      dx.fill(mode == ssm::GradMode::accumulate ? 3 : std::nan(""));
      dweight.fill(mode == ssm::GradMode::accumulate ? 5 : std::nan(""));
      ssm::LinearGradArgs<float> a;
      a.x = x.view();
      a.weight = weight.view();
      a.dy = dy.view();
      a.dx = dx.view();
      a.dweight = dweight.view();
      a.inputs = a.parameters = mode;
      EXPECT_TRUE(linear_backward(cpu, a, ssm::Arena()));
      return std::make_pair(dx.values(), dweight.values());
    };
    Backwards executor{3};
    EXPECT_EQ(outcome({executor.parallel(), PlainBlas().backend().blas}), outcome({}));
  }
}

}  // namespace
}  // namespace ssm_test
