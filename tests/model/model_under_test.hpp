#pragma once

#include "block/block_under_test.hpp"
#include "ssm/model/language_model.hpp"

// A LanguageModel<T, Backend> on random weights with memory of its own.
namespace ssm_test {

template <class On>
class ModelUnderTest {
 public:
  using T = typename On::T;
  using Accum = ssm::accum_t<T>;
  using Backend = typename On::Backend;
  using Model = ssm::LanguageModel<T, Backend>;
  using LogitsArray = ssm::Owned<Accum, 3>;

  explicit ModelUnderTest(bool tied = true) {
    config.block = ssm::mamba_config(10);
    config.block.d_state = 4;
    config.n_layer = 3;
    config.vocab_size = 23;
    config.tie_embeddings = tied;
    weights = weight_memory.carve([&](ssm::Arena& arena) {
      return ssm::LanguageModelParameters<T>::carve(config, arena, arena);
    });
    ssm::Random random(9);
    ssm::initialize(config, weights, random);
    prepare(ssm::WeightFormat::native);
  }

  void prepare(ssm::WeightFormat format) {
    const auto bytes = Model::prepared_bytes(backend, config, format);
    host_memory = ssm::OwnedWorkspace(bytes.host);
    data_memory = ssm::OwnedWorkspace(bytes.data);
    SSM_EXPECT_OK(
        model.prepare(backend, config, weights, host_memory.arena(), data_memory.arena(), format));
  }

  ssm::Owned<ssm::index_t, 2> random_ids(ssm::index_t batch, ssm::index_t length) const {
    ssm::Owned<ssm::index_t, 2> ids({batch, length});
    ssm::Random random(17);
    for (std::size_t i = 0; i < ids.size(); ++i) ids.data()[i] = random.below(config.vocab_size);
    return ids;
  }

  struct StateMemory {
    ssm::OwnedWorkspace memory;
    ssm::LanguageModelState<T> state;
  };
  StateMemory zero_state(ssm::index_t sequences) const {
    StateMemory s;
    s.state = s.memory.carve([&](ssm::Arena& arena) {
      return ssm::LanguageModelState<T>::carve(config, sequences, arena);
    });
    ssm::set_zero(s.state);
    return s;
  }

  LogitsArray run(const ssm::View<const ssm::index_t, 2>& ids,
                  const ssm::LanguageModelState<T>& state, ssm::Logits which = ssm::Logits::all,
                  const ssm::Sequences& sequences = {}) const {
    const ssm::index_t rows = which == ssm::Logits::all ? ids.extent(1) : 1;
    LogitsArray logits({ids.extent(0), rows, config.vocab_size});
    for (std::size_t i = 0; i < logits.size(); ++i) {
      logits.data()[i] = std::numeric_limits<Accum>::quiet_NaN();
    }
    ssm::OwnedWorkspace scratch(model.workspace_bytes(backend, ids.extent(0), ids.extent(1)));
    SSM_EXPECT_OK(
        model.forward(backend, ids, logits.view(), state, scratch.arena(), which, sequences));
    return logits;
  }

  ssm::LanguageModelConfig config;
  Backend backend = On::backend();
  ssm::OwnedWorkspace weight_memory, host_memory, data_memory;
  ssm::LanguageModelParameters<T> weights;
  Model model;
};

}  // namespace ssm_test
