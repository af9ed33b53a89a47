#pragma once

#include <algorithm>

#include "ssm/core/check.hpp"
#include "ssm/core/random.hpp"

// The synthetic tasks of the Mamba paper (Gu and Dao 2023, section 4.1 and E.1) as generators of
// sequences. Sequence n of a stream depends on (seed, n) alone, so that any number of threads fills
// a batch with the same tokens, a run resumes from the number of its step, and validation data is a
// stream of its own.

SSM_NAMESPACE_BEGIN

// The generator of sequence `n` >= 0 of the stream `seed`: seeded by the n-th word that
// Random(seed) gives.
inline Random sequence_random(std::uint64_t seed, index_t n) noexcept {
  Random words(seed + static_cast<std::uint64_t>(n) * 0x9e3779b97f4a7c15u);
  return Random(words.next());
}

// Induction heads (Olsson et al. 2022): what followed the prefix token when it came first?
//
//   x_1 … x_p => a x … x =>        answer: a
//
// Tokens 0 … vocabulary - 3 are ordinary, vocabulary - 2 is the prefix "=>", and the last one is
// kept for a no-op that this variant never shows. Ordinary tokens are uniform; the first prefix
// stands at a position uniform on {0, …, length - 3}, where it replaces what was drawn; the
// sequence ends in the second one.
struct InductionHeads {
  index_t vocabulary = 16;
  index_t length = 256;  // with both prefixes, without the answer

  index_t prefix() const noexcept { return vocabulary - 2; }
};

inline Status validate(const InductionHeads& task) noexcept {
  return Check("InductionHeads")
      .at_least("vocabulary", task.vocabulary, index_t{4})
      .at_least("length", task.length, index_t{3})
      .status();
}

// Writes one sequence, ids (length), and returns the answer: the token after the last one.
inline index_t generate(const InductionHeads& task, Random random,
                        const View<index_t, 1>& ids) noexcept {
  for (index_t t = 0; t < task.length; ++t) ids(t) = random.below(task.vocabulary - 2);
  const index_t first = random.below(task.length - 2);
  ids(first) = task.prefix();
  ids(task.length - 1) = task.prefix();
  return ids(first + 1);
}

// Selective copying (Gu and Dao 2023, E.1): the data tokens among noise, to be repeated in order.
//
//   . . a . b . . c . | | |        targets at the markers: a b c
//
// Token 0 is noise, vocabulary - 1 the marker, 1 … vocabulary - 2 are data. `data` tokens stand at
// sorted positions, every set of them as likely, among the first length - data, and `data` markers
// follow: the paper's 4096 is read as the length of it all. The target at the i-th marker is the
// i-th data token.
struct SelectiveCopying {
  index_t vocabulary = 16;
  index_t length = 4096;  // with the markers
  index_t data = 16;
};

inline Status validate(const SelectiveCopying& task) noexcept {
  return Check("SelectiveCopying")
      .at_least("vocabulary", task.vocabulary, index_t{3})
      .at_least("data", task.data, index_t{1})
      .at_least("length", task.length, 2 * task.data)
      .status();
}

// Writes one sequence, ids (length) and targets (data).
inline void generate(const SelectiveCopying& task, Random random, const View<index_t, 1>& ids,
                     const View<index_t, 1>& targets) noexcept {
  const index_t noise = task.length - task.data;
  for (index_t t = 0; t < noise; ++t) ids(t) = 0;
  // A subset without repetition (Floyd's algorithm, Bentley and Floyd 1987).
  for (index_t j = noise - task.data; j < noise; ++j) {
    const index_t t = random.below(j + 1);
    ids(ids(t) == 0 ? t : j) = 1;
  }
  index_t next = 0;
  for (index_t t = 0; t < noise; ++t) {
    if (ids(t) == 0) continue;
    ids(t) = 1 + random.below(task.vocabulary - 2);
    targets(next++) = ids(t);
  }
  for (index_t t = noise; t < task.length; ++t) ids(t) = task.vocabulary - 1;
}

// A bytes-level language model's data: a window of length + 1 bytes at a uniform position of a text
// of at least that many; ids (length) are the bytes, targets (length) the bytes after them.
inline void generate_window(const View<const unsigned char, 1>& text, Random random,
                            const View<index_t, 1>& ids, const View<index_t, 1>& targets) noexcept {
  const index_t length = ids.extent(0);
  const index_t begin = random.below(text.extent(0) - length);
  for (index_t t = 0; t < length; ++t) {
    ids(t) = text(begin + t);
    targets(t) = text(begin + t + 1);
  }
}

SSM_NAMESPACE_END
