#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <vector>

#include "ssm/cpu/adamw.hpp"
#include "ssm/cpu/causal_conv1d.hpp"
#include "ssm/cpu/causal_conv1d_backward.hpp"
#include "ssm/cpu/cross_entropy.hpp"
#include "ssm/cpu/embedding.hpp"
#include "ssm/cpu/embedding_backward.hpp"
#include "ssm/cpu/linear_backward.hpp"
#include "ssm/cpu/residual_add.hpp"
#include "ssm/cpu/rms_norm.hpp"
#include "ssm/cpu/rms_norm_backward.hpp"
#include "ssm/cpu/selective_scan.hpp"
#include "ssm/cpu/selective_scan_backward.hpp"
#include "ssm/cpu/sum_of_squares.hpp"
#include "support/allocations.hpp"
#include "support/backwards.hpp"
#include "support/random.hpp"

// How the operations run on the CPU, beside what they compute: nothing is allocated, the number of
// threads changes no bit, long sequences keep their accuracy.

namespace {

using ssm::index_t;
using ssm_test::Backwards;

template <class T>
struct Problem {
  using Accum = ssm::accum_t<T>;
  static constexpr index_t kWidth = 4;
  index_t batch, length, channels, d_state;
  std::vector<T> x, dt, z, B, C, y, weight, norm_weight;
  std::vector<Accum> A, D, bias, h, state, residual;
  std::vector<index_t> ids;

  Problem(index_t batch_, index_t length_, index_t channels_, index_t d_state_)
      : batch(batch_), length(length_), channels(channels_), d_state(d_state_) {
    ssm_test::Random random(1);
    const auto fill = [&random](auto& v, index_t count, double low, double high) {
      v.resize(static_cast<std::size_t>(count));
      for (auto& e : v) {
        e = std::decay_t<decltype(e)>(static_cast<Accum>(random.uniform(low, high)));
      }
    };
    const index_t activations = batch * length * channels;
    fill(x, activations, -1, 1);
    fill(dt, activations, -5, 1);
    fill(z, activations, -2, 2);
    fill(y, activations, 0, 1);
    fill(B, batch * length * d_state, -1, 1);
    fill(C, batch * length * d_state, -1, 1);
    fill(A, channels * d_state, -8, -0.01);
    fill(D, channels, -1, 1);
    fill(bias, channels, -1, 1);
    fill(h, batch * channels * d_state, -1, 1);
    fill(state, batch * (kWidth - 1) * channels, -1, 1);
    fill(residual, activations, -1, 1);
    fill(weight, channels * kWidth, -1, 1);
    fill(norm_weight, channels, 0, 2);
    ids.resize(static_cast<std::size_t>(batch * length));
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<index_t>(i) % length;
  }

