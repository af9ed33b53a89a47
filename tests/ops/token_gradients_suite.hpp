#pragma once

#include <limits>

#include "ops/run_backward.hpp"
#include "support/differences.hpp"
#include "support/gradient.hpp"

// The two ends of a language model, and the residual stream between them: cross-entropy, the
// embedding's gradient and residual_add.
//
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, EmbeddingBackwardSuite, testing::Types<OnTarget<…>, …>, …);
namespace ssm_test {

template <class Target_, class T_>
struct OnTarget {
  using Target = Target_;
  using T = T_;
  static std::string name() { return type_name<T>(); }
};

// Small integers: exact in any order.
template <class Types>
class EmbeddingBackwardSuite : public testing::Test {};
TYPED_TEST_SUITE_P(EmbeddingBackwardSuite);

TYPED_TEST_P(EmbeddingBackwardSuite, SumsTheRowsOfEachToken) {
  using T = typename TypeParam::T;
  using Accum = ssm::accum_t<T>;
  for (const Layout layout : kAllLayouts) {
    for (const ssm::GradMode mode : kGradModes) {
      for (const index_t features : {1, 3, 16, 33}) {
        for (const index_t length : {0, 1, 9}) {
          Random random(2);
          const Tensor<index_t, 2> ids({2, length}, layout);
          ids.fill_integers(random, 0, 4);  // of a vocabulary of seven
          const Tensor<Accum, 3> dy({2, length, features}, layout);
          dy.fill_integers(random, -9, 9);
          const GradientArray<Accum, 2> dweight({7, features}, layout, mode, random);
          if (mode == ssm::GradMode::accumulate) dweight.tensor.fill(3);
          ssm::EmbeddingGradArgs<T> a{ids.view(), dy.view(), dweight.view(), mode};
          ASSERT_TRUE(run<typename TypeParam::Target>(a).is_ok());
          if (mode == ssm::GradMode::ignore) {
            EXPECT_TRUE(dweight.tensor.untouched());
            continue;
          }
          for (index_t v = 0; v < 7; ++v) {
            for (index_t i = 0; i < features; ++i) {
              oracle::Real sum = mode == ssm::GradMode::accumulate ? 3 : 0;
              for (index_t b = 0; b < 2; ++b) {
                for (index_t t = 0; t < length; ++t) {
                  if (ids(b, t) == v) sum += to_real(dy(b, t, i));
                }
              }
              ASSERT_EQ(to_real(dweight.tensor(v, i)), sum);
            }
          }
          EXPECT_TRUE(dweight.tensor.guards_intact());
        }
      }
    }
  }
}

TYPED_TEST_P(EmbeddingBackwardSuite, BadArgumentsAreNamedAndNothingIsWritten) {
  using T = typename TypeParam::T;
  using Accum = ssm::accum_t<T>;
  using Args = ssm::EmbeddingGradArgs<T>;
  using ssm::ErrorCode;
  const Tensor<index_t, 2> ids({2, 3});
  ids.fill(1);
  const Tensor<Accum, 3> dy({2, 3, 4});
  const Tensor<Accum, 2> dweight({7, 4});
  const auto refused = [&](const char* argument, ErrorCode code, auto spoil) {
    Args a{ids.view(), dy.view(), dweight.view()};
    spoil(a);
    expect_refused(run<typename TypeParam::Target>(a), "embedding_backward", argument, code);
    EXPECT_TRUE(dweight.untouched());
  };
  refused("dy", ErrorCode::shape_mismatch, [](Args& a) { a.dy = a.dy.slice(2, 0, 3); });
  refused("dweight", ErrorCode::invalid_argument, [](Args& a) { a.dweight = {nullptr, {7, 4}}; });
  expect_counter_refused<typename TypeParam::Target>(
      "embedding_backward", Args{ids.view(), dy.view(), dweight.view()},
      [](const auto& backend, const Args& a, ssm::Arena arena) {
        return embedding_backward(backend, a, arena);
      });
  EXPECT_TRUE(dweight.untouched());
  if (!TypeParam::Target::kChecksValues) return;
  for (const index_t id : {-1, 7}) {
    ids(1, 2) = id;
    refused("ids", ErrorCode::invalid_argument, [](Args&) {});
  }
}

// More tokens than are sorted at a time; of a few ids and of many, some of which are frequent.
TYPED_TEST_P(EmbeddingBackwardSuite, ManyTokens) {
  using T = typename TypeParam::T;
  using Accum = ssm::accum_t<T>;
  for (const auto& [vocabulary, features] :
       {std::pair<index_t, index_t>{5, 3}, {700, 1030}, {60000, 40}}) {
    for (const index_t length : {683, 2100}) {
      for (const ssm::GradMode mode : {ssm::GradMode::overwrite, ssm::GradMode::accumulate}) {
        Random random(7);
        const Tensor<index_t, 2> ids({3, length});
        ids.fill_integers(random, 0, vocabulary - 1);
        for (index_t t = 0; t < length; t += 5) ids(1, t) = vocabulary - 2;
        const Tensor<Accum, 3> dy({3, length, features});
        dy.fill_integers(random, -9, 9);
        const Tensor<Accum, 2> dweight({vocabulary, features});
        const double before = mode == ssm::GradMode::accumulate ? 3 : 0;
        if (mode == ssm::GradMode::accumulate) dweight.fill(before);
        std::vector<double> wanted(static_cast<std::size_t>(vocabulary * features), before);
        for (index_t b = 0; b < 3; ++b) {
          for (index_t t = 0; t < length; ++t) {
            for (index_t i = 0; i < features; ++i) {
              wanted[static_cast<std::size_t>(ids(b, t) * features + i)] +=
                  static_cast<double>(dy(b, t, i));
            }
          }
        }
        const ssm::EmbeddingGradArgs<T> a{ids.view(), dy.view(), dweight.view(), mode};
        ASSERT_TRUE(run<typename TypeParam::Target>(a).is_ok());
        const std::vector<Accum> found = dweight.values();
        EXPECT_TRUE(std::equal(wanted.begin(), wanted.end(), found.begin()));
        EXPECT_TRUE(dweight.guards_intact());
      }
    }
  }
}

REGISTER_TYPED_TEST_SUITE_P(EmbeddingBackwardSuite, SumsTheRowsOfEachToken, ManyTokens,
                            BadArgumentsAreNamedAndNothingIsWritten);

template <class Types>
class ResidualAddSuite : public testing::Test {};
TYPED_TEST_SUITE_P(ResidualAddSuite);

TYPED_TEST_P(ResidualAddSuite, AddsInPlaceOrNot) {
  using T = typename TypeParam::T;
  using Accum = ssm::accum_t<T>;
  for (const Layout layout : kAllLayouts) {
    for (const bool in_place : {false, true}) {
      for (const index_t features : {1, 7, 16, 33}) {
        Random random(1);
        const ssm::Extents<3> shape{2, 3, features};
        const Tensor<Accum, 3> residual(shape, layout), y(shape, layout);
        const Tensor<T, 3> x(shape, layout);
        residual.fill(random, -1, 1);
        x.fill(random, -1, 1);
        std::vector<Accum> wanted = residual.values();
        const std::vector<T> added = x.values();
        for (std::size_t i = 0; i < wanted.size(); ++i) wanted[i] += ssm::widen(added[i]);
        ssm::ResidualAddArgs<T> a{residual.view(), x.view(), in_place ? residual.view() : y.view()};
        ASSERT_TRUE(run<typename TypeParam::Target>(a).is_ok());
        EXPECT_EQ((in_place ? residual : y).values(), wanted);
        EXPECT_TRUE((in_place ? residual : y).guards_intact());
      }
    }
  }
  const Tensor<Accum, 3> y({2, 3, 4});
  const Tensor<T, 3> x({2, 3, 5});
  expect_refused(
      run<typename TypeParam::Target>(ssm::ResidualAddArgs<T>{y.view(), x.view(), y.view()}),
      "residual_add", "x", ssm::ErrorCode::shape_mismatch);
}

REGISTER_TYPED_TEST_SUITE_P(ResidualAddSuite, AddsInPlaceOrNot);

// T is float or double.
template <class Types>
class CrossEntropySuite : public testing::Test {
 public:
  using Scalar = typename Types::T;
  static constexpr index_t kIgnore = -100;

