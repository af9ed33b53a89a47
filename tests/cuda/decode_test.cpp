#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "block/block_under_test.hpp"
#include "cuda/pinned.hpp"
#include "ssm/cuda/causal_conv1d.hpp"
#include "ssm/cuda/convert.hpp"
#include "ssm/cuda/embedding.hpp"
#include "ssm/cuda/graph.cuh"
#include "ssm/cuda/language_model_step.hpp"
#include "ssm/cuda/linear.hpp"
#include "ssm/cuda/mamba_step.hpp"
#include "ssm/cuda/rms_norm.hpp"
#include "ssm/cuda/selective_scan.hpp"
#include "ssm/cuda/state_matrix.hpp"
#include "ssm/model/language_model.hpp"
#include "ssm/reference/causal_conv1d.hpp"
#include "ssm/reference/convert.hpp"
#include "ssm/reference/embedding.hpp"
#include "ssm/reference/linear.hpp"
#include "ssm/reference/rms_norm.hpp"
#include "ssm/reference/selective_scan.hpp"
#include "ssm/reference/state_matrix.hpp"
#include "support/random.hpp"

// The decoding step on CUDA against the Reference: few rows and many, states chosen by slots, every
// option of the block, queued and replayed from a graph; in one kernel for many layers where that
// is possible.
namespace ssm_test {
namespace {

constexpr index_t kTokens = 6;

struct DecodeCase {
  const char* name;
  ssm::MambaConfig block;
  index_t batch;
  bool tied;
  index_t layers = 2;
  bool one_kernel = false;  // that it takes one, for every type
};

ssm::MambaConfig block_of(index_t d_model, index_t d_inner, index_t d_state, index_t d_conv,
                          index_t dt_rank) {
  ssm::MambaConfig c = ssm::mamba_config(d_model);
  c.d_inner = d_inner;
  c.d_state = d_state;
  c.d_conv = d_conv;
  c.dt_rank = dt_rank;
  return c;
}

std::vector<DecodeCase> decode_cases() {
  std::vector<DecodeCase> cases;
  const auto add = [&](const char* name, const ssm::MambaConfig& block, index_t batch,
                       bool tied = true) {
    cases.push_back({name, block, batch, tied});
  };
  const ssm::MambaConfig usual = ssm::mamba_config(64);
  for (const index_t batch : {1, 2, 3, 4, 5, 17}) add("usual", usual, batch);
  // More rows of in_proj than warps are resident, and rows that no warp's pair divides.
  add("wide", block_of(256, 2500, 16, 4, 16), 1, false);
  add("wide", block_of(256, 2500, 16, 4, 16), 3);
  // Nothing that 16 bytes divide.
  for (const index_t batch : {1, 3, 6}) add("odd", block_of(21, 35, 5, 3, 3), batch, false);
  // One vector of four tokens fits in shared memory, four do not.
  add("long_rows", block_of(40, 4000, 16, 4, 8), 1);
  add("long_rows", block_of(40, 4000, 16, 4, 8), 2);
  // dt's product on the tensor cores: ranks, rows and channels around those of a tile; and the
  // first rank that is too long for it.
  for (const index_t rank : {8, 16, 40, 160, 256, 264}) {
    add("rank", block_of(32, 132, 16, 4, rank), 17);
  }
  for (const index_t rows : {5, 8, 9, 15, 16, 33, 130}) {
    add("rows", block_of(32, 100, 16, 4, 24), rows);
  }
  // The convolution and x_proj in one kernel: channels, rows and outputs around those of a slice, a
  // tile and a pass; another number of states.
  for (const index_t channels : {8, 120, 128, 264}) {
    add("slices", block_of(32, channels, 16, 4, 8), 17);
  }
  for (const index_t rows : {5, 16, 33, 64, 65, 97}) {
    add("tiles", block_of(32, 136, 16, 4, 24), rows);
  }
  for (const index_t rank : {160, 168, 200, 264}) add("outputs", block_of(32, 136, 16, 4, rank), 9);
  add("states", block_of(32, 136, 20, 4, 8), 9);
  // More tiles of rows and channels than blocks are resident.
  add("many_tiles", block_of(32, 2000, 16, 4, 40), 130);
  // Channels that no four divide.
  add("channels", block_of(32, 66, 16, 4, 8), 6);
  ssm::MambaConfig c = usual;
  c.bias = true;
  c.conv_bias = false;
  add("biases", c, 2);
  add("biases", c, 7);
  c = usual;
  c.gate = false;
  add("no_gate", c, 1);
  add("no_gate", c, 6);
  c = usual;
  c.dt_b_c_norm = true;
  add("norms", c, 2);
  add("norms", c, 9);
  for (const index_t width : {1, 2, 5, 9}) add("conv", block_of(32, 64, 16, width, 2), 2);
  for (const index_t states : {1, 17, 100, 256}) add("states", block_of(32, 64, states, 4, 2), 2);
  return cases;
}

// What one kernel takes.
std::vector<DecodeCase> one_kernel_cases() {
  std::vector<DecodeCase> cases;
  const auto add = [&](const char* name, const ssm::MambaConfig& block, index_t batch,
                       index_t layers = 2, bool tied = true) {
    cases.push_back({name, block, batch, tied, layers, true});
  };
  const ssm::MambaConfig small = block_of(64, 128, 16, 4, 8);
  for (const index_t batch : {1, 2, 3, 4}) add("small", small, batch);
  // Fewer outputs than multiprocessors, fewer channels, and rows of one pack.
  for (const index_t batch : {1, 3}) add("narrow", block_of(8, 16, 16, 4, 8), batch);
  add("few_channels", block_of(256, 24, 16, 4, 8), 2, 2, false);
  // Channels and outputs that the multiprocessors do not divide.
  for (const index_t batch : {1, 2, 4}) add("wide", block_of(312, 2504, 16, 4, 24), batch);
  // Several packs of a row a lane, the last of some lanes beyond the end.
  for (const index_t batch : {1, 2}) add("long_rows", block_of(136, 5000, 16, 4, 8), batch, 1);
  // More layers than a launch takes.
  add("deep", small, 1, 65);
  add("deep", small, 3, 130);
  ssm::MambaConfig c = small;
  c.bias = true;
  c.conv_bias = false;
  add("biases", c, 2, 3, false);
  c = small;
  c.gate = false;
  add("no_gate", c, 1);
  c = small;
  c.dt_b_c_norm = true;
  for (const index_t batch : {1, 4}) add("norms", c, batch);
  for (const index_t width : {1, 2, 3}) add("conv", block_of(32, 64, 16, width, 8), 2);
  for (const index_t states : {2, 6, 18, 32}) add("states", block_of(32, 64, states, 4, 8), 2);
  add("dt_rank", block_of(32, 64, 16, 4, 264), 2);
  return cases;
}

class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t bytes) : bytes_(bytes) {
    cuda_check(cudaMalloc(&memory_, bytes), "device memory");
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() { cuda_check(cudaFree(memory_), "free"); }
  ssm::Arena arena() const { return ssm::Arena(memory_, bytes_); }
  // Not numbers; or what looks as if a first layer had left it there, in words of 4 or 8 bytes.
  void poison(bool like_a_layer) const {
    std::vector<std::uint32_t> words(bytes_ / 4, 0xffffffffu);
    for (std::size_t i = 0; i < words.size() && like_a_layer; ++i) {
      words[i] = i % 2 == 0 ? 0x00010001u : 1u;
    }
    cuda_check(cudaMemcpy(memory_, words.data(), words.size() * 4, cudaMemcpyHostToDevice),
               "poison");
    cuda_check(cudaDeviceSynchronize(), "poison");
  }

