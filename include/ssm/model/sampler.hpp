#pragma once

#include <algorithm>
#include <cmath>

#include "ssm/core/arena.hpp"
#include "ssm/core/check.hpp"
#include "ssm/core/random.hpp"
#include "ssm/ops/sample.hpp"

SSM_NAMESPACE_BEGIN

// Draws tokens in host memory. The same seed, logits and history give the same tokens on every
// platform whose logits agree.
class Sampler {
 public:
  Sampler(const SamplerConfig& config, std::uint64_t seed) noexcept
      : config_(config), random_(seed) {}

  static std::size_t workspace_bytes(index_t vocab_size) noexcept {
    Arena counter;
    counter.allocate<Candidate>(vocab_size);
    return counter.bytes_needed();
  }

  // logits (vocab_size): slice away vocabulary padding before the call; NaN is an error. history:
  // the tokens that the repetition penalty looks at, each in [0, vocab_size); may be absent. On
  // error `token` is not written and no random number is drawn.
  template <class R>
  Status sample(const View<const R, 1>& logits, const View<const index_t, 1>& history,
                Arena workspace, index_t* token) noexcept {
    const index_t vocab_size = logits.extent(0);
    Check check("Sampler::sample");
    check.also(validate(config_))
        .array("logits", logits)
        .at_least("logits.extent(0)", vocab_size, index_t{1})
        .require(token != nullptr, ErrorCode::invalid_argument, "token", "must not be null");
    for (index_t i = 0; i < history.extent(0) && check.passed(); ++i) {
      check.at_least("history value", history(i), index_t{0})
          .at_most("history value", history(i), vocab_size - 1);
    }
    Candidate* const candidates = workspace.allocate<Candidate>(vocab_size);
    check.also(workspace.status("Sampler::sample"));
    for (index_t i = 0; i < vocab_size && check.passed(); ++i) {
      const double logit = static_cast<double>(logits(i));
      candidates[i] = {logit, i};
      check.require(!std::isnan(logit), ErrorCode::invalid_argument, "logits", "must not hold NaN");
    }
    if (!check.passed()) return check.status();
    penalize(logits, history, candidates);
    *token = config_.temperature == 0
                 ? std::max_element(candidates, candidates + vocab_size, Candidate::less)->token
                 : draw(candidates, vocab_size);
    return Status::ok();
  }

 private:
  struct Candidate {
    double logit;
    index_t token;
    // Orders by logit; on a tie the lower token is the larger candidate.
    static bool less(const Candidate& a, const Candidate& b) noexcept {
      return a.logit != b.logit ? a.logit < b.logit : a.token > b.token;
    }
    static bool greater(const Candidate& a, const Candidate& b) noexcept { return less(b, a); }
  };

  // Computed from the original logit each time, so that a repeated token is penalised once.
  template <class R>
  void penalize(const View<const R, 1>& logits, const View<const index_t, 1>& history,
                Candidate* candidates) const noexcept {
    const double penalty = config_.repetition_penalty;
    for (index_t i = 0; i < history.extent(0); ++i) {
      const double logit = static_cast<double>(logits(history(i)));
      candidates[history(i)].logit = logit > 0 ? logit / penalty : logit * penalty;
    }
  }

  index_t draw(Candidate* candidates, index_t count) noexcept {
    if (config_.top_k > 0 && config_.top_k < count) {
      std::nth_element(candidates, candidates + config_.top_k - 1, candidates + count,
                       Candidate::greater);
      count = config_.top_k;
    }
    std::sort(candidates, candidates + count, Candidate::greater);
    const double largest = candidates[0].logit;
    if (std::isinf(largest))
      return candidates[0].token;  // +inf wins; all -inf has no better choice
    const auto weight = [&](index_t i) {
      return std::exp((candidates[i].logit - largest) / config_.temperature);
    };
    double total = 0;
    for (index_t i = 0; i < count; ++i) total += weight(i);
    double kept = 0;
    index_t nucleus = 0;
    while (nucleus < count && (nucleus == 0 || kept < config_.top_p * total)) {
      kept += weight(nucleus++);
    }
    double remaining = random_.uniform() * kept;
    for (index_t i = 0; i + 1 < nucleus; ++i) {
      remaining -= weight(i);
      if (remaining < 0) return candidates[i].token;
    }
    return candidates[nucleus - 1].token;
  }

  SamplerConfig config_;
  Random random_;
};

SSM_NAMESPACE_END