  ssm::SelectiveScanArgs<T> scan() {
    ssm::SelectiveScanArgs<T> a;
    a.x = ssm::View<T, 3>(x.data(), {batch, length, channels});
    a.dt = ssm::View<T, 3>(dt.data(), {batch, length, channels});
    a.z = ssm::View<T, 3>(z.data(), {batch, length, channels});
    a.y = ssm::View<T, 3>(y.data(), {batch, length, channels});
    a.B = ssm::View<T, 4>(B.data(), {batch, length, 1, d_state});
    a.C = ssm::View<T, 4>(C.data(), {batch, length, 1, d_state});
    a.A = ssm::View<Accum, 2>(A.data(), {channels, d_state}, {1, channels});
    a.D = ssm::View<Accum, 1>(D.data(), {channels});
    a.dt_bias = ssm::View<Accum, 1>(bias.data(), {channels});
    a.h_last = ssm::View<Accum, 3>(h.data(), {batch, channels, d_state},
                                   {channels * d_state, 1, channels});
    a.h0 = a.h_last;
    return a;
  }
  ssm::CausalConv1dArgs<T> conv() {
    ssm::CausalConv1dArgs<T> a;
    a.x = ssm::View<T, 3>(x.data(), {batch, length, channels});
    a.y = ssm::View<T, 3>(y.data(), {batch, length, channels});
    a.weight = ssm::View<T, 2>(weight.data(), {channels, kWidth});
    a.bias = ssm::View<T, 1>(norm_weight.data(), {channels});
    a.state_last = ssm::View<Accum, 3>(state.data(), {batch, kWidth - 1, channels});
    a.state0 = a.state_last;
    return a;
  }
  ssm::RmsNormArgs<T> norm() {
    ssm::RmsNormArgs<T> a;
    a.x = ssm::View<T, 3>(x.data(), {batch, length, channels});
    a.y = ssm::View<T, 3>(y.data(), {batch, length, channels});
    a.residual = ssm::View<Accum, 3>(residual.data(), {batch, length, channels});
    a.weight = ssm::View<T, 1>(norm_weight.data(), {channels});
    return a;
  }
  ssm::EmbeddingArgs<T> embedding() {
    ssm::EmbeddingArgs<T> a;
    a.ids = ssm::View<index_t, 2>(ids.data(), {batch, length});
    a.weight = ssm::View<T, 2>(x.data(), {length, channels});
    a.y = ssm::View<Accum, 3>(residual.data(), {batch, length, channels});
    return a;
  }
};

template <class E>
std::vector<unsigned char> bytes_of(const std::vector<E>& v) {
  std::vector<unsigned char> bytes(v.size() * sizeof(E));
  if (!bytes.empty()) std::memcpy(bytes.data(), v.data(), bytes.size());
  return bytes;
}

// What all four operations leave behind, run one after another.
template <class T>
std::vector<std::vector<unsigned char>> outcome(Problem<T> p, const ssm::Parallel& parallel,
                                                ssm::BRule rule, ssm::ScanMode mode) {
  const ssm::Cpu cpu{parallel};
  std::vector<std::vector<unsigned char>> all;
  EXPECT_TRUE(ssm::causal_conv1d(cpu, p.conv()));
  all.push_back(bytes_of(p.y));
  all.push_back(bytes_of(p.state));
  auto scan = p.scan();
  scan.b_rule = rule;
  scan.mode = mode;
  EXPECT_TRUE(ssm::selective_scan(cpu, scan));
  all.push_back(bytes_of(p.y));
  all.push_back(bytes_of(p.h));
  EXPECT_TRUE(ssm::rms_norm(cpu, p.norm()));
  all.push_back(bytes_of(p.y));
  all.push_back(bytes_of(p.residual));
  EXPECT_TRUE(ssm::embedding(cpu, p.embedding()));
  all.push_back(bytes_of(p.residual));
  return all;
}

// The gradients of Problem's operations, and what a training step does beside them.
template <class T>
struct Gradients {
  using Accum = ssm::accum_t<T>;
  Problem<T> p;
  std::vector<T> dx, ddt, dz, w, parameter;
  std::vector<Accum> dB, dC, dh, dA, dD, dbias, dconv, dstate, dw, embedding, logits, master, m, v;
  std::vector<index_t> targets;
  Accum loss = 0;
  double squares = 0;
  ssm::AdamWStep step{0.01, 3};
  std::vector<unsigned char> memory;

  Gradients(index_t batch, index_t length, index_t channels, index_t d_state)
      : p(batch, length, channels, d_state) {
    const auto size = [](index_t n) { return static_cast<std::size_t>(n); };
    const index_t tokens = batch * length;
    for (auto* const tensor : {&dx, &ddt, &dz}) tensor->resize(size(tokens * channels));
    w = std::vector<T>(p.x.begin(), p.x.begin() + channels * d_state);
    for (auto* const sum : {&dB, &dC}) sum->resize(size(tokens * d_state));
    dh = p.h;
    dA.resize(size(channels * d_state));
    dw = dA;
    dD.resize(size(channels));
    dbias = dD;
    dconv.resize(size(channels * Problem<T>::kWidth));
    dstate = p.state;
    embedding.resize(size(length * channels));
    logits = p.residual;
    for (index_t i = 0; i < tokens; ++i) targets.push_back(i % 3 == 0 ? -100 : i % channels);
    parameter = p.x;
    master = p.residual;
    m.resize(master.size());
    v.resize(master.size());
  }

  template <class E, int Rank>
  static ssm::View<E, Rank> view(std::vector<E>& values, const ssm::Extents<Rank>& extents) {
    return ssm::View<E, Rank>(values.data(), extents);
  }
  ssm::Extents<3> tokens() const { return {p.batch, p.length, p.channels}; }

