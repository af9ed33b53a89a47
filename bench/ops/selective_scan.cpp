#include "ssm/cpu/selective_scan.hpp"

#include <benchmark/benchmark.h>

#include "ssm/cpu/selective_scan_pieces.hpp"
#include "ssm/cpu/thread_pool.hpp"
#include "ssm/reference/selective_scan.hpp"
#include "support/random.hpp"

// The selective scan as a Mamba block calls it: softplus, dt bias, D and gate, one batch row, B and
// C shared by all channels. Time is per (channel, token).
namespace {

using ssm::index_t;

template <class T>
struct Problem {
  using Accum = ssm::accum_t<T>;
  index_t length, channels, d_state;
  std::vector<T> x, dt, z, B, C, y;
  std::vector<Accum> A, D, bias, h;

  Problem(index_t length_, index_t channels_, index_t d_state_)
      : length(length_), channels(channels_), d_state(d_state_) {
    using ssm_bench::uniform;
    x = uniform<T>(length * channels, -1, 1, 1);
    dt = uniform<T>(length * channels, -4, 0, 2);
    z = uniform<T>(length * channels, -2, 2, 3);
    B = uniform<T>(length * d_state, -1, 1, 4);
    C = uniform<T>(length * d_state, -1, 1, 5);
    y = uniform<T>(length * channels, 0, 1, 6);
    A.resize(static_cast<std::size_t>(channels * d_state));
    for (index_t n = 0; n < d_state; ++n) {
      for (index_t d = 0; d < channels; ++d) {
        A[static_cast<std::size_t>(n * channels + d)] = -static_cast<Accum>(n + 1);
      }
    }
    D = uniform<Accum>(channels, -1, 1, 7);
    bias = uniform<Accum>(channels, -1, 1, 8);
    h = uniform<Accum>(channels * d_state, -1, 1, 9);
  }

  ssm::SelectiveScanArgs<T> args() {
    ssm::SelectiveScanArgs<T> a;
    a.x = {x.data(), {1, length, channels}};
    a.dt = {dt.data(), {1, length, channels}};
    a.z = {z.data(), {1, length, channels}};
    a.y = {y.data(), {1, length, channels}};
    a.B = {B.data(), {1, length, 1, d_state}};
    a.C = {C.data(), {1, length, 1, d_state}};
    a.A = {A.data(), {channels, d_state}, {1, channels}};
    a.D = {D.data(), {channels}};
    a.dt_bias = {bias.data(), {channels}};
    a.h_last = {h.data(), {1, channels, d_state}, {channels * d_state, 1, channels}};
    a.h0 = a.h_last;
    return a;
  }
};

// The time of call(args) on the problem that `state` names.
template <class T, class Call>
void measure(benchmark::State& state, Problem<T>& p, Call call) {
  const ssm::SelectiveScanArgs<T> args = p.args();
  for (auto _ : state) {
    if (!call(args)) state.SkipWithError("refused");
    benchmark::ClobberMemory();
  }
  state.counters["per element"] = benchmark::Counter(
      static_cast<double>(p.length * p.channels) * static_cast<double>(state.iterations()),
      benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

template <class T, class Backend>
void scan(benchmark::State& state, const Backend& backend) {
  Problem<T> p(state.range(0), state.range(1), state.range(2));
  measure(state, p, [&](const auto& args) { return ssm::selective_scan(backend, args); });
}

template <class T>
void scan_cpu(benchmark::State& state) {
  scan<T>(state, ssm::Cpu{});
}
template <class T>
void scan_cpu_two_threads(benchmark::State& state) {
  ssm::ThreadPool pool(2);
  scan<T>(state, ssm::Cpu{pool.parallel()});
}

// Few channels: arguments are length, channels, threads and pieces of time; 1 piece is the scan
// that does not cut. dt ~ U(-4, 0) + U(-1, 1) and A = -1 … -16 forget within some 300 tokens; with
// A = -1/1000 … -16/1000 nothing is forgotten within a piece.
template <bool kForgets>
void scan_few_channels(benchmark::State& state) {
  ssm::ThreadPool pool(static_cast<int>(state.range(2)));
  const ssm::Cpu cpu{pool.parallel()};
  const index_t pieces = state.range(3);
  Problem<float> p(state.range(0), state.range(1), 16);
  for (float& a : p.A) a *= kForgets ? 1.0f : 1e-3f;
  std::vector<unsigned char> memory(ssm::scratch_bytes(cpu, p.args(), pieces));
  const ssm::Arena scratch(memory.data(), memory.size());
  measure(state, p, [&](const auto& args) { return selective_scan(cpu, args, pieces, scratch); });
}
void scan_forgets(benchmark::State& state) { scan_few_channels<true>(state); }
void scan_remembers(benchmark::State& state) { scan_few_channels<false>(state); }
void few_channels(benchmark::internal::Benchmark* b) {
  for (const index_t channels : {16, 32, 64}) {
    for (const index_t threads : {1, 2}) {
      for (const index_t pieces : {1, 2, 8}) b->Args({65536, channels, threads, pieces});
    }
  }
  b->UseRealTime();
}

void scan_reference(benchmark::State& state) { scan<float>(state, ssm::Reference{}); }

void lengths(benchmark::internal::Benchmark* b) {
  for (const index_t length : {1, 128, 512, 2048, 8192}) b->Args({length, 1536, 16});
}
BENCHMARK(scan_cpu<float>)->Apply(lengths)->Args({2048, 1536, 64})->Args({2048, 64, 16});
BENCHMARK(scan_cpu<ssm::bf16>)->Apply(lengths);
BENCHMARK(scan_cpu<double>)->Args({512, 1536, 16});
BENCHMARK(scan_cpu_two_threads<float>)->Apply(lengths)->UseRealTime();
BENCHMARK(scan_forgets)->Apply(few_channels);
BENCHMARK(scan_remembers)->Apply(few_channels);
BENCHMARK(scan_reference)->Args({128, 1536, 16});

}  // namespace
