#include <cstdint>
#include <string>
#include <string_view>

#include "fuzz/require.hpp"
#include "ssm/io/huggingface_config.hpp"

// Any text: either an error with a message and an untouched configuration, or one whose every size
// is in range and which survives being written and read.

namespace io = ssm::io;
using ssm_test::require;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  io::HuggingFaceConfig config;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const io::Result result = io::parse_config(text, "config.json", &config);
  require(result.is_ok() == result.message().empty());
  if (!result) {
    require(config.hidden_size == 0 && config.vocab_size == 0);
    return 0;
  }
  for (const ssm::index_t dimension :
       {config.hidden_size, config.intermediate_size, config.state_size, config.conv_kernel,
        config.time_step_rank, config.num_hidden_layers, config.vocab_size,
        config.pad_vocab_size_multiple}) {
    require(dimension >= 1 && dimension <= (ssm::index_t{1} << 31));
  }
  require(config.layer_norm_epsilon >= 0 && config.mixer_rms_eps >= 0);
  require(config.padded_vocab_size() >= config.vocab_size);

  std::string written;
  require(io::write_config(config, io::KeyStyle::huggingface, "float32", &written).is_ok());
  config.vocab_size = config.padded_vocab_size();
  io::HuggingFaceConfig again;
  const bool fits = config.vocab_size <= (ssm::index_t{1} << 31);
  require(io::parse_config(written, "config.json", &again).is_ok() == fits);
  if (fits) {
    require(again.hidden_size == config.hidden_size);
    require(again.intermediate_size == config.intermediate_size);
    require(again.time_step_rank == config.time_step_rank);
    require(again.vocab_size == config.vocab_size);
    require(again.layer_norm_epsilon == config.layer_norm_epsilon);
    require(again.eos_token_ids == config.eos_token_ids);
  }
  return 0;
}
