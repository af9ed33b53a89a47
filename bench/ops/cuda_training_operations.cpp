#include <cublasLt.h>

#include "ssm/cuda/adamw.hpp"
#include "ssm/cuda/causal_conv1d_backward.hpp"
#include "ssm/cuda/cross_entropy.hpp"
#include "ssm/cuda/embedding_backward.hpp"
#include "ssm/cuda/linear_backward.hpp"
#include "ssm/cuda/rms_norm_backward.hpp"
#include "ssm/cuda/sum_of_squares.hpp"
#include "support/cuda.hpp"

// What training a language model runs on a GPU besides the scan, as the model calls it: 8 sequences
// of 2048 tokens through the shape of mamba-130m (d_model 768, d_inner 1536, 50,280 ids), every
// gradient wanted (support/cuda.hpp: how calls are timed).
//
//   bytes/s      every argument once, over the time
//   %memory      those bytes at the device's peak bandwidth, over the time
//   flop/s       of the matrix products
//   scratch_MiB  device memory that the call needs besides its arrays
namespace {

using namespace ssm_bench;
using ssm::View;

constexpr index_t kBatch = 8;
constexpr index_t kLength = 2048;
constexpr index_t kTokens = kBatch * kLength;
constexpr index_t kModel = 768;
constexpr index_t kInner = 1536;
constexpr index_t kWidth = 4;
constexpr index_t kVocabulary = 50280;

template <class T>
std::vector<T> values(std::uint64_t seed) {
  return uniform<T>(index_t{1} << 22, -1, 1, seed);
}

// A device array of random values with its view.
template <class T, int Rank>
class Array {
 public:
  Array(const ssm::Extents<Rank>& extents, std::uint64_t seed)
      : memory_(View<T, Rank>(nullptr, extents).size(), values<T>(seed)),
        view(memory_.data(), extents) {}
  double bytes() const { return static_cast<double>(view.size()) * sizeof(T); }

 private:
  Device<T> memory_;

