#include "ssm/cuda/selective_scan_backward.hpp"

#include "support/cuda.hpp"

// The gradient of the selective scan on a GPU with respect to all that a Mamba block learns or
// passes on: x, dt, z, B, C, A_log, D, dt bias and the initial state (support/cuda.hpp: the inputs,
// and how calls are timed).
//
//   elements/s   channels times tokens
//   %memory      x, dt, z, dy, dx, ddt and dz once at the device's peak bandwidth, over the time
//   %sfu         d_state + 3 special functions per element, over the time: what computing every
//   decay
//                once takes
//   scratch_MiB  device memory that the call needs besides its arrays
namespace {

using namespace ssm_bench;

template <class T>
void scan_backward(benchmark::State& state) {
  const ScanInputs<T> inputs(state.range(0), state.range(1), state.range(2));
  const ssm::SelectiveScanArgs<T>& f = inputs.args;
  const index_t batch = f.x.extent(0);
  const index_t length = f.x.extent(1);
  const index_t channels = f.x.extent(2);
  const index_t states = f.A.extent(1);
  const Device<T> dy(inputs.count, uniform<T>(index_t{1} << 22, -1, 1, 9));
  const Device<T> dx(inputs.count), ddt(inputs.count), dz(inputs.count);
  const Device<float> dB(batch * length * states), dC(batch * length * states);
  const Device<float> dh0(batch * channels * states), dA_log(channels * states);
  const Device<float> dD(channels), ddt_bias(channels);

  ssm::SelectiveScanGradArgs<T> a;
  a.forward = f;
  a.forward.y = {};
  a.forward.h_last = {};
  a.dy = {dy.data(), {batch, length, channels}};
  a.dx = {dx.data(), {batch, length, channels}};
  a.ddt = {ddt.data(), {batch, length, channels}};
  a.dz = {dz.data(), {batch, length, channels}};
  a.dB = {dB.data(), {batch, length, 1, states}};
  a.dC = {dC.data(), {batch, length, 1, states}};
  a.dh0 = {dh0.data(), {batch, channels, states}};
  a.dA_log = {dA_log.data(), {channels, states}};
  a.dD = {dD.data(), {channels}};
  a.ddt_bias = {ddt_bias.data(), {channels}};

  Stream stream;
  ssm::Cuda cuda;
  cuda.stream = stream.get();
  const std::size_t bytes = ssm::scratch_bytes(cuda, a);
  const Device<unsigned char> scratch(static_cast<index_t>(bytes) + 1);
  const auto call = [&] {
    return ssm::selective_scan_backward(cuda, a, ssm::Arena(scratch.data(), bytes));
  };
  if (!call()) state.SkipWithError("the gradient was refused");  // loads code
  const double mean = stream.time(state, call);

  const double elements = static_cast<double>(inputs.count);
  state.counters["elements/s"] = elements / mean;
  state.counters["%memory"] = 100 * 7 * elements * sizeof(T) / peak_bandwidth() / mean;
  state.counters["%sfu"] =
      100 * elements * static_cast<double>(states + 3) / peak_special_functions() / mean;
  state.counters["scratch_MiB"] = static_cast<double>(bytes) / (1 << 20);
}

BENCHMARK_TEMPLATE(scan_backward, ssm::bf16)->Apply(scan_shapes);
BENCHMARK_TEMPLATE(scan_backward, float)->Apply(scan_shapes);

}  // namespace