 private:
  void* memory_ = nullptr;
  std::size_t bytes_;
};

class CudaDecode : public OnPinnedMemory, public testing::WithParamInterface<DecodeCase> {
 protected:
  template <class T, class H = float>
  struct Decoder {
    Pinned weight_memory, host_memory, data_memory, state_memory, scratch, io_memory;
    ssm::LanguageModelParameters<T> weights;
    ssm::LanguageModelState<T, H> state;
    View<index_t, 1> ids, slots;
    View<float, 2> logits;
  };

  template <class T, class H>
  void build(Decoder<T, H>* d) {
    const DecodeCase& p = GetParam();
    config_.block = p.block;
    config_.n_layer = p.layers;
    config_.vocab_size = 37;
    config_.tie_embeddings = p.tied;
    states_ = p.batch + 3;
    d->weights = pinned(&d->weight_memory, [&](ssm::Arena& arena) {
      return ssm::LanguageModelParameters<T>::carve(config_, arena, arena);
    });
    ssm::Random random(test_seed());
    ssm::initialize(config_, d->weights, random);
    d->weights.for_each([&](const char* name, const auto& view) {
      using P = typename std::decay_t<decltype(view)>::value_type;
      if (std::string(name).find("bias") == std::string::npos) return;
      for (index_t i = 0; i < view.size(); ++i) {
        view.data()[i] = P(static_cast<float>(view.data()[i]) + 0.2f * float(random.normal()));
      }
    });
    allocate(d);
    for (index_t i = 0; i < d->state.conv.size(); ++i) {
      d->state.conv.data()[i] = H(static_cast<float>(random.normal()));
    }
    for (index_t i = 0; i < d->state.ssm.size(); ++i) {
      d->state.ssm.data()[i] = H(static_cast<float>(random.normal()));
    }
  }
  template <class T, class H>
  void allocate(Decoder<T, H>* d) {
    d->state = pinned(&d->state_memory, [&](ssm::Arena& arena) {
      return ssm::LanguageModelState<T, H>::carve(config_, states_, arena);
    });
    const index_t batch = GetParam().batch;
    ssm::Arena counter;
    const auto carve = [&](ssm::Arena& arena) {
      d->ids = arena.view<index_t, 1>({batch});
      d->slots = arena.view<index_t, 1>({batch});
      d->logits = arena.view<float, 2>({batch, config_.vocab_size});
      return 0;
    };
    pinned(&d->io_memory, carve);
  }
  template <class T, class H, class Backend>
  ssm::LanguageModel<T, Backend> prepared(const Backend& backend, Decoder<T, H>* d) {
    ssm::LanguageModel<T, Backend> model;
    const auto bytes = model.prepared_bytes(backend, config_);
    d->host_memory = Pinned(bytes.host);
    d->data_memory = Pinned(bytes.data);
    done(model.prepare(backend, config_, d->weights, d->host_memory.arena(),
                       d->data_memory.arena()));
    d->scratch = Pinned(model.workspace_bytes(backend, GetParam().batch, 1));
    return model;
  }