 public:
  const View<T, Rank> view;
};
template <class T>
using Tokens = Array<T, 3>;

// Times `call` on `a` with the scratch that it asks for; `bytes` is what it must read and write.
template <class Args, class Call>
void measure(benchmark::State& state, const Args& a, double bytes, double flops, Call call) {
  static cublasLtHandle_t blas = [] {
    cublasLtHandle_t made = nullptr;
    if (cublasLtCreate(&made) != CUBLAS_STATUS_SUCCESS) std::exit(1);
    return made;
  }();
  constexpr index_t kWorkspace = index_t{32} << 20;
  const Device<unsigned char> workspace(kWorkspace);
  Stream stream;
  ssm::Cuda cuda;
  cuda.stream = stream.get();
  cuda.blas = blas;
  cuda.workspace = ssm::Arena(workspace.data(), static_cast<std::size_t>(kWorkspace));
  const std::size_t scratch_bytes = ssm::scratch_bytes(cuda, a);
  const Device<unsigned char> scratch(static_cast<index_t>(scratch_bytes) + 1);
  const auto run = [&] { return call(cuda, a, ssm::Arena(scratch.data(), scratch_bytes)); };
  if (!run()) state.SkipWithError("the call was refused");  // loads code
  const double mean = stream.time(state, run);
  state.counters["bytes/s"] = bytes / mean;
  state.counters["%memory"] = 100 * bytes / peak_bandwidth() / mean;
  if (flops > 0) state.counters["flop/s"] = flops / mean;
  state.counters["scratch_MiB"] = static_cast<double>(scratch_bytes) / (1 << 20);
}

template <class T>
void conv_backward(benchmark::State& state) {
  const Tokens<T> xz({kBatch, kLength, 2 * kInner}, 1), dxz({kBatch, kLength, 2 * kInner}, 2),
      dy({kBatch, kLength, kInner}, 3);
  const Array<T, 2> weight({kInner, kWidth}, 4);
  const Array<T, 1> bias({kInner}, 5);
  const Array<float, 2> dweight({kInner, kWidth}, 6);
  const Array<float, 1> dbias({kInner}, 7);
  ssm::CausalConv1dGradArgs<T> a;
  a.forward.x = xz.view.slice(2, 0, kInner);
  a.forward.weight = weight.view;
  a.forward.bias = bias.view;
  a.dy = dy.view;
  a.dx = dxz.view.slice(2, 0, kInner);
  a.dweight = dweight.view;
  a.dbias = dbias.view;
  measure(state, a, 3 * dy.bytes(), 0,
          [](const auto&... args) { return ssm::causal_conv1d_backward(args...); });
}

// Between two layers: the stream's gradient passes through.
template <class T>
void norm_backward(benchmark::State& state) {
  const ssm::Extents<3> shape{kBatch, kLength, kModel};
  const Tokens<float> residual(shape, 1), stream(shape, 2);
  const Tokens<T> dy(shape, 3), dx(shape, 4);
  const Array<T, 1> weight({kModel}, 5);
  const Array<float, 1> dweight({kModel}, 6);
  ssm::RmsNormGradArgs<T> a;
  a.residual = residual.view;
  a.weight = weight.view;
  a.dy = dy.view;
  a.dr_later = stream.view;
  a.dx = dx.view;
  a.dresidual = stream.view;
  a.dweight = dweight.view;
  measure(state, a, residual.bytes() + 2 * stream.bytes() + dy.bytes() + dx.bytes(), 0,
          [](const auto&... args) { return ssm::rms_norm_backward(args...); });
}

// Args are the features in and out.
template <class T, class TOut, class TIn>
void linear_backward(benchmark::State& state) {
  const index_t in = state.range(0);
  const index_t out = state.range(1);
  const Tokens<T> x({kBatch, kLength, in}, 1);
  const Tokens<TOut> dy({kBatch, kLength, out}, 2);
  const Tokens<TIn> dx({kBatch, kLength, in}, 3);
  const Array<T, 2> weight({out, in}, 4);
  const Array<float, 2> dweight({out, in}, 5);
  ssm::LinearGradArgs<T, TOut, TIn> a;
  a.x = x.view;
  a.weight = weight.view;
  a.dy = dy.view;
  a.dx = dx.view;
  a.dweight = dweight.view;
  const double bytes = x.bytes() + dy.bytes() + dx.bytes() + weight.bytes() + dweight.bytes();
  const double flops = 4.0 * kTokens * static_cast<double>(in * out);
  measure(state, a, bytes, flops,
          [](const auto&... args) { return ssm::linear_backward(args...); });
}

// Arg: how many different ids there are, all equally frequent.
template <class T>
void embedding_backward(benchmark::State& state) {
  std::vector<index_t> tokens = uniform<index_t>(kTokens, 0, static_cast<float>(state.range(0)), 1);
  const Device<index_t> ids(kTokens, tokens);
  const Tokens<float> dy({kBatch, kLength, kModel}, 2);
  const Array<float, 2> dweight({kVocabulary, kModel}, 3);
  const ssm::EmbeddingGradArgs<T> a{View<const index_t, 2>(ids.data(), {kBatch, kLength}), dy.view,
                                    dweight.view};
  measure(state, a, dy.bytes() + dweight.bytes(), 0,
          [](const auto&... args) { return ssm::embedding_backward(args...); });
}

void cross_entropy(benchmark::State& state) {
  const Tokens<float> logits({kBatch, kLength, kVocabulary}, 1);
  const Device<index_t> targets(kTokens, uniform<index_t>(kTokens, 0, kVocabulary, 2));
  const Array<float, 1> loss({1}, 3);
  ssm::CrossEntropyArgs<float> a;
  a.logits = logits.view;
  a.targets = View<const index_t, 2>(targets.data(), {kBatch, kLength});
  a.loss = loss.view;
  a.dlogits = logits.view;
  measure(state, a, 2 * logits.bytes(), 0,
          [](const auto&... args) { return ssm::cross_entropy(args...); });
}

// Of the embedding.
template <class T>
void adamw(benchmark::State& state) {
  constexpr index_t kSize = kVocabulary * kModel;
  const Array<T, 1> parameter({kSize}, 1);
  const Array<float, 1> master({kSize}, 2), gradient({kSize}, 3), m({kSize}, 4), v({kSize}, 5);
  const Device<ssm::AdamWStep> step(1, std::vector<ssm::AdamWStep>{{1e-3, 7}});
  const Device<double> norm(1, std::vector<double>{4.0});
  ssm::AdamWArgs<T> a;
  a.parameter = parameter.view;
  const bool with_master = sizeof(T) == 2;
  if (with_master) a.master = master.view;
  a.gradient = gradient.view;
  a.m = m.view;
  a.v = v.view;
  a.step = View<const ssm::AdamWStep, 1>(step.data(), {1});
  a.square_norm = View<const double, 1>(norm.data(), {1});
  const double bytes =
      5 * m.bytes() + (with_master ? 2 * m.bytes() + parameter.bytes() : 2 * parameter.bytes());
  measure(state, a, bytes, 0, [](const ssm::Cuda& cuda, const ssm::AdamWArgs<T>& args, ssm::Arena) {
    return ssm::adamw(cuda, args);
  });
}

void sum_of_squares(benchmark::State& state) {
  const Array<float, 1> x({kVocabulary * kModel}, 1);
  const Array<double, 1> sum({1}, 2);
  const ssm::SumOfSquaresArgs<float> a{x.view, sum.view};
  measure(state, a, x.bytes(), 0, [](const auto&... args) { return ssm::sum_of_squares(args...); });
}

void timed_by_events(benchmark::internal::Benchmark* b) {
  b->UseManualTime()->Unit(benchmark::kMicrosecond);
}
using ssm::bf16;
BENCHMARK_TEMPLATE(conv_backward, bf16)->Apply(timed_by_events);
BENCHMARK_TEMPLATE(conv_backward, float)->Apply(timed_by_events);
BENCHMARK_TEMPLATE(norm_backward, bf16)->Apply(timed_by_events);
BENCHMARK_TEMPLATE(norm_backward, float)->Apply(timed_by_events);
BENCHMARK_TEMPLATE(linear_backward, bf16, bf16, bf16)
    ->Args({kModel, 2 * kInner})
    ->Args({kInner, kModel})
    ->Apply(timed_by_events);
BENCHMARK_TEMPLATE(linear_backward, bf16, bf16, float)->Args({48, kInner})->Apply(timed_by_events);
BENCHMARK_TEMPLATE(linear_backward, bf16, float, bf16)
    ->Args({kInner, 80})
    ->Args({kModel, kVocabulary})
    ->Apply(timed_by_events);
BENCHMARK_TEMPLATE(embedding_backward, bf16)
    ->Arg(kVocabulary)
    ->Arg(256)
    ->Arg(1)
    ->Apply(timed_by_events);
BENCHMARK(cross_entropy)->Apply(timed_by_events);
BENCHMARK_TEMPLATE(adamw, bf16)->Apply(timed_by_events);
BENCHMARK_TEMPLATE(adamw, float)->Apply(timed_by_events);
BENCHMARK(sum_of_squares)->Apply(timed_by_events);

}  // namespace