  ssm::SelectiveScanGradArgs<T> scan(ssm::BRule rule, ssm::ScanMode mode) {
    ssm::SelectiveScanGradArgs<T> a;
    a.forward = p.scan();
    a.forward.h_last = {};
    a.forward.b_rule = rule;
    a.forward.mode = mode;
    a.dy = view<T, 3>(p.x, tokens());
    a.dh_last = view<Accum, 3>(dh, {p.batch, p.channels, p.d_state});
    a.dh0 = view<Accum, 3>(dh, {p.batch, p.channels, p.d_state});
    a.dx = view<T, 3>(dx, tokens());
    a.ddt = view<T, 3>(ddt, tokens());
    a.dz = view<T, 3>(dz, tokens());
    a.dB = view<Accum, 4>(dB, {p.batch, p.length, 1, p.d_state});
    a.dC = view<Accum, 4>(dC, {p.batch, p.length, 1, p.d_state});
    a.dA = view<Accum, 2>(dA, {p.channels, p.d_state});
    a.dD = view<Accum, 1>(dD, {p.channels});
    a.ddt_bias = view<Accum, 1>(dbias, {p.channels});
    return a;
  }
  ssm::CausalConv1dGradArgs<T> conv() {
    ssm::CausalConv1dGradArgs<T> a;
    a.forward = p.conv();
    a.dy = view<T, 3>(p.z, tokens());
    a.dstate_last = view<Accum, 3>(dstate, {p.batch, p.kWidth - 1, p.channels});
    a.dstate0 = view<Accum, 3>(dstate, {p.batch, p.kWidth - 1, p.channels});
    a.dx = view<T, 3>(dx, tokens());
    a.dweight = view<Accum, 2>(dconv, {p.channels, p.kWidth});
    a.dbias = view<Accum, 1>(dbias, {p.channels});
    return a;
  }
  ssm::RmsNormGradArgs<T> norm() {
    ssm::RmsNormGradArgs<T> a;
    a.x = view<T, 3>(p.x, tokens());
    a.weight = view<T, 1>(p.norm_weight, {p.channels});
    a.dy = view<T, 3>(p.z, tokens());
    a.dx = view<T, 3>(dz, tokens());
    a.dweight = view<Accum, 1>(dD, {p.channels});
    return a;
  }
  // As if x were projected to d_state features.
  ssm::LinearGradArgs<T, Accum> linear() {
    ssm::LinearGradArgs<T, Accum> a;
    a.x = view<T, 3>(p.x, tokens());
    a.weight = view<T, 2>(w, {p.d_state, p.channels});
    a.dy = view<Accum, 3>(dB, {p.batch, p.length, p.d_state});
    a.dx = view<T, 3>(ddt, tokens());
    a.dweight = view<Accum, 2>(dw, {p.d_state, p.channels});
    return a;
  }
  ssm::EmbeddingGradArgs<T> embedded() {
    ssm::EmbeddingGradArgs<T> a;
    a.ids = view<index_t, 2>(p.ids, {p.batch, p.length});
    a.dy = view<Accum, 3>(p.residual, tokens());
    a.dweight = view<Accum, 2>(embedding, {p.length, p.channels});
    return a;
  }
  ssm::CrossEntropyArgs<Accum> entropy() {
    ssm::CrossEntropyArgs<Accum> a;
    a.logits = view<Accum, 3>(logits, tokens());
    a.dlogits = view<Accum, 3>(logits, tokens());
    a.targets = view<index_t, 2>(targets, {p.batch, p.length});
    a.loss = ssm::View<Accum, 1>(&loss, {1});
    return a;
  }
  ssm::SumOfSquaresArgs<Accum> norm_of_all() {
    ssm::SumOfSquaresArgs<Accum> a;
    a.x = view<Accum, 1>(p.residual, {static_cast<index_t>(p.residual.size())});
    a.sum = ssm::View<double, 1>(&squares, {1});
    return a;
  }
  ssm::AdamWArgs<T> update() {
    const ssm::Extents<1> all{static_cast<index_t>(master.size())};
    ssm::AdamWArgs<T> a;
    a.parameter = view<T, 1>(parameter, all);
    a.master = view<Accum, 1>(master, all);
    a.gradient = view<Accum, 1>(p.residual, all);
    a.m = view<Accum, 1>(m, all);
    a.v = view<Accum, 1>(v, all);
    a.step = ssm::View<ssm::AdamWStep, 1>(&step, {1});
    a.square_norm = ssm::View<double, 1>(&squares, {1});
    a.weight_decay = 0.1;
    return a;
  }
  ssm::ResidualAddArgs<T> residual() {
    const auto stream = view<Accum, 3>(p.residual, tokens());
    return {stream, view<T, 3>(p.x, tokens()), stream};
  }