  // Decodes with rows that change their states and sometimes skip, on both backends; the
  // reference's state is rounded to H after every step.
  template <class T, class H = float>
  void equals_the_reference(bool with_slots, double tolerance) {
    Decoder<T, H> cuda;
    Decoder<T> reference;
    build(&cuda);
    reference.weights = cuda.weights;
    allocate(&reference);
    done(convert(ssm::Reference{}, cuda.state, reference.state));
    const auto model = prepared(cuda_, &cuda);
    const auto wanted = prepared(ssm::Reference{}, &reference);
    const index_t batch = GetParam().batch;
    const auto rows = [&](const auto& s) { return with_slots ? s : s.rows(0, batch); };
    const auto slots = [&](const auto& d) {
      return with_slots ? View<const index_t, 1>(d.slots) : View<const index_t, 1>();
    };
    const DeviceMemory scratch(model.workspace_bytes(cuda_, batch, 1));
    const auto step = [&] {
      return model.step(cuda_, cuda.ids, cuda.logits, rows(cuda.state), scratch.arena(),
                        slots(cuda));
    };
    if (GetParam().one_kernel && std::is_same<H, float>::value) {
      const index_t most = CUDART_VERSION >= 12010 ? 64 : 32;
      const index_t launches = (config_.n_layer + most - 1) / most;
      EXPECT_EQ(nodes_of(step), 1 + launches);  // and one that clears the workspace
    }
    ssm::CudaGraph graph;
    done(graph.record(cuda_, step));
    Random random(5);
    for (index_t t = 0; t < kTokens; ++t) {
      SCOPED_TRACE("token " + std::to_string(t));
      std::vector<index_t> pool(static_cast<std::size_t>(states_));
      for (index_t i = 0; i < states_; ++i) pool[static_cast<std::size_t>(i)] = i;
      for (index_t b = 0; b < batch; ++b) {
        const index_t chosen = random.integer(b, states_ - 1);
        std::swap(pool[static_cast<std::size_t>(b)], pool[static_cast<std::size_t>(chosen)]);
        cuda.ids(b) = reference.ids(b) = random.integer(0, config_.vocab_size - 1);
        cuda.slots(b) = reference.slots(b) =
            random.integer(0, 4) == 0 ? -1 : pool[static_cast<std::size_t>(b)];
      }
      scratch.poison(t % 3 == 1);
      done(t % 2 == 0 ? step() : graph.launch(cuda_));
      done(wanted.step(ssm::Reference{}, reference.ids, reference.logits, rows(reference.state),
                       reference.scratch.arena(), slots(reference)));
      for (View<float, 4>* v : {&reference.state.conv, &reference.state.ssm}) {
        for (index_t i = 0; i < v->size(); ++i) v->data()[i] = float(H(v->data()[i]));
      }
      std::vector<double> found, expected;
      for (index_t b = 0; b < batch; ++b) {
        if (with_slots && cuda.slots(b) < 0) continue;
        for (index_t i = 0; i < config_.vocab_size; ++i) {
          found.push_back(static_cast<double>(cuda.logits(b, i)));
          expected.push_back(static_cast<double>(reference.logits(b, i)));
        }
      }
      SSM_EXPECT_CLOSE(found, expected, tolerance);
    }
    for (index_t l = 0; l < config_.n_layer; ++l) {
      SSM_EXPECT_CLOSE(flat(cuda.state.ssm.select(0, l)), flat(reference.state.ssm.select(0, l)),
                       tolerance);
      SSM_EXPECT_CLOSE(flat(cuda.state.conv.select(0, l)), flat(reference.state.conv.select(0, l)),
                       tolerance);
    }
  }

