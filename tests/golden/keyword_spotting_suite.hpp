#pragma once

#include "golden/keyword_spotter.hpp"

// The published logits of the trained keyword spotter, whole, in chunks and frame by frame.
namespace ssm_test {

template <class On>
class KeywordSpottingSuite : public KeywordSpotter<On> {};
TYPED_TEST_SUITE_P(KeywordSpottingSuite);

TYPED_TEST_P(KeywordSpottingSuite, WholeUtterance) { this->expect_the_published_logits(100); }
TYPED_TEST_P(KeywordSpottingSuite, InChunksOfSeven) { this->expect_the_published_logits(7); }
TYPED_TEST_P(KeywordSpottingSuite, FrameByFrame) { this->expect_the_published_logits(1); }

REGISTER_TYPED_TEST_SUITE_P(KeywordSpottingSuite, WholeUtterance, InChunksOfSeven, FrameByFrame);

}  // namespace ssm_test
