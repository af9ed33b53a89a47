#include "generator.hpp"

#include <ssm/owned.hpp>

bool generate_on_cpu(const Request& request, Generated* out) {
  using Model = ssm::LanguageModel<float>;
  const ssm::Cpu cpu;
  const ssm::LanguageModelConfig& config = request.config;

  // The checkpoint, converted to float.
  ssm::OwnedWorkspace weight_memory;
  const auto weights = weight_memory.carve([&](ssm::Arena& arena) {
    return ssm::LanguageModelParameters<float>::carve(config, arena, arena);
  });
  if (!succeeded(load_parameters(request.checkpoint, weights))) return false;

  // The model: the weights, and what is computed from them once.
  Model model;
  const Model::PreparedBytes prepared = Model::prepared_bytes(cpu, config);
  const ssm::OwnedWorkspace host(prepared.host);
  const ssm::OwnedWorkspace data(prepared.data);
  if (!succeeded(model.prepare(cpu, config, weights, host.arena(), data.arena()))) return false;

  const auto prompt_length = static_cast<ssm::index_t>(request.prompt.size());
  const ssm::index_t vocab_size = request.checkpoint.config().vocab_size;
  std::vector<ssm::index_t> tokens = request.prompt;
  tokens.reserve(static_cast<std::size_t>(prompt_length + request.tokens));
  ssm::OwnedWorkspace state_memory;
  const auto state = state_memory.carve([&](ssm::Arena& arena) {
    return ssm::LanguageModelState<float>::carve(config, /*sequences=*/1, arena);
  });
  set_zero(state);
  const ssm::OwnedWorkspace workspace(model.workspace_bytes(cpu, /*batch=*/1, prompt_length));
  const ssm::OwnedWorkspace sampling(ssm::Sampler::workspace_bytes(vocab_size));
  ssm::Owned<float, 2> logits({1, config.vocab_size});
  const auto vocabulary = logits.view().select(0, 0).slice(0, 0, vocab_size);
  ssm::Sampler sampler(request.sampler, request.seed);

  // The prompt in one call, then token by token.
  auto start = std::chrono::steady_clock::now();
  const ssm::View<const ssm::index_t, 2> prompt(request.prompt.data(), {1, prompt_length});
  const ssm::View<float, 3> last_logits(logits.data(), {1, 1, config.vocab_size});
  if (!succeeded(
          model.forward(cpu, prompt, last_logits, state, workspace.arena(), ssm::Logits::last))) {
    return false;
  }
  out->prompt_seconds = seconds_since(start);

  start = std::chrono::steady_clock::now();
  for (ssm::index_t n = 0; n < request.tokens; ++n) {
    const ssm::View<const ssm::index_t, 1> history(tokens.data(),
                                                   {static_cast<ssm::index_t>(tokens.size())});
    ssm::index_t token = 0;
    if (!succeeded(sampler.sample<float>(vocabulary, history, sampling.arena(), &token))) {
      return false;
    }
    tokens.push_back(token);
    if (request.ends_with(token)) break;
    const ssm::View<const ssm::index_t, 1> next(&tokens.back(), {1});
    if (!succeeded(model.step(cpu, next, logits.view(), state, workspace.arena()))) return false;
  }
  out->seconds = seconds_since(start);
  out->tokens.assign(tokens.begin() + prompt_length, tokens.end());
  return true;
}
