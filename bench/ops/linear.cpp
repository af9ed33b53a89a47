#include "ssm/cpu/linear.hpp"

#include <benchmark/benchmark.h>

#include <Eigen/Core>
#include <memory>
#include <string>
#include <vector>

#include "ssm/cpu/thread_pool.hpp"
#include "ssm/owned.hpp"
#include "support/random.hpp"

#if SSM_BENCH_OPENBLAS
#include "ssm/cpu/cblas.hpp"
#endif

// The matrix products of a Mamba-130m: 24 layers of d_model 768, vocabulary 50,280. flop/s stands
// against fma_rate, bytes/s of weights against read_bandwidth.
namespace {

using ssm::index_t;
using ssm::WeightFormat;

struct Shape {
  const char* name;
  index_t in, out;
};
constexpr Shape kLayer[] = {
    {"in_proj", 768, 3072}, {"x_proj", 1536, 80}, {"dt_proj", 48, 1536}, {"out_proj", 1536, 768}};
constexpr Shape kHead = {"head", 768, 50280};
constexpr int kLayers = 24;

// A weight, packed, with activations to go through it. The plain weight is dropped after packing.
template <class T>
class Product {
 public:
  Product(const ssm::Cpu& backend, const Shape& shape, index_t rows, WeightFormat format,
          bool packed = true)
      : shape_(shape),
        rows_(rows),
        weight_(ssm_bench::uniform<T>(shape.in * shape.out, -1, 1)),
        x_(ssm_bench::uniform<T>(shape.in * rows, -1, 1, 2)),
        y_(static_cast<std::size_t>(shape.out * rows)) {
    if (!packed) return;
    packed_ = memory_.carve([&](ssm::Arena& arena) {
      return pack_linear(backend, ssm::View<const T, 2>(weight_.data(), {shape.out, shape.in}),
                         format, arena);
    });
    weight_ = std::vector<T>();
  }

  void run(const ssm::Cpu& backend) {
    ssm::LinearArgs<T> a;
    a.x = ssm::View<const T, 3>(x_.data(), {1, rows_, shape_.in});
    a.weight = ssm::View<const T, 2>(weight_.data(), {shape_.out, shape_.in});
    a.y = ssm::View<T, 3>(y_.data(), {1, rows_, shape_.out});
    a.packed = packed_;
    if (!linear(backend, a)) std::abort();
  }

  double flop() const { return 2.0 * static_cast<double>(shape_.in * shape_.out * rows_); }
  double bytes() const { return static_cast<double>(memory_.arena().capacity()); }

 private:
  Shape shape_;
  index_t rows_;
  std::vector<T> weight_, x_, y_;
  ssm::OwnedWorkspace memory_;
  ssm::PackedWeight packed_;
};

void count(benchmark::State& state, double flop, double bytes) {
  const auto n = static_cast<double>(state.iterations());
  state.counters["flop/s"] = benchmark::Counter(n * flop, benchmark::Counter::kIsRate);
  state.counters["bytes/s"] = benchmark::Counter(n * bytes, benchmark::Counter::kIsRate);
}

// One matrix product: args are rows and threads.
template <class T>
void prefill(benchmark::State& state, Shape shape, WeightFormat format, bool packed,
             const ssm::Blas& blas = {}) {
  ssm::ThreadPool pool(static_cast<int>(state.range(1)));
  const ssm::Cpu backend{pool.parallel(), blas};
  Product<T> product(backend, shape, state.range(0), format, packed);
  for (auto _ : state) {
    product.run(backend);
    benchmark::ClobberMemory();
  }
  count(state, product.flop(), product.bytes());
}

// All the products of one token (or of a few at once), every weight from memory: args are rows and
// threads.
template <class T>
void decode(benchmark::State& state, WeightFormat format) {
  ssm::ThreadPool pool(static_cast<int>(state.range(1)));
  const ssm::Cpu backend{pool.parallel()};
  std::vector<std::unique_ptr<Product<T>>> products;
  for (int layer = 0; layer < kLayers; ++layer) {
    for (const Shape& shape : kLayer) {
      products.push_back(std::make_unique<Product<T>>(backend, shape, state.range(0), format));
    }
  }
  products.push_back(std::make_unique<Product<T>>(backend, kHead, state.range(0), format));
  double flop = 0;
  double bytes = 0;
  for (const auto& product : products) flop += product->flop(), bytes += product->bytes();
  for (auto _ : state) {
    for (const auto& product : products) product->run(backend);
    benchmark::ClobberMemory();
  }
  count(state, flop, bytes);
}

// y = x W^T by other libraries, one thread.
void eigen(benchmark::State& state, Shape shape) {
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const index_t rows = state.range(0);
  const auto weight = ssm_bench::uniform<float>(shape.in * shape.out, -1, 1);
  const auto x = ssm_bench::uniform<float>(shape.in * rows, -1, 1, 2);
  std::vector<float> y(static_cast<std::size_t>(shape.out * rows));
  const Eigen::Map<const Matrix> w(weight.data(), shape.out, shape.in);
  const Eigen::Map<const Matrix> a(x.data(), rows, shape.in);
  Eigen::Map<Matrix> out(y.data(), rows, shape.out);
  for (auto _ : state) {
    out.noalias() = a * w.transpose();
    benchmark::ClobberMemory();
  }
  count(state, 2.0 * static_cast<double>(shape.in * shape.out * rows),
        4.0 * static_cast<double>(shape.in * shape.out));
}

#if SSM_BENCH_OPENBLAS
void openblas(benchmark::State& state, Shape shape) {
  openblas_set_num_threads(static_cast<int>(state.range(1)));
  const int rows = static_cast<int>(state.range(0));
  const int in = static_cast<int>(shape.in);
  const int out = static_cast<int>(shape.out);
  const auto weight = ssm_bench::uniform<float>(shape.in * shape.out, -1, 1);
  const auto x = ssm_bench::uniform<float>(shape.in * rows, -1, 1, 2);
  std::vector<float> y(static_cast<std::size_t>(shape.out * rows));
  for (auto _ : state) {
    if (rows == 1) {
      cblas_sgemv(CblasRowMajor, CblasNoTrans, out, in, 1.0f, weight.data(), in, x.data(), 1, 0.0f,
                  y.data(), 1);
    } else {
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, rows, out, in, 1.0f, x.data(), in,
                  weight.data(), in, 0.0f, y.data(), out);
    }
    benchmark::ClobberMemory();
  }
  count(state, 2.0 * static_cast<double>(shape.in * shape.out * rows),
        4.0 * static_cast<double>(shape.in * shape.out));
}
#endif

