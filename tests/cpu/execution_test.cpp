#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include "ssm/cpu/causal_conv1d.hpp"
#include "ssm/cpu/embedding.hpp"
#include "ssm/cpu/rms_norm.hpp"
#include "ssm/cpu/selective_scan.hpp"
#include "support/allocations.hpp"
#include "support/random.hpp"

// How the operations run on the CPU, beside what they compute: nothing is allocated, the number of
// threads changes no bit, long sequences keep their accuracy.

namespace {

using ssm::index_t;

// Runs tasks backwards, from several threads, to be as unlike the serial order as can be.
struct Backwards {
  int threads;
  ssm::Parallel parallel() {
    ssm::Parallel p;
    p.context = this;
    p.threads = threads;
    p.run = [](void* context, index_t tasks, ssm::Parallel::Task task, void* argument) {
      const int count = static_cast<Backwards*>(context)->threads;
      std::vector<std::thread> workers;
      for (int k = 0; k < count; ++k) {
        workers.emplace_back([=] {
          for (index_t i = tasks - 1 - k; i >= 0; i -= count) task(argument, i);
        });
      }
      for (std::thread& worker : workers) worker.join();
    };
    return p;
  }
};

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