  struct Problem {
    explicit Problem(index_t batch = 2, index_t length = 5, index_t vocabulary = 7,
                     Layout layout = Layout::contiguous,
                     ssm::GradMode mode = ssm::GradMode::overwrite)
        : logits({batch, length, vocabulary}, layout), targets({batch, length}, layout), loss({1}) {
      Random random(4);
      logits.fill(random, -4, 4);
      targets.fill_integers(random, 0, vocabulary - 1);
      dlogits = {{batch, length, vocabulary}, layout, mode, random};
    }
    ssm::CrossEntropyArgs<Scalar> args() const {
      ssm::CrossEntropyArgs<Scalar> a;
      a.logits = logits.view();
      a.targets = targets.view();
      a.loss = loss.view();
      a.dlogits = dlogits.view();
      a.inputs = dlogits.mode;
      return a;
    }
    // The plain formula in long double; `values` are the logits.
    oracle::Real wanted_loss(const std::vector<oracle::Real>& values, oracle::Real weight,
                             bool mean) const {
      const auto vocabulary = static_cast<std::size_t>(logits.view().extent(2));
      oracle::Real sum = 0;
      index_t counted = 0;
      std::size_t i = 0;
      targets.for_each([&](index_t target) {
        if (target != kIgnore) {
          oracle::Real total = 0;
          for (std::size_t v = 0; v < vocabulary; ++v) total += std::exp(values[i + v]);
          sum += std::log(total) - values[i + static_cast<std::size_t>(target)];
          ++counted;
        }
        i += vocabulary;
      });
      return weight * sum / (mean && counted > 0 ? static_cast<oracle::Real>(counted) : 1);
    }
    Tensor<Scalar, 3> logits;
    Tensor<index_t, 2> targets;
    Tensor<Scalar, 1> loss;
    GradientArray<Scalar, 3> dlogits;
  };