  // Enough for any of them.
  void allocate(ssm::Cpu cpu, ssm::BRule rule, ssm::ScanMode mode) {
    memory.resize(std::max({scratch_bytes(cpu, scan(rule, mode)), scratch_bytes(cpu, conv()),
                            scratch_bytes(cpu, norm()), scratch_bytes(cpu, linear()),
                            scratch_bytes(cpu, embedded()), scratch_bytes(cpu, entropy()),
                            scratch_bytes(cpu, norm_of_all())}));
  }
  bool run(ssm::Cpu cpu, ssm::BRule rule, ssm::ScanMode mode) {
    const ssm::Arena arena(memory.data(), memory.size());
    return selective_scan_backward(cpu, scan(rule, mode), arena).is_ok() &&
           linear_backward(cpu, linear(), arena).is_ok() &&
           causal_conv1d_backward(cpu, conv(), arena).is_ok() &&
           rms_norm_backward(cpu, norm(), arena).is_ok() &&
           embedding_backward(cpu, embedded(), arena).is_ok() &&
           cross_entropy(cpu, entropy(), arena).is_ok() &&
           sum_of_squares(cpu, norm_of_all(), arena).is_ok() && adamw(cpu, update()).is_ok() &&
           residual_add(cpu, residual()).is_ok();
  }
};

// Everything that the gradients leave behind.
template <class T>
std::vector<std::vector<unsigned char>> outcome(Gradients<T> g, const ssm::Parallel& parallel,
                                                ssm::BRule rule, ssm::ScanMode mode) {
  const ssm::Cpu cpu{parallel};
  g.allocate(cpu, rule, mode);
  double squares = 0;
  for (const auto value : g.p.residual) squares += static_cast<double>(value) * value;
  EXPECT_TRUE(g.run(cpu, rule, mode));
  EXPECT_TRUE(std::abs(g.squares - squares) <= 1e-12 * squares) << g.squares << " " << squares;
  return {bytes_of(g.dx),
          bytes_of(g.ddt),
          bytes_of(g.dz),
          bytes_of(g.dB),
          bytes_of(g.dC),
          bytes_of(g.dh),
          bytes_of(g.dA),
          bytes_of(g.dD),
          bytes_of(g.dbias),
          bytes_of(g.dconv),
          bytes_of(g.dstate),
          bytes_of(g.dw),
          bytes_of(g.logits),
          bytes_of(g.master),
          bytes_of(g.embedding),
          bytes_of(g.parameter),
          bytes_of(g.m),
          bytes_of(g.v),
          bytes_of(g.p.residual),
          bytes_of(std::vector<double>{g.squares, static_cast<double>(g.loss)})};
}

template <class T>
void threads_change_no_bit() {
  for (const index_t channels : {5, 200}) {
    const Problem<T> p(2, 1100, channels, 16);
    for (const auto mode : {ssm::ScanMode::sequential, ssm::ScanMode::accurate}) {
      for (const auto rule : {ssm::BRule::euler, ssm::BRule::zero_order_hold}) {
        const auto serial = outcome(p, ssm::Parallel{}, rule, mode);
        for (const int threads : {2, 3}) {
          Backwards executor{threads};
          EXPECT_EQ(outcome(p, executor.parallel(), rule, mode), serial)
              << threads << " threads, " << channels << " channels";
        }
      }
    }
  }
}

TEST(Execution, ThreadsChangeNoBit) {
  threads_change_no_bit<float>();
  threads_change_no_bit<ssm::bf16>();
}

template <class T>
void threads_change_no_bit_of_gradients() {
  for (const index_t channels : {5, 200}) {
    const Gradients<T> g(2, 300, channels, 16);
    for (const auto mode : {ssm::ScanMode::sequential, ssm::ScanMode::accurate}) {
      for (const auto rule : {ssm::BRule::euler, ssm::BRule::zero_order_hold}) {
        const auto serial = outcome(g, ssm::Parallel{}, rule, mode);
        for (const int threads : {2, 3}) {
          Backwards executor{threads};
          EXPECT_EQ(outcome(g, executor.parallel(), rule, mode), serial)
              << threads << " threads, " << channels << " channels";
        }
      }
    }
  }
}

TEST(Execution, ThreadsChangeNoBitOfGradients) {
  threads_change_no_bit_of_gradients<float>();
  threads_change_no_bit_of_gradients<ssm::bf16>();
}

TEST(Execution, NothingIsAllocated) {
  for (const index_t length : {1, 100}) {
    Problem<float> p(1, length, 70, 16);
    auto hold = p.scan();
    hold.b_rule = ssm::BRule::zero_order_hold;
    hold.mode = ssm::ScanMode::accurate;
    ssm_test::AllocationCounter allocations;
    const bool ok = ssm::causal_conv1d(ssm::Cpu{}, p.conv()).is_ok() &&
                    ssm::selective_scan(ssm::Cpu{}, p.scan()).is_ok() &&
                    ssm::selective_scan(ssm::Cpu{}, hold).is_ok() &&
                    ssm::rms_norm(ssm::Cpu{}, p.norm()).is_ok() &&
                    ssm::embedding(ssm::Cpu{}, p.embedding()).is_ok();
    const int count = allocations.count();
    EXPECT_TRUE(ok);
    EXPECT_EQ(count, 0);
  }
  for (const auto mode : {ssm::ScanMode::sequential, ssm::ScanMode::accurate}) {
    Gradients<float> g(2, 100, 70, 16);
    g.allocate(ssm::Cpu{}, ssm::BRule::zero_order_hold, mode);
    ssm_test::AllocationCounter allocations;
    const bool ok = g.run(ssm::Cpu{}, ssm::BRule::zero_order_hold, mode);
    const int count = allocations.count();
    EXPECT_TRUE(ok);
    EXPECT_EQ(count, 0);
  }
  ssm_test::AllocationCounter allocations;
  std::vector<int> allocated(1);
  EXPECT_EQ(allocations.count(), 1) << "the hook sees no allocation of " << allocated.data();
}

static_assert(noexcept(ssm::selective_scan(ssm::Cpu{},
                                           std::declval<ssm::SelectiveScanArgs<float>&>())),
              "the hot path does not throw");

// Values of A that outrun exp2_bounded, and all lengths around a chunk, leave every lane with the
// bits it has when computed alone.
TEST(Execution, ALaneDependsOnNoNeighbour) {
  constexpr index_t kChannels = 37;
  for (const index_t length : {1, 63, 64, 65, 200}) {
    Problem<float> p(1, length, kChannels, 5);
    for (index_t n = 0; n < 5; ++n) p.A[static_cast<std::size_t>(n * kChannels + 3)] = -5000.0f;
    Problem<float> alone = p;
    ASSERT_TRUE(ssm::selective_scan(ssm::Cpu{}, p.scan()));
    for (index_t d = 0; d < kChannels; ++d) {
      auto a = alone.scan();
      a.x = a.x.slice(2, d, 1);
      a.dt = a.dt.slice(2, d, 1);
      a.z = a.z.slice(2, d, 1);
      a.y = a.y.slice(2, d, 1);
      a.A = a.A.slice(0, d, 1);
      a.D = a.D.slice(0, d, 1);
      a.dt_bias = a.dt_bias.slice(0, d, 1);
      a.h0 = a.h0.slice(1, d, 1);
      a.h_last = a.h_last.slice(1, d, 1);
      ASSERT_TRUE(ssm::selective_scan(ssm::Cpu{}, a));
    }
    EXPECT_EQ(bytes_of(p.y), bytes_of(alone.y)) << "length " << length;
    EXPECT_EQ(bytes_of(p.h), bytes_of(alone.h)) << "length " << length;
  }
}

// y of float inputs against the same scan in double, in the norm of all outputs.
double error_against_double(index_t length, float slowest, float fastest) {
  constexpr index_t kChannels = 16;
  constexpr index_t kState = 16;
  Problem<float> p(1, length, kChannels, kState);
  for (std::size_t i = 0; i < p.A.size(); ++i) {
    const float u = static_cast<float>(i) / static_cast<float>(p.A.size() - 1);
    p.A[i] = -slowest * std::pow(fastest / slowest, u);
  }
  Problem<double> q(1, length, kChannels, kState);
  const auto widen = [](const auto& from, auto& to) { to.assign(from.begin(), from.end()); };
  widen(p.x, q.x);
  widen(p.dt, q.dt);
  widen(p.z, q.z);
  widen(p.B, q.B);
  widen(p.C, q.C);
  widen(p.A, q.A);
  widen(p.D, q.D);
  widen(p.bias, q.bias);
  widen(p.h, q.h);
  EXPECT_TRUE(ssm::selective_scan(ssm::Cpu{}, p.scan()));
  EXPECT_TRUE(ssm::selective_scan(ssm::Cpu{}, q.scan()));
  double error = 0;
  double norm = 0;
  for (std::size_t i = 0; i < p.y.size(); ++i) {
    const double difference = static_cast<double>(p.y[i]) - q.y[i];
    error += difference * difference;
    norm += q.y[i] * q.y[i];
  }
  return std::sqrt(error / norm);
}

// The decays of Mamba's initialisation, A = -1 … -16, at every length.
TEST(Execution, FloatStaysWithin1e6OfDouble) {
  for (const index_t length : {1, 512, 8192, 131072, 1 << 20}) {
    const double error = error_against_double(length, 1.0f, 16.0f);
    std::printf("  length %lld: %.3g\n", static_cast<long long>(length), error);
    EXPECT_TRUE(error <= 1e-6) << length << ": " << error;
  }
}

}  // namespace
