#include <benchmark/benchmark.h>

#include "ssm/cpu/causal_conv1d.hpp"
#include "ssm/cpu/causal_conv1d_backward.hpp"
#include "ssm/cpu/linear.hpp"
#include "ssm/cpu/linear_backward.hpp"
#include "ssm/cpu/selective_scan.hpp"
#include "ssm/cpu/selective_scan_backward.hpp"
#include "ssm/cpu/thread_pool.hpp"
#include "ssm/reference/causal_conv1d_backward.hpp"
#include "ssm/reference/linear_backward.hpp"
#include "ssm/reference/selective_scan_backward.hpp"
#include "support/random.hpp"

// The gradients of a Mamba block's operations as its training calls them, every one of them wanted,
// each beside its forward operation. Args are batch, length, channels; d_state 16, width 4. Time is
// per (channel, token); flop/s for the linear layer.
namespace {

using ssm::Arena;
using ssm::Extents;
using ssm::index_t;
using ssm::View;

constexpr index_t kState = 16;
constexpr index_t kWidth = 4;

struct Arrays {
  index_t batch, length, channels;
  std::vector<float> x, dt, z, y, dy, dx, ddt, dz;  // (batch, length, channels)
  std::vector<float> B, C, dB, dC;                  // (batch, length, d_state)
  std::vector<float> A, dA, D, dD, bias, dbias, weight, dweight;
  std::vector<unsigned char> memory;

  explicit Arrays(const benchmark::State& state)
      : batch(state.range(0)), length(state.range(1)), channels(state.range(2)) {
    using ssm_bench::uniform;
    const index_t tokens = batch * length;
    std::uint64_t seed = 1;
    for (auto* const v : {&x, &z, &y, &dy, &dx, &ddt, &dz}) {
      *v = uniform<float>(tokens * channels, -1, 1, seed++);
    }
    dt = uniform<float>(tokens * channels, -4, 0, seed++);
    for (auto* const v : {&B, &C, &dB, &dC}) *v = uniform<float>(tokens * kState, -1, 1, seed++);
    A = uniform<float>(channels * kState, -16, -1, seed++);
    dA = A;
    for (auto* const v : {&D, &dD, &bias, &dbias}) *v = uniform<float>(channels, -1, 1, seed++);
    weight = uniform<float>(channels * kWidth, -1, 1, seed++);
    dweight = weight;
  }

  View<float, 3> tokens(std::vector<float>& v) { return {v.data(), {batch, length, channels}}; }
  View<float, 4> coefficients(std::vector<float>& v) {
    return {v.data(), {batch, length, 1, kState}};
  }
  View<float, 1> channel(std::vector<float>& v) { return {v.data(), {channels}}; }