template <class F>
benchmark::internal::Benchmark* add(const std::string& name, F f) {
  return benchmark::RegisterBenchmark(name.c_str(), f)
      ->Unit(benchmark::kMicrosecond)
      ->UseRealTime()
      ->ArgNames({"rows", "threads"});
}

template <class T>
void add_formats(const char* type, WeightFormat format, const char* name) {
  const std::string what = std::string(type) + "_x_" + name;
  add("decode/" + what, [=](benchmark::State& s) {
    decode<T>(s, format);
  })->ArgsProduct({{1, 4}, {1, 2}});
  add("prefill/in_proj/" + what, [=](benchmark::State& s) {
    prefill<T>(s, kLayer[0], format, true);
  })->ArgsProduct({{512}, {1, 2}});
}

const int registered = [] {
  for (const Shape& shape : {kLayer[0], kLayer[1], kLayer[2], kLayer[3]}) {
    const std::string name = std::string("prefill/") + shape.name;
    add(name + "/f32", [=](benchmark::State& s) {
      prefill<float>(s, shape, {}, true);
    })->ArgsProduct({{64, 512, 2048}, {1, 2}});
    add(name + "/eigen", [=](benchmark::State& s) {
      eigen(s, shape);
    })->ArgsProduct({{64, 512, 2048}, {1}});
#if SSM_BENCH_OPENBLAS
    add(name + "/openblas", [=](benchmark::State& s) {
      openblas(s, shape);
    })->ArgsProduct({{64, 512, 2048}, {1, 2}});
    add(name + "/blas",
        [=](benchmark::State& s) {  // the same through Cpu::blas
          openblas_set_num_threads(1);
          prefill<float>(s, shape, {}, false, ssm::cblas());
        })
        ->ArgsProduct({{64, 512, 2048}, {1, 2}});
#endif
  }
  add("prefill/head/f32", [](benchmark::State& s) {
    prefill<float>(s, kHead, {}, true);
  })->ArgsProduct({{64}, {1, 2}});
  add("head/eigen", [](benchmark::State& s) { eigen(s, kHead); })->ArgsProduct({{1, 64}, {1}});
#if SSM_BENCH_OPENBLAS
  add("head/openblas", [](benchmark::State& s) {
    openblas(s, kHead);
  })->ArgsProduct({{1, 64}, {1, 2}});
#endif
  add("unpacked/in_proj/f32", [](benchmark::State& s) {
    prefill<float>(s, kLayer[0], {}, false);
  })->ArgsProduct({{1, 512}, {1, 2}});
  add("prefill/in_proj/f64", [](benchmark::State& s) {
    prefill<double>(s, kLayer[0], {}, true);
  })->ArgsProduct({{512}, {1}});
  add_formats<float>("f32", WeightFormat::f32, "f32");
  add_formats<float>("f32", WeightFormat::bf16, "bf16");
  add_formats<float>("f32", WeightFormat::f16, "f16");
  add_formats<float>("f32", WeightFormat::int8, "int8");
  add_formats<ssm::bf16>("bf16", WeightFormat::native, "bf16");
  return 0;
}();

}  // namespace
