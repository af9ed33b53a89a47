#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <vector>

#include <ssm/io/huggingface.hpp>
#include <ssm/model/sampler.hpp>
#include <ssm/ssm.hpp>

// What is asked of a checkpoint, and what comes of it, on any device.

struct Request {
  const ssm::io::Checkpoint& checkpoint;
  const ssm::LanguageModelConfig& config;
  const std::vector<ssm::index_t>& prompt;
  ssm::index_t tokens;
  ssm::SamplerConfig sampler;
  std::uint64_t seed;
  bool ignore_eos;

  bool ends_with(ssm::index_t token) const {
    const auto& eos = checkpoint.config().eos_token_ids;
    return !ignore_eos && std::find(eos.begin(), eos.end(), token) != eos.end();
  }
};

struct Generated {
  std::vector<ssm::index_t> tokens;
  double prompt_seconds = 0, seconds = 0;
};

// False, after a message, if something is wrong.
using Generator = bool (*)(const Request&, Generated*);
bool generate_on_cpu(const Request& request, Generated* out);
bool generate_on_cuda(const Request& request, Generated* out);
bool cuda_device_present();

inline bool succeeded(const ssm::Status& status) {
  if (!status) std::fprintf(stderr, "error: %s\n", status.message().text);
  return status.is_ok();
}
inline bool succeeded(const ssm::io::Result& result) {
  if (!result) std::fprintf(stderr, "error: %s\n", result.message().c_str());
  return result.is_ok();
}

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