  ssm::SelectiveScanGradArgs<float> scan() {
    ssm::SelectiveScanGradArgs<float> a;
    a.forward.x = tokens(x);
    a.forward.dt = tokens(dt);
    a.forward.z = tokens(z);
    a.forward.y = tokens(y);
    a.forward.B = coefficients(B);
    a.forward.C = coefficients(C);
    a.forward.A = View<float, 2>(A.data(), {channels, kState});
    a.forward.D = channel(D);
    a.forward.dt_bias = channel(bias);
    a.dy = tokens(dy);
    a.dx = tokens(dx);
    a.ddt = tokens(ddt);
    a.dz = tokens(dz);
    a.dB = coefficients(dB);
    a.dC = coefficients(dC);
    a.dA_log = View<float, 2>(dA.data(), {channels, kState});
    a.dD = channel(dD);
    a.ddt_bias = channel(dbias);
    return a;
  }
  ssm::CausalConv1dGradArgs<float> conv() {
    ssm::CausalConv1dGradArgs<float> a;
    a.forward.x = tokens(x);
    a.forward.weight = View<float, 2>(weight.data(), {channels, kWidth});
    a.forward.bias = channel(bias);
    a.forward.y = tokens(y);
    a.dy = tokens(dy);
    a.dx = tokens(dx);
    a.dweight = View<float, 2>(dweight.data(), {channels, kWidth});
    a.dbias = channel(dbias);
    return a;
  }
  template <class Backend, class Args>
  Arena workspace(const Backend& backend, const Args& args) {
    memory.resize(scratch_bytes(backend, args));
    return Arena(memory.data(), memory.size());
  }
  double elements() const { return static_cast<double>(batch * length * channels); }
};

template <class F>
void time_per_element(benchmark::State& state, double elements, F f) {
  for (auto _ : state) {
    if (!f()) state.SkipWithError("refused");
    benchmark::ClobberMemory();
  }
  state.counters["per element"] =
      benchmark::Counter(elements * static_cast<double>(state.iterations()),
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void scan_forward(benchmark::State& state) {
  Arrays p(state);
  const auto args = p.scan();
  time_per_element(state, p.elements(),
                   [&] { return selective_scan(ssm::Cpu{}, args.forward).is_ok(); });
}
template <class Backend>
void scan_backward(benchmark::State& state, const Backend& backend) {
  Arrays p(state);
  const auto args = p.scan();
  const Arena workspace = p.workspace(backend, args);
  time_per_element(state, p.elements(),
                   [&] { return selective_scan_backward(backend, args, workspace).is_ok(); });
  state.counters["workspace"] = static_cast<double>(p.memory.size());
}
void conv_forward(benchmark::State& state) {
  Arrays p(state);
  const auto args = p.conv();
  time_per_element(state, p.elements(),
                   [&] { return causal_conv1d(ssm::Cpu{}, args.forward).is_ok(); });
}
template <class Backend>
void conv_backward(benchmark::State& state, const Backend& backend) {
  Arrays p(state);
  const auto args = p.conv();
  const Arena workspace = p.workspace(backend, args);
  time_per_element(state, p.elements(),
                   [&] { return causal_conv1d_backward(backend, args, workspace).is_ok(); });
}

// Args are rows, inputs, outputs.
struct Product {
  std::vector<float> x, w, y, dx, dw;
  ssm::LinearGradArgs<float> grad;
  ssm::LinearArgs<float> forward;
  double flop;

  explicit Product(const benchmark::State& state) {
    const index_t rows = state.range(0);
    const index_t in = state.range(1);
    const index_t out = state.range(2);
    x = dx = ssm_bench::uniform<float>(rows * in, -1, 1, 1);
    w = dw = ssm_bench::uniform<float>(in * out, -1, 1, 2);
    y = ssm_bench::uniform<float>(rows * out, -1, 1, 3);
    forward.x = grad.x = View<float, 3>(x.data(), {1, rows, in});
    forward.weight = grad.weight = View<float, 2>(w.data(), {out, in});
    forward.y = View<float, 3>(y.data(), {1, rows, out});
    grad.dy = forward.y;
    grad.dx = View<float, 3>(dx.data(), {1, rows, in});
    grad.dweight = View<float, 2>(dw.data(), {out, in});
    flop = 2 * static_cast<double>(rows * in * out);
  }
};
template <class F>
void flops(benchmark::State& state, double flop, F f) {
  for (auto _ : state) {
    if (!f()) state.SkipWithError("refused");
    benchmark::ClobberMemory();
  }
  state.counters["flop/s"] = benchmark::Counter(flop * static_cast<double>(state.iterations()),
                                                benchmark::Counter::kIsRate);
}
void linear_forward(benchmark::State& state) {
  const Product p(state);
  flops(state, p.flop, [&] { return linear(ssm::Cpu{}, p.forward).is_ok(); });
}
template <class Backend>
void linear_backward(benchmark::State& state, const Backend& backend) {
  const Product p(state);
  flops(state, 2 * p.flop, [&] { return linear_backward(backend, p.grad, Arena()).is_ok(); });
}

void scan_backward_cpu(benchmark::State& state) { scan_backward(state, ssm::Cpu{}); }
void scan_backward_two_threads(benchmark::State& state) {
  ssm::ThreadPool pool(2);
  scan_backward(state, ssm::Cpu{pool.parallel()});
}
void scan_backward_reference(benchmark::State& state) { scan_backward(state, ssm::Reference{}); }
void conv_backward_cpu(benchmark::State& state) { conv_backward(state, ssm::Cpu{}); }
void conv_backward_reference(benchmark::State& state) { conv_backward(state, ssm::Reference{}); }
void linear_backward_cpu(benchmark::State& state) { linear_backward(state, ssm::Cpu{}); }
void linear_backward_two_threads(benchmark::State& state) {
  ssm::ThreadPool pool(2);
  linear_backward(state, ssm::Cpu{pool.parallel()});
}
void linear_backward_reference(benchmark::State& state) {
  linear_backward(state, ssm::Reference{});
}

// A small training, and the 130m shape.
void blocks(benchmark::internal::Benchmark* b) { b->Args({8, 256, 128})->Args({1, 2048, 1536}); }
void products(benchmark::internal::Benchmark* b) {
  b->Args({2048, 64, 256})->Args({2048, 768, 3072})->Args({2048, 1536, 80});
}
BENCHMARK(scan_forward)->Apply(blocks);
BENCHMARK(scan_backward_cpu)->Apply(blocks);
BENCHMARK(scan_backward_two_threads)->Apply(blocks)->UseRealTime();
BENCHMARK(scan_backward_reference)->Args({1, 256, 128});
BENCHMARK(conv_forward)->Apply(blocks);
BENCHMARK(conv_backward_cpu)->Apply(blocks);
BENCHMARK(conv_backward_reference)->Args({1, 256, 128});
BENCHMARK(linear_forward)->Apply(products);
BENCHMARK(linear_backward_cpu)->Apply(products);
BENCHMARK(linear_backward_two_threads)->Apply(products)->UseRealTime();
BENCHMARK(linear_backward_reference)->Args({256, 64, 256});

}  // namespace
