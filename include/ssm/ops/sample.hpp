#pragma once

#include <cstdint>

#include "ssm/core/check.hpp"

SSM_NAMESPACE_BEGIN

// How the next token is chosen from its logits, applied in this order:
//
//   repetition  logits of tokens in the history are divided by `repetition_penalty` if positive and
//               multiplied by it if negative (Keskar et al. 2019), once per distinct token
//   temperature logits / temperature; 0 means greedy: the largest logit, the lowest token on a tie
//   top-k       only the k largest; 0 means all
//   top-p       only the smallest set of the most probable whose probabilities reach p
//               (Holtzman et al. 2020), at least one
struct SamplerConfig {
  double temperature = 1;         // >= 0
  index_t top_k = 0;              // >= 0
  double top_p = 1;               // (0, 1]
  double repetition_penalty = 1;  // > 0
};

inline Status validate(const SamplerConfig& c) noexcept {
  return Check("SamplerConfig")
      .at_least("temperature", c.temperature, 0.0)
      .at_least("top_k", c.top_k, index_t{0})
      .greater("top_p", c.top_p, 0.0)
      .at_most("top_p", c.top_p, 1.0)
      .greater("repetition_penalty", c.repetition_penalty, 0.0)
      .status();
}

// Draws the next token of every row where its logits are, for backends whose memory the host does
// not read; on the host Sampler does this. Row b has a generator of its own: the same seed, logits
// and history give Sampler's tokens, but where a probability is within rounding of a boundary.
template <class R>
struct SampleArgs {
  View<const R, 2> logits;        // (batch, vocab_size): slice away vocabulary padding; a row with
                                  // NaN gets the token -1
  View<std::uint64_t, 1> random;  // (batch), Random::state() of each row, moved on; optional if
                                  // temperature is 0
  View<unsigned char, 2> seen;    // (batch, vocab_size), optional: nonzero for the tokens that the
                                  // repetition penalty looks at; the one drawn is marked
  View<index_t, 1> token;         // (batch), output
  SamplerConfig config = {};
};

// Every condition that needs no element.
template <class R>
Status check_shapes(const SampleArgs<R>& a) noexcept {
  const index_t batch = a.logits.extent(0);
  const index_t vocab_size = a.logits.extent(1);
  Check check("sample");
  check.also(validate(a.config))
      .array("logits", a.logits)
      .at_least("logits.extent(1) (vocab_size)", vocab_size, index_t{1})
      .at_most("logits.extent(1) (vocab_size)", vocab_size, index_t{1} << 20)
      .require(a.config.temperature == 0 || a.random.present(), ErrorCode::invalid_argument,
               "random", "must be present unless temperature is 0")
      .optional_shape("random", a.random, {batch})
      .require(a.config.repetition_penalty == 1 || a.seen.present(), ErrorCode::invalid_argument,
               "seen", "must be present unless repetition_penalty is 1")
      .optional_shape("seen", a.seen, {batch, vocab_size})
      .shape("token", a.token, {batch});
  return check.status();
}

// Chosen only when the backend's own header is missing.
template <class Backend, class R>
Status sample(const Backend&, const SampleArgs<R>&) {
  static_assert(
      sizeof(Backend) == 0,
      "no sample for this backend: include <ssm/cuda/sample.hpp>; on the host use Sampler");
  return Status::ok();
}

SSM_NAMESPACE_END
