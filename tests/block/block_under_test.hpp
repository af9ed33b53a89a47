#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "block/block_oracle.hpp"
#include "ssm/block/initialize.hpp"
#include "ssm/block/mamba_block.hpp"
#include "ssm/owned.hpp"

// A MambaBlock<T, Backend> on random weights with memory of its own, and how its results are
// compared.
namespace ssm_test {

template <class BackendType, class Scalar>
struct On {
  using Backend = BackendType;
  using T = Scalar;
  template <class Other>
  using With = On<BackendType, Other>;
  static Backend backend() { return Backend{}; }
};

// Waits for all that calls have queued, so that the host can look at the results. Host backends
// queue nothing; a device's tests replace it.
inline void (*finish_calls)() = [] {};

// Norm-relative bound against the double oracle: sums of a few dozen terms in float; one rounding
// per stored intermediate for the two-byte types (2^-9 and 2^-12), of which a block has five.
template <class T>
double block_tolerance() {
  if (std::is_same<T, double>::value) return 1e-13;
  if (std::is_same<T, float>::value) return 2e-6;
  return std::is_same<T, ssm::bf16>::value ? 2e-2 : 3e-3;
}
// Bound between two ways of running the same sequence on one backend.
template <class T>
double split_tolerance() {
  if (std::is_same<T, double>::value) return 1e-14;
  if (std::is_same<T, float>::value) return 1e-6;
  return block_tolerance<T>();
}

// || a - b || / || b ||; NaN if either holds NaN, which no tolerance accepts.
inline double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, norm = 0;
  if (a.size() != b.size()) return std::numeric_limits<double>::quiet_NaN();
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference) / (norm > 0 ? std::sqrt(norm) : 1);
}

template <class V>
std::vector<double> flat(const V& v) {
  std::vector<double> out;
  for (ssm::index_t i = 0; i < v.extent(0); ++i) {
    for (ssm::index_t j = 0; j < v.extent(1); ++j) {
      for (ssm::index_t k = 0; k < v.extent(2); ++k) out.push_back(static_cast<double>(v(i, j, k)));
    }
  }
  return out;
}

inline std::vector<double> flat(const Matrix& m) {
  std::vector<double> out;
  for (const auto& r : m) out.insert(out.end(), r.begin(), r.end());
  return out;
}

#define SSM_EXPECT_CLOSE(a, b, tolerance)                            \
  do {                                                               \
    const double error = ::ssm_test::relative_error((a), (b));       \
    EXPECT_TRUE(error <= (tolerance)) << #a " vs " #b ": " << error; \
  } while (false)

#define SSM_EXPECT_OK(call)                         \
  do {                                              \
    const ::ssm::Status outcome = (call);           \
    EXPECT_TRUE(outcome) << outcome.message().text; \
    ::ssm_test::finish_calls();                     \
  } while (false)

// A prepared block with memory of its own, and the calls on it.
template <class On>
class BlockUnderTest {
 public:
  using T = typename On::T;
  using Accum = ssm::accum_t<T>;
  using Backend = typename On::Backend;
  using Block = ssm::MambaBlock<T, Backend>;
  using Activations = ssm::Owned<T, 3>;

  explicit BlockUnderTest(const ssm::MambaConfig& c, std::uint64_t seed = 1) : config(c) {
    parameters = weight_memory.carve(
        [&](ssm::Arena& arena) { return ssm::MambaParameters<T>::carve(c, arena); });
    ssm::Random random(seed);
    ssm::initialize(c, parameters, random);
    // Initialisation leaves these regular; a test wants them all different.
    perturb(parameters.A_log, 0.3, random);
    perturb(parameters.D, 0.3, random);
    if (c.bias) {
      perturb(parameters.in_proj_bias, 0.2, random);
      perturb(parameters.out_proj_bias, 0.2, random);
    }
    prepared_memory = ssm::OwnedWorkspace(Block::prepared_bytes(backend, c));
    SSM_EXPECT_OK(block.prepare(backend, c, parameters, prepared_memory.arena()));
  }

  Activations random_input(ssm::index_t batch, ssm::index_t length, std::uint64_t seed = 7) const {
    ssm::Random random(seed);
    Activations x({batch, length, config.d_model});
    for (std::size_t i = 0; i < x.size(); ++i) x.data()[i] = T(static_cast<Accum>(random.normal()));
    return x;
  }

  struct StateMemory {
    ssm::OwnedWorkspace memory;
    ssm::MambaState<T> state;
  };
  StateMemory zero_state(ssm::index_t sequences) const {
    StateMemory s;
    s.state = s.memory.carve(
        [&](ssm::Arena& arena) { return ssm::MambaState<T>::carve(config, sequences, arena); });
    ssm::set_zero(s.state);
    return s;
  }
  StateMemory random_state(ssm::index_t sequences, std::uint64_t seed = 3) const {
    StateMemory s = zero_state(sequences);
    ssm::Random random(seed);
    for (auto* view : {&s.state.conv, &s.state.ssm}) {
      for (ssm::index_t i = 0; i < view->size(); ++i) {
        view->data()[i] = static_cast<Accum>(random.normal());
      }
    }
    return s;
  }

  // Runs forward with exactly the workspace it asks for, into a poisoned output.
  Activations run(const ssm::View<const T, 3>& x, const ssm::MambaState<T>& state,
                  const ssm::Sequences& sequences = {}) const {
    Activations y({x.extent(0), x.extent(1), x.extent(2)});
    poison(y);
    ssm::OwnedWorkspace scratch(block.workspace_bytes(backend, x.extent(0), x.extent(1)));
    SSM_EXPECT_OK(block.forward(backend, x, y.view(), state, scratch.arena(), sequences));
    return y;
  }

  static void poison(Activations& y) {
    for (std::size_t i = 0; i < y.size(); ++i) {
      y.data()[i] = T(std::numeric_limits<Accum>::quiet_NaN());
    }
  }

  ssm::MambaConfig config;
  Backend backend = On::backend();
  ssm::OwnedWorkspace weight_memory, prepared_memory;
  ssm::MambaParameters<T> parameters;
  Block block;

 private:
  template <class V>
  static void perturb(const V& view, double scale, ssm::Random& random) {
    using E = typename V::value_type;
    for (ssm::index_t i = 0; i < view.size(); ++i) {
      view.data()[i] =
          E(static_cast<Accum>(view.data()[i]) + static_cast<Accum>(scale * random.normal()));
    }
  }
};

inline ssm::MambaConfig small_config() {
  ssm::MambaConfig c = ssm::mamba_config(12);
  c.d_inner = 20;
  c.d_state = 5;
  c.dt_rank = 3;
  return c;
}

}  // namespace ssm_test