  // Norm-relative: an exp, a division and sums of a few terms.
  static constexpr double kTolerance = 16 * unit_roundoff<Scalar>();

  static void check(const Problem& p, const ssm::CrossEntropyArgs<Scalar>& a) {
    std::vector<oracle::Real> values = real_values(ssm::View<const Scalar, 3>(p.logits.view()));
    const auto loss = [&] {
      return p.wanted_loss(values, to_real(a.weight), a.reduction == ssm::Reduction::mean);
    };
    const oracle::Real wanted = loss();
    const std::vector<oracle::Real> gradient = oracle::gradient(values, loss);
    const ssm::Status status = run<typename Types::Target>(a);
    ASSERT_TRUE(status.is_ok()) << status.message().text;
    EXPECT_TRUE(std::abs(to_real(p.loss(0)) - wanted) <= kTolerance * std::abs(wanted))
        << p.loss(0) << " not " << wanted;
    p.dlogits.expect("dlogits", gradient, kTolerance + 1e-14L);
    EXPECT_TRUE(p.loss.guards_intact());
  }
};
TYPED_TEST_SUITE_P(CrossEntropySuite);

TYPED_TEST_P(CrossEntropySuite, EveryOption) {
  using R = typename TypeParam::T;
  for (const Layout layout : kAllLayouts) {
    for (const ssm::GradMode mode : kGradModes) {
      for (const ssm::Reduction reduction : {ssm::Reduction::mean, ssm::Reduction::sum}) {
        for (const bool ignoring : {false, true}) {
          const typename TestFixture::Problem p(2, 5, 7, layout, mode);
          if (ignoring) p.targets(0, 1) = p.targets(1, 4) = TestFixture::kIgnore;
          ssm::CrossEntropyArgs<R> a = p.args();
          a.reduction = reduction;
          a.weight = R(0.25);
          this->check(p, a);
        }
      }
    }
  }
  for (const index_t vocabulary : {1, 2, 8, 9, 33, 100}) {
    const typename TestFixture::Problem p(1, 3, vocabulary);
    if (vocabulary > 1) this->check(p, p.args());
    if (vocabulary == 1) {  // certain: no loss and no gradient
      ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
      EXPECT_EQ(p.loss(0), R(0));
      p.dlogits.tensor.for_each([](const R& v) { EXPECT_EQ(v, R(0)); });
    }
  }
}

// More logits than any kernel's threads take at once, the largest first or last, and one that is
// -infinity.
TYPED_TEST_P(CrossEntropySuite, LargeVocabularies) {
  using R = typename TypeParam::T;
  for (const index_t vocabulary : {1023, 1025, 8191, 8193, 20011}) {
    for (const bool rising : {false, true}) {
      SCOPED_TRACE(testing::Message() << "vocabulary " << vocabulary << " rising " << rising);
      constexpr index_t kTokens = 3;
      const typename TestFixture::Problem p(1, kTokens, vocabulary);
      oracle::Real wanted = 0;
      std::vector<oracle::Real> gradient;
      for (index_t t = 0; t < kTokens; ++t) {
        for (index_t v = 0; v < vocabulary; ++v) {
          const index_t rank = rising ? v : vocabulary - 1 - v;
          p.logits(0, t, v) += R(30) * static_cast<R>(rank) / static_cast<R>(vocabulary);
        }
        p.logits(0, t, 700 + t) = -std::numeric_limits<R>::infinity();
        p.targets(0, t) = rising ? 5 + t : vocabulary - 1 - t;
        oracle::Real total = 0;
        for (index_t v = 0; v < vocabulary; ++v) total += std::exp(to_real(p.logits(0, t, v)));
        wanted += (std::log(total) - to_real(p.logits(0, t, p.targets(0, t)))) / kTokens;
        for (index_t v = 0; v < vocabulary; ++v) {
          const oracle::Real share = std::exp(to_real(p.logits(0, t, v))) / total;
          gradient.push_back((share - (v == p.targets(0, t) ? 1 : 0)) / kTokens);
        }
      }
      ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
      constexpr double kSum = 4 * TestFixture::kTolerance;  // of thousands of terms
      EXPECT_TRUE(std::abs(to_real(p.loss(0)) - wanted) <= kSum * std::abs(wanted))
          << p.loss(0) << " not " << wanted;
      p.dlogits.expect("dlogits", gradient, kSum);
    }
  }
}

// The training of induction heads counts the last token alone.
TYPED_TEST_P(CrossEntropySuite, OneChosenPosition) {
  using R = typename TypeParam::T;
  const typename TestFixture::Problem p(2, 6, 5);
  p.targets.for_each([](index_t& t) { t = TestFixture::kIgnore; });
  p.targets(1, 5) = 3;
  // Logits that are not counted are not read.
  for (index_t t = 0; t < 6; ++t) {
    for (index_t v = 0; v < 5; ++v) p.logits(0, t, v) = test_nan<R>();
  }
  ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
  oracle::Real total = 0;
  for (index_t v = 0; v < 5; ++v) total += std::exp(to_real(p.logits(1, 5, v)));
  const oracle::Real wanted = std::log(total) - to_real(p.logits(1, 5, 3));
  EXPECT_NEAR(static_cast<double>(p.loss(0)), static_cast<double>(wanted), 1e-6);
  for (index_t b = 0; b < 2; ++b) {
    for (index_t t = 0; t < 6; ++t) {
      for (index_t v = 0; v < 5; ++v) {
        const bool counts = b == 1 && t == 5;
        EXPECT_EQ(p.dlogits.tensor(b, t, v) == R(0), !counts) << b << " " << t;
      }
    }
  }
}

TYPED_TEST_P(CrossEntropySuite, NothingCountedIsZero) {
  using R = typename TypeParam::T;
  const typename TestFixture::Problem p;
  p.targets.for_each([](index_t& t) { t = TestFixture::kIgnore; });
  ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
  EXPECT_EQ(p.loss(0), R(0));
  p.dlogits.tensor.for_each([](const R& v) { EXPECT_EQ(v, R(0)); });
}

TYPED_TEST_P(CrossEntropySuite, LargeLogitsDoNotOverflow) {
  using R = typename TypeParam::T;
  const typename TestFixture::Problem p(1, 2, 3);
  const double rows[] = {1e4, -1e4, 9.999e3, -3e4, -3e4, -3e4};
  std::size_t i = 0;
  p.logits.for_each([&](R& v) { v = static_cast<R>(rows[i++]); });
  p.targets(0, 0) = 1;
  p.targets(0, 1) = 2;
  ASSERT_TRUE(run<typename TypeParam::Target>(p.args()).is_ok());
  const double first = 2e4 + std::log1p(std::exp(-1.0));
  EXPECT_NEAR(static_cast<double>(p.loss(0)), (first + std::log(3.0)) / 2, 2e-3);
  EXPECT_NEAR(static_cast<double>(p.dlogits.tensor(0, 0, 1)), -0.5, 1e-6);
  EXPECT_NEAR(static_cast<double>(p.dlogits.tensor(0, 1, 0)), 1.0 / 6, 1e-6);
}

TYPED_TEST_P(CrossEntropySuite, InPlaceOfTheLogits) {
  using R = typename TypeParam::T;
  for (const Layout layout : kAllLayouts) {
    const typename TestFixture::Problem apart(2, 5, 7, layout), over(2, 5, 7, layout);
    ASSERT_TRUE(run<typename TypeParam::Target>(apart.args()).is_ok());
    ssm::CrossEntropyArgs<R> a = over.args();
    a.dlogits = over.logits.view();
    ASSERT_TRUE(run<typename TypeParam::Target>(a).is_ok());
    EXPECT_EQ(over.logits.values(), apart.dlogits.tensor.values());
    EXPECT_EQ(over.loss(0), apart.loss(0));
  }
}

TYPED_TEST_P(CrossEntropySuite, BadArgumentsAreNamedAndNothingIsWritten) {
  using Args = ssm::CrossEntropyArgs<typename TypeParam::T>;
  using ssm::ErrorCode;
  const ErrorCode shape = ErrorCode::shape_mismatch;
  const ErrorCode invalid = ErrorCode::invalid_argument;
  const auto refused = [&](const char* argument, ErrorCode code, auto spoil) {
    SCOPED_TRACE(argument);
    const typename TestFixture::Problem p;
    Args a = p.args();
    spoil(a, p);
    expect_refused(run<typename TypeParam::Target>(a), "cross_entropy", argument, code);
    EXPECT_TRUE(p.loss.untouched());
    EXPECT_TRUE(p.dlogits.tensor.untouched());
  };
  refused("logits", invalid, [](Args& a, auto&) { a.logits = {nullptr, {2, 5, 7}}; });
  refused("vocabulary", invalid, [](Args& a, auto&) { a.logits = a.logits.slice(2, 0, 0); });
  refused("targets", shape, [](Args& a, auto&) { a.targets = a.targets.slice(1, 0, 4); });
  refused("loss", shape, [](Args& a, auto&) { a.loss = {a.loss.data(), {2}}; });
  refused("dlogits", shape, [](Args& a, auto&) { a.dlogits = a.dlogits.slice(2, 0, 6); });
  refused("ignore", invalid, [](Args& a, auto&) { a.ignore = 3; });
  {
    const typename TestFixture::Problem p;
    expect_counter_refused<typename TypeParam::Target>(
        "cross_entropy", p.args(), [](const auto& backend, const Args& a, ssm::Arena arena) {
          return cross_entropy(backend, a, arena);
        });
    EXPECT_TRUE(p.loss.untouched());
  }
  if (!TypeParam::Target::kChecksValues) return;
  refused("targets", invalid, [](Args&, auto& p) { p.targets(1, 1) = 7; });
  refused("targets", invalid, [](Args&, auto& p) { p.targets(1, 1) = -1; });
}

REGISTER_TYPED_TEST_SUITE_P(CrossEntropySuite, EveryOption, LargeVocabularies, OneChosenPosition,
                            NothingCountedIsZero, LargeLogitsDoNotOverflow, InPlaceOfTheLogits,
                            BadArgumentsAreNamedAndNothingIsWritten);

}  // namespace ssm_test
