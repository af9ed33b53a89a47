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
//   --device D               cpu, or cuda where the program was built with it (the GPU, if there is
//   one)
//
// There is no tokenizer here: the prompt is token ids (default: the checkpoint's bos token), and so
// is the output. But where the checkpoint's tokens are bytes ("tokenizer": "bytes" in config.json)
// prompt and output are text. Without a checkpoint it is the one in the folder model/ beside this
// file, a byte-level model that examples/train has trained, if that is there.

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "generator.hpp"

namespace {

struct Options {
  const char* checkpoint = nullptr;
  const char* text = nullptr;  // the prompt of a byte-level model
  const char* device = nullptr;
  ssm::index_t tokens = -1;  // the default
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
    if (is("--device") && i + 1 < argc) {
      options->device = argv[++i];
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

// Null, with a message, if there is no such device.
Generator generator_on(const char* device) {
#if defined(SSM_GENERATE_CUDA)
  if (device == nullptr) device = cuda_device_present() ? "cuda" : "cpu";
  if (std::strcmp(device, "cuda") == 0) return generate_on_cuda;
#else
  if (device == nullptr) device = "cpu";
#endif
  if (std::strcmp(device, "cpu") == 0) return generate_on_cpu;
  std::fprintf(stderr, "error: --device is '%s', must be cpu or, in a build with CUDA, cuda\n",
               device);
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, &options)) {
    std::fprintf(stderr,
                 "usage: generate [checkpoint] [--tokens N] [--temperature T] [--top-k K]\n"
                 "         [--top-p P] [--repetition-penalty R] [--seed S] [--ignore-eos]\n"
                 "         [--device cpu|cuda] [--prompt TEXT] [prompt token ids...]\n");
    return 2;
  }
  const Generator generate = generator_on(options.device);
  if (generate == nullptr) return 2;
  ssm::io::Checkpoint checkpoint;
  if (!succeeded(ssm::io::Checkpoint::open(options.checkpoint, &checkpoint))) return 1;
  const auto& file_config = checkpoint.config();
  const auto config = ssm::io::model_config<ssm::LanguageModelConfig>(file_config);
  if (!succeeded(validate(config))) return 1;
  const bool bytes = file_config.tokenizer == "bytes" && file_config.vocab_size == 256;
  if (options.text != nullptr && !bytes) {
    std::fprintf(stderr, "error: --prompt: the tokens of %s are not bytes\n", options.checkpoint);
    return 1;
  }
  complete(bytes, file_config.bos_token_id.value_or(0), &options);

  Generated out;
  if (!generate({checkpoint, config, options.prompt, options.tokens, options.sampler, options.seed,
                 options.ignore_eos},
                &out)) {
    return 1;
  }

  std::printf("%lld parameters, %lld layers\n",
              static_cast<long long>(ssm::parameter_count(config)),
              static_cast<long long>(config.n_layer));
  const auto show = [&](const std::vector<ssm::index_t>& tokens) {
    for (const ssm::index_t token : tokens) {
      if (bytes) {
        std::printf("%c", static_cast<int>(token));
      } else {
        std::printf(" %lld", static_cast<long long>(token));
      }
    }
  };
  std::fputs(bytes ? "" : "prompt:", stdout);
  show(options.prompt);
  std::fputs(bytes ? "" : "\ngenerated:", stdout);
  show(out.tokens);
  const auto report = [](const char* what, std::size_t tokens, double seconds) {
    std::printf("%s %zu tokens in %.3g s, %.0f tokens/s\n", what, tokens, seconds,
                static_cast<double>(tokens) / seconds);
  };
  std::printf("\n");
  report("prompt", options.prompt.size(), out.prompt_seconds);
  report("generated", out.tokens.size(), out.seconds);
  return 0;
}