  // How many operations a call puts on the stream.
  template <class F>
  index_t nodes_of(F&& queue) const {
    cudaGraph_t graph = nullptr;
    std::size_t count = 0;
    cuda_check(cudaStreamBeginCapture(cuda_.stream, cudaStreamCaptureModeThreadLocal), "capture");
    const ssm::Status status = queue();
    EXPECT_TRUE(status.is_ok()) << status.message().text;
    cuda_check(cudaStreamEndCapture(cuda_.stream, &graph), "capture");
    cuda_check(cudaGraphGetNodes(graph, nullptr, &count), "nodes");
    cuda_check(cudaGraphDestroy(graph), "graph");
    return static_cast<index_t>(count);
  }

  ssm::LanguageModelConfig config_;
  index_t states_ = 0;
};

TEST_P(CudaDecode, FloatEqualsTheReference) { equals_the_reference<float>(false, 5e-6); }
TEST_P(CudaDecode, FloatBySlotsEqualsTheReference) { equals_the_reference<float>(true, 5e-6); }
TEST_P(CudaDecode, Bf16BySlotsEqualsTheReference) { equals_the_reference<ssm::bf16>(true, 3e-2); }
TEST_P(CudaDecode, Bf16OnBf16StatesEqualsTheReference) {
  equals_the_reference<ssm::bf16, ssm::bf16>(true, 3e-2);
}
TEST_P(CudaDecode, F16OnBf16StatesEqualsTheReference) {
  equals_the_reference<ssm::f16, ssm::bf16>(false, 3e-2);
}
TEST_P(CudaDecode, F16EqualsTheReference) { equals_the_reference<ssm::f16>(false, 4e-3); }

std::string name_of(const testing::TestParamInfo<DecodeCase>& test) {
  return std::string(test.param.name) + "_" + std::to_string(test.index);
}
INSTANTIATE_TEST_SUITE_P(Shapes, CudaDecode, testing::ValuesIn(decode_cases()), name_of);
INSTANTIATE_TEST_SUITE_P(OneKernel, CudaDecode, testing::ValuesIn(one_kernel_cases()), name_of);

// Two models that decode on two streams at once give the same bits as one alone: their kernels,
// whose blocks wait for each other, do not wait for those of the other.
class CudaDecodeAtOnce : public CudaDecode {
 protected:
  using T = ssm::bf16;
  struct Run {
    Decoder<T> decoder;
    ssm::Cuda cuda;
    ssm::LanguageModel<T, ssm::Cuda> model;
    ssm::CudaGraph graph;
    std::unique_ptr<DeviceMemory> scratch;

