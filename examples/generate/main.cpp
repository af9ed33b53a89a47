// Generates tokens with a Mamba checkpoint: a directory with config.json and model.safetensors, as
// Hugging Face writes them for model_type mamba and falcon_mamba.
//
//   generate [checkpoint] [options] [prompt token ids…]
//
//   --prompt TEXT            for checkpoints whose tokens are bytes
//   --tokens N               tokens to generate (64; of bytes 512)
//   --temperature T          0 is greedy (0; for bytes 0.8)
//   --top-k K  --top-p P  --repetition-penalty R  --seed S
//   --ignore-eos             keep going after an end-of-sequence token
//
// There is no tokenizer here: the prompt is token ids (default: the checkpoint's bos token), and so
// is the output. But where the checkpoint's tokens are bytes ("tokenizer": "bytes" in config.json)
// prompt and output are text. Without a checkpoint it is the one in the folder model/ beside this
// file, a byte-level model that examples/train has trained, if that is there.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include <ssm/io/huggingface.hpp>
#include <ssm/owned.hpp>
#include <ssm/ssm.hpp>

namespace {

bool succeeded(const ssm::Status& status) {
  if (!status) std::fprintf(stderr, "error: %s\n", status.message().text);
  return status.is_ok();
}
bool succeeded(const ssm::io::Result& result) {
  if (!result) std::fprintf(stderr, "error: %s\n", result.message().c_str());
  return result.is_ok();
}

struct Options {
  const char* checkpoint = nullptr;
  const char* text = nullptr;  // the prompt of a byte-level model
  ssm::index_t tokens = -1;    // the default
  bool ignore_eos = false;
  std::uint64_t seed = 0;
  ssm::SamplerConfig sampler;
  std::vector<ssm::index_t> prompt;
};

// False, with a message, for anything that is not understood.
bool parse(int argc, char** argv, Options* options) {
  options->sampler.temperature = -1;  // the default
  for (int i = 1; i < argc; ++i) {
    const auto is = [&](const char* name) { return std::strcmp(argv[i], name) == 0; };
    char* end = nullptr;
    const auto number = [&] { return i + 1 < argc ? std::strtod(argv[++i], &end) : 0.0; };
    if (is("--ignore-eos")) {
      options->ignore_eos = true;
      continue;
    }
    if (is("--prompt") && i + 1 < argc) {
      options->text = argv[++i];
      continue;
    }
    if (is("--tokens")) {
      options->tokens = static_cast<ssm::index_t>(number());
    } else if (is("--temperature")) {
      options->sampler.temperature = number();
    } else if (is("--top-k")) {
      options->sampler.top_k = static_cast<ssm::index_t>(number());
    } else if (is("--top-p")) {
      options->sampler.top_p = number();
    } else if (is("--repetition-penalty")) {
      options->sampler.repetition_penalty = number();
    } else if (is("--seed")) {
      options->seed = static_cast<std::uint64_t>(number());
    } else if (options->checkpoint == nullptr && argv[i][0] != '-') {
      options->checkpoint = argv[i];
      continue;
    } else {
      options->prompt.push_back(std::strtoll(argv[i], &end, 10));
    }
    if (end == nullptr || end == argv[i] || *end != '\0') {
      std::fprintf(stderr, "error: '%s' is not understood\n", argv[i]);
      return false;
    }
  }
#if defined(SSM_GENERATE_MODEL)
  std::error_code ignored;
  if (options->checkpoint == nullptr &&
      std::filesystem::exists(SSM_GENERATE_MODEL "/config.json", ignored)) {
    options->checkpoint = SSM_GENERATE_MODEL;
  }
#endif
  return options->checkpoint != nullptr;
}

// The prompt as tokens, and the defaults that depend on what tokens are.
void complete(bool bytes, ssm::index_t first_token, Options* options) {
  const std::string text = options->text == nullptr ? "" : options->text;
  for (const char c : text) options->prompt.push_back(static_cast<unsigned char>(c));
  if (options->prompt.empty()) options->prompt.push_back(bytes ? '\n' : first_token);
  if (options->tokens < 0) options->tokens = bytes ? 512 : 64;
  if (options->sampler.temperature < 0) options->sampler.temperature = bytes ? 0.8 : 0;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, &options)) {
    std::fprintf(stderr,
                 "usage: generate [checkpoint] [--tokens N] [--temperature T] [--top-k K]\n"
                 "         [--top-p P] [--repetition-penalty R] [--seed S] [--ignore-eos]\n"
                 "         [--prompt TEXT] [prompt token ids...]\n");
    return 2;
  }
  using Model = ssm::LanguageModel<float>;
  const ssm::Cpu cpu;

  // The checkpoint, converted to float.
  ssm::io::Checkpoint checkpoint;
  if (!succeeded(ssm::io::Checkpoint::open(options.checkpoint, &checkpoint))) return 1;
  const auto& file_config = checkpoint.config();
  const auto config = ssm::io::model_config<ssm::LanguageModelConfig>(file_config);
  if (!succeeded(validate(config))) return 1;
  ssm::OwnedWorkspace weight_memory;
  const auto weights = weight_memory.carve([&](ssm::Arena& arena) {
    return ssm::LanguageModelParameters<float>::carve(config, arena, arena);
  });
  if (!succeeded(load_parameters(checkpoint, weights))) return 1;

  // The model: the weights, and what is computed from them once.
  Model model;
  const Model::PreparedBytes prepared = Model::prepared_bytes(cpu, config);
  const ssm::OwnedWorkspace host(prepared.host);
  const ssm::OwnedWorkspace data(prepared.data);
  if (!succeeded(model.prepare(cpu, config, weights, host.arena(), data.arena()))) return 1;

  const bool bytes = file_config.tokenizer == "bytes" && file_config.vocab_size == 256;
  if (options.text != nullptr && !bytes) {
    std::fprintf(stderr, "error: --prompt: the tokens of %s are not bytes\n", options.checkpoint);
    return 1;
  }
  complete(bytes, file_config.bos_token_id.value_or(0), &options);
  const auto prompt_length = static_cast<ssm::index_t>(options.prompt.size());
  std::vector<ssm::index_t> tokens = options.prompt;
  tokens.reserve(static_cast<std::size_t>(prompt_length + options.tokens));

  ssm::OwnedWorkspace state_memory;
  const auto state = state_memory.carve([&](ssm::Arena& arena) {
    return ssm::LanguageModelState<float>::carve(config, /*sequences=*/1, arena);
  });
  set_zero(state);
  const ssm::OwnedWorkspace workspace(model.workspace_bytes(cpu, /*batch=*/1, prompt_length));
  const ssm::OwnedWorkspace sampling(ssm::Sampler::workspace_bytes(file_config.vocab_size));
  ssm::Owned<float, 2> logits({1, config.vocab_size});
  const auto vocabulary = logits.view().select(0, 0).slice(0, 0, file_config.vocab_size);
  ssm::Sampler sampler(options.sampler, options.seed);

  // The prompt in one call, then token by token.
  const auto prefill_start = std::chrono::steady_clock::now();
  const ssm::View<const ssm::index_t, 2> prompt(options.prompt.data(), {1, prompt_length});
  const ssm::View<float, 3> last_logits(logits.data(), {1, 1, config.vocab_size});
  if (!succeeded(
          model.forward(cpu, prompt, last_logits, state, workspace.arena(), ssm::Logits::last))) {
    return 1;
  }
  const double prefill = seconds_since(prefill_start);

  const auto decode_start = std::chrono::steady_clock::now();
  const auto& eos = file_config.eos_token_ids;
  for (ssm::index_t n = 0; n < options.tokens; ++n) {
    const ssm::View<const ssm::index_t, 1> history(tokens.data(),
                                                   {static_cast<ssm::index_t>(tokens.size())});
    ssm::index_t token = 0;
    if (!succeeded(sampler.sample<float>(vocabulary, history, sampling.arena(), &token))) return 1;
    tokens.push_back(token);
    if (!options.ignore_eos && std::find(eos.begin(), eos.end(), token) != eos.end()) break;
    const ssm::View<const ssm::index_t, 1> next(&tokens.back(), {1});
    if (!succeeded(model.step(cpu, next, logits.view(), state, workspace.arena()))) return 1;
  }
  const double decode = seconds_since(decode_start);

  const auto generated = static_cast<ssm::index_t>(tokens.size()) - prompt_length;
  std::printf("%lld parameters, %lld layers\n",
              static_cast<long long>(ssm::parameter_count(config)),
              static_cast<long long>(config.n_layer));
  const auto show = [&](std::size_t begin, std::size_t end) {
    for (auto i = begin; i < end; ++i) {
      if (bytes) {
        std::printf("%c", static_cast<int>(tokens[i]));
      } else {
        std::printf(" %lld", static_cast<long long>(tokens[i]));
      }
    }
  };
  std::fputs(bytes ? "" : "prompt:", stdout);
  show(0, options.prompt.size());
  std::fputs(bytes ? "" : "\ngenerated:", stdout);
  show(options.prompt.size(), tokens.size());
  std::printf("\nprompt %lld tokens in %.3g s, %.0f tokens/s\n",
              static_cast<long long>(prompt_length), prefill,
              static_cast<double>(prompt_length) / prefill);
  std::printf("generated %lld tokens in %.3g s, %.0f tokens/s\n", static_cast<long long>(generated),
              decode, static_cast<double>(generated) / decode);
  return 0;
}