    std::vector<double> result() const {
      auto all = flat(decoder.state.ssm.select(0, 1));
      for (index_t i = 0; i < decoder.logits.size(); ++i) {
        all.push_back(static_cast<double>(decoder.logits.data()[i]));
      }
      return all;
    }
  };
  void set_up(Run* run, cudaStream_t stream) {
    build(&run->decoder);
    run->cuda = cuda_;
    run->cuda.stream = stream;
    run->model = prepared(run->cuda, &run->decoder);
    cuda_check(cudaStreamSynchronize(stream), "prepare");
    Decoder<T>& d = run->decoder;
    const index_t batch = GetParam().batch;
    for (index_t b = 0; b < batch; ++b) d.ids(b) = b + 1;
    run->scratch = std::make_unique<DeviceMemory>(run->model.workspace_bytes(cuda_, batch, 1));
    run->scratch->poison(true);
    done(run->graph.record(run->cuda, [&] {
      return run->model.step(run->cuda, d.ids, d.logits, d.state.rows(0, batch),
                             run->scratch->arena());
    }));
  }
};

TEST_P(CudaDecodeAtOnce, GivesTheSameBits) {
  cudaStream_t other = nullptr;
  cuda_check(cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking), "stream");
  {
    Run alone, first, second;
    set_up(&alone, cuda_.stream);
    set_up(&first, cuda_.stream);
    set_up(&second, other);
    constexpr int kSteps = 50;
    for (int t = 0; t < kSteps; ++t) done(alone.graph.launch(alone.cuda));
    for (int t = 0; t < kSteps; ++t) {
      for (Run* run : {&first, &second}) EXPECT_TRUE(run->graph.launch(run->cuda).is_ok());
    }
    cuda_check(cudaDeviceSynchronize(), "kernels");
    EXPECT_EQ(first.result(), alone.result());
    EXPECT_EQ(second.result(), alone.result());
  }
  cuda_check(cudaStreamDestroy(other), "stream");
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaDecodeAtOnce,
                         testing::Values(DecodeCase{"narrow", block_of(8, 16, 16, 4, 8), 1, true},
                                         DecodeCase{"wide", block_of(312, 2504, 16, 4, 24), 3,
                                                    true}),
                         name_of);

// A block of random weights beside states of four sequences.
template <class T>
class BlockStep : public OnPinnedMemory {
 protected:
  void build(const ssm::MambaConfig& config, index_t states) {
    const auto weights = pinned(&weight_memory_, [&](ssm::Arena& arena) {
      return ssm::MambaParameters<T>::carve(config, arena);
    });
    ssm::Random random(3);
    ssm::initialize(config, weights, random);
    prepared_ = Pinned(block_.prepared_bytes(cuda_, config));
    done(block_.prepare(cuda_, config, weights, prepared_.arena()));
    state_ = pinned(&state_memory_, [&](ssm::Arena& arena) {
      return ssm::MambaState<T>::carve(config, states, arena);
    });
  }

  Pinned weight_memory_, state_memory_, prepared_;
  ssm::MambaBlock<T, ssm::Cuda> block_;
  ssm::MambaState<T> state_;
};

template <class T>
class CudaSixteenBitState : public BlockStep<T> {};
using SixteenBits = testing::Types<ssm::bf16, ssm::f16>;
TYPED_TEST_SUITE(CudaSixteenBitState, SixteenBits);

// From the same state, a step on 16 bits has the bits of a step in float, the new state rounded.
TYPED_TEST(CudaSixteenBitState, IsTheRoundedState) {
  using T = TypeParam;
  using ssm::bf16;
  ssm::MambaConfig c = block_of(64, 132, 16, 4, 8);
  // Of 136 channels, convolution and x_proj are one kernel.
  for (const index_t d_inner : {132, 136}) {
    for (const index_t d_state : {16, 20}) {
      for (const index_t d_conv : {1, 4, 7}) {
        for (const index_t batch : {1, 3, 5, 17}) {
          SCOPED_TRACE("d_inner " + std::to_string(d_inner) + ", d_state " +
                       std::to_string(d_state) + ", d_conv " + std::to_string(d_conv) + ", batch " +
                       std::to_string(batch));
          c.d_inner = d_inner;
          c.d_state = d_state;
          c.d_conv = d_conv;
          this->build(c, batch);
          ssm::Random random(4);
          Pinned halves_memory;
          const auto halves = pinned(&halves_memory, [&](ssm::Arena& arena) {
            return ssm::MambaState<T, bf16>::carve(c, batch, arena);
          });
          for (const View<bf16, 3>& v : {halves.conv, halves.ssm}) {
            for (index_t i = 0; i < v.size(); ++i) v.data()[i] = bf16(float(random.normal()));
          }
          this->done(convert(this->cuda_, halves, this->state_));
          View<T, 3> x, y, y_of_halves;
          const Pinned x_memory = Pinned::of(&x, {batch, 1, c.d_model});
          const Pinned y_memory = Pinned::of(&y, {batch, 1, c.d_model});
          const Pinned more_memory = Pinned::of(&y_of_halves, {batch, 1, c.d_model});
          for (index_t i = 0; i < x.size(); ++i) x.data()[i] = T(float(random.normal()));
          const Pinned scratch(this->block_.workspace_bytes(this->cuda_, batch, 1));
          this->done(this->block_.step(this->cuda_, x.select(1, 0), y.select(1, 0), this->state_,
                                       scratch.arena()));
          this->done(this->block_.step(this->cuda_, x.select(1, 0), y_of_halves.select(1, 0),
                                       halves, scratch.arena()));
          EXPECT_EQ(flat(y), flat(y_of_halves));
          const auto rounded = [](const View<float, 3>& v) {
            std::vector<double> all = flat(v);
            for (double& one : all) one = double(float(bf16(float(one))));
            return all;
          };
          EXPECT_EQ(rounded(this->state_.conv), flat(halves.conv));
          EXPECT_EQ(rounded(this->state_.ssm), flat(halves.ssm));
        }
      }
    }
  }
}

TEST(CudaSixteenBitStates, BlockThatNoFusedStepTakesIsRefused) {
  const ssm::MambaBlock<ssm::bf16, ssm::Cuda> block;
  const ssm::MambaState<ssm::bf16, ssm::bf16> state;
  const ssm::Status status = block.step(ssm::Cuda{}, {}, {}, state, ssm::Arena(nullptr, 0));
  EXPECT_STREQ(status.message().text, "MambaBlock::step: block is not prepared");
}

using CudaBlockStep = BlockStep<float>;

// A skipped row touches no state, and a state that no row names keeps its bits.
TEST_F(CudaBlockStep, StepLeavesOtherStatesAlone) {
  for (const index_t batch : {2, 8}) {
    SCOPED_TRACE(batch);
    build(ssm::mamba_config(64), 4);
    ssm::Random random(4);
    const auto bits = [&](index_t slot) {
      auto all = flat(state_.conv.slice(0, slot, 1));
      const auto more = flat(state_.ssm.slice(0, slot, 1));
      all.insert(all.end(), more.begin(), more.end());
      return all;
    };
    for (index_t i = 0; i < state_.conv.size(); ++i) state_.conv.data()[i] = 0.5f;
    for (index_t i = 0; i < state_.ssm.size(); ++i) state_.ssm.data()[i] = 0.25f;
    View<float, 2> x, y;
    View<index_t, 1> slots;
    const Pinned x_memory = Pinned::of(&x, {batch, 64});
    const Pinned y_memory = Pinned::of(&y, {batch, 64});
    const Pinned slot_memory = Pinned::of(&slots, {batch});
    for (index_t i = 0; i < x.size(); ++i) x.data()[i] = static_cast<float>(random.normal());
    for (index_t b = 0; b < batch; ++b) slots(b) = b == 1 ? 2 : -1;
    const auto before = bits(2);
    const auto other = bits(1);
    const Pinned scratch(block_.workspace_bytes(cuda_, batch, 1));
    done(block_.step(cuda_, x, y, state_, scratch.arena(), slots));
    EXPECT_NE(bits(2), before);
    for (const index_t slot : {0, 1, 3}) EXPECT_EQ(bits(slot), other) << slot;
    for (index_t i = 0; i < 64; ++i) EXPECT_TRUE(std::isfinite(y(1, i)));
  }
}

TEST_F(CudaBlockStep, StepNamesBadInput) {
  build(ssm::mamba_config(16), 4);
  View<float, 2> x, y;
  View<index_t, 1> slots;
  const Pinned x_memory = Pinned::of(&x, {2, 16});
  const Pinned y_memory = Pinned::of(&y, {2, 16});
  const Pinned slot_memory = Pinned::of(&slots, {2});
  const Pinned scratch(block_.workspace_bytes(cuda_, 2, 1));
  const auto step = [&](const View<float, 2>& in, const View<const index_t, 1>& chosen,
                        ssm::Arena arena) {
    return std::string(block_.step(cuda_, in, y, state_, arena, chosen).message().text);
  };
  EXPECT_EQ(step(x, {}, scratch.arena()), "mamba_step: conv.extent(0) is 4, must equal 2");
  EXPECT_EQ(step(x, slots.slice(0, 0, 1), scratch.arena()),
            "mamba_step: slots.extent(0) is 1, must equal 2");
  EXPECT_EQ(step(x.slice(1, 0, 15), slots, scratch.arena()),
            "mamba_step: x.extent(1) is 15, must equal 16");
  EXPECT_NE(step(x, slots, ssm::Arena(nullptr, 0)).find("workspace bytes is 0, must be at least"),
            std::string::npos);
}

}  // namespace
}  // namespace ssm_test
