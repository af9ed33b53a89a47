#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "block/gradient_checks.hpp"
#include "model/model_under_test.hpp"
#include "ssm/ops/cross_entropy.hpp"
#include "ssm/train/adamw.hpp"

// What every backend's optimiser must do, and that a model learns with it. A device backend runs it
// on memory that the host reaches too.
namespace ssm_test {

// AdamW once more, in long double.
struct PlainAdamW {
  long double w = 0, m = 0, v = 0;
  void step(long double gradient, long double rate, int number, const ssm::AdamWConfig& c,
            long double clip) {
    const long double g = clip * gradient;
    w -= rate * static_cast<long double>(c.weight_decay) * w;
    m = static_cast<long double>(c.beta1) * m + (1 - static_cast<long double>(c.beta1)) * g;
    v = static_cast<long double>(c.beta2) * v + (1 - static_cast<long double>(c.beta2)) * g * g;
    const long double mean = m / (1 - std::pow(static_cast<long double>(c.beta1), number));
    const long double square = v / (1 - std::pow(static_cast<long double>(c.beta2), number));
    w -= rate * mean / (std::sqrt(square) + static_cast<long double>(c.eps));
  }
};

template <class On>
class OptimizerSuite : public ::testing::Test {};
TYPED_TEST_SUITE_P(OptimizerSuite);

TYPED_TEST_P(OptimizerSuite, StepsOfAdamW) {
  using T = typename TypeParam::T;
  using Accum = ssm::accum_t<T>;
  const typename TypeParam::Backend backend = TypeParam::backend();
  // Five steps of a few operations each; two bytes round what they store.
  const double tolerance = std::is_same<Accum, double>::value ? 1e-14 : 2e-6;
  for (const auto& [clipped, size] : {std::pair(false, 37), std::pair(true, 37),
                                      std::pair(true, 20001), std::pair(true, 300001)}) {
    SCOPED_TRACE("size " + std::to_string(size));
    ssm::AdamWConfig config;
    ssm::Owned<T, 1> parameter({size});
    ssm::Owned<Accum, 1> master({size}), gradient({size}), m({size}), v({size});
    std::vector<PlainAdamW> plain(static_cast<std::size_t>(size));
    ssm::Random random(3);
    for (ssm::index_t i = 0; i < size; ++i) {
      const auto w = static_cast<Accum>(random.normal());
      master.view()(i) = w;
      parameter.view()(i) = ssm::narrow<T>(w);
      plain[static_cast<std::size_t>(i)].w = w;
    }
    ssm::Owned<ssm::AdamWStep, 1> step({1});
    ssm::Owned<double, 1> square({1});
    square.data()[0] = 9;
    ssm::AdamWArgs<T> a;
    a.parameter = parameter.view();
    if (!std::is_same<T, Accum>::value) a.master = master.view();
    a.gradient = gradient.view();
    a.m = m.view();
    a.v = v.view();
    a.step = step.view();
    if (clipped) a.square_norm = square.view();
    a.max_norm = 0.5;
    a.weight_decay = config.weight_decay;
    for (int number = 1; number <= 5; ++number) {
      const double rate = 0.01 * number;
      step.data()[0] = {rate, number};
      for (ssm::index_t i = 0; i < size; ++i) {
        gradient.view()(i) = static_cast<Accum>(random.normal());
        plain[static_cast<std::size_t>(i)].step(gradient.view()(i), rate, number, config,
                                                clipped ? 0.5L / (3 + 1e-6L) : 1);
      }
      SSM_EXPECT_OK(adamw(backend, a));
    }
    std::vector<double> wanted;
    for (const PlainAdamW& p : plain) wanted.push_back(static_cast<double>(p.w));
    if (std::is_same<T, Accum>::value) {
      SSM_EXPECT_CLOSE(values_of(parameter.view()), wanted, tolerance);
    } else {
      SSM_EXPECT_CLOSE(values_of(master.view()), wanted, tolerance);
      for (ssm::index_t i = 0; i < size; ++i) {
        ASSERT_EQ(static_cast<double>(parameter.view()(i)),
                  static_cast<double>(ssm::narrow<T>(master.view()(i))));
      }
    }
  }
}

TYPED_TEST_P(OptimizerSuite, SumOfSquares) {
  using Accum = ssm::accum_t<typename TypeParam::T>;
  const typename TypeParam::Backend backend = TypeParam::backend();
  for (const ssm::index_t size : {0, 1, 7, 64, 1000, 20001, 300001}) {
    ssm::Owned<Accum, 1> x({size});
    ssm::Owned<double, 1> sum({1});
    double wanted = 0;
    sum.data()[0] = 5;
    for (ssm::index_t i = 0; i < size; ++i) {
      x.view()(i) = static_cast<Accum>(i % 9 - 4);
      wanted += static_cast<double>((i % 9 - 4) * (i % 9 - 4));
    }
    ssm::SumOfSquaresArgs<Accum> a{x.view(), sum.view()};
    ssm::OwnedWorkspace scratch(scratch_bytes(backend, a));
    if (scratch.size() > 0) {
      EXPECT_EQ(sum_of_squares(backend, a, ssm::Arena()).code(),
                ssm::ErrorCode::workspace_too_small);
    }
    SSM_EXPECT_OK(sum_of_squares(backend, a, scratch.arena()));
    EXPECT_EQ(sum.data()[0], wanted);
    a.mode = ssm::GradMode::accumulate;
    SSM_EXPECT_OK(sum_of_squares(backend, a, scratch.arena()));
    EXPECT_EQ(sum.data()[0], 2 * wanted);
  }
}

// A model with its optimiser, on one batch.
template <class On>
class LearnerUnderTest {
 public:
  using T = typename On::T;
  using Accum = ssm::accum_t<T>;

  explicit LearnerUnderTest(bool tied) : model(tied), ids(model.random_ids(2, 8)) {
    grads = memory[0].carve([&](ssm::Arena& arena) {
      return ssm::LanguageModelGrads<T>::carve(model.config, arena, arena);
    });
    optimizer = memory[1].carve(
        [&](ssm::Arena& arena) { return ssm::AdamWState<T>::carve(model.config, arena, arena); });
    tape = memory[2].carve([&](ssm::Arena& arena) {
      return ssm::LanguageModelTape<T>::carve(model.config, 2, 8, arena);
    });
    memory[3] = ssm::OwnedWorkspace(model.model.training_workspace_bytes(model.backend, 2, 8));
    memory[4] = ssm::OwnedWorkspace(ssm::adamw_workspace_bytes(model.backend, model.weights));
    initialize(model.weights, optimizer);
  }

  // One step on the batch; the loss before it.
  double step(int number) {
    ssm::Owned<ssm::index_t, 2> targets({2, 8});
    ssm::Owned<Accum, 3> logits({2, 8, model.config.vocab_size});
    for (ssm::index_t b = 0; b < 2; ++b) {
      for (ssm::index_t t = 0; t < 8; ++t) {
        targets.view()(b, t) = t < 7 ? ids.view()(b, t + 1) : -100;
      }
    }
    SSM_EXPECT_OK(model.model.forward_train(model.backend, ids.view(), logits.view(), {}, {}, tape,
                                            memory[3].arena()));
    ssm::Owned<Accum, 1> loss({1});
    ssm::CrossEntropyArgs<Accum> ce;
    ce.logits = logits.view();
    ce.targets = targets.view();
    ce.loss = loss.view();
    ce.dlogits = logits.view();
    const ssm::OwnedWorkspace scratch(scratch_bytes(model.backend, ce));
    SSM_EXPECT_OK(cross_entropy(model.backend, ce, scratch.arena()));
    ssm::LanguageModelGradArgs<T> a;
    a.ids = ids.view();
    a.dlogits = logits.view();
    a.grads = grads;
    SSM_EXPECT_OK(model.model.backward(model.backend, a, tape, memory[3].arena()));
    optimizer.step(0) = {0.02, number};
    SSM_EXPECT_OK(
        ssm::adamw_step(model.backend, config, model.weights, grads, optimizer, memory[4].arena()));
    model.prepare(ssm::WeightFormat::native);
    return static_cast<double>(loss.data()[0]);
  }
  std::vector<double> weights() const {
    std::vector<double> out;
    model.weights.for_each([&](const char*, const auto& v) { append(v, out); });
    return out;
  }

  ModelUnderTest<On> model;
  ssm::Owned<ssm::index_t, 2> ids;
  ssm::OwnedWorkspace memory[5];
  ssm::LanguageModelGrads<T> grads;
  ssm::AdamWState<T> optimizer;
  ssm::LanguageModelTape<T> tape;
  ssm::AdamWConfig config;
};

// Two sequences by heart; and the same again, bit for bit.
TYPED_TEST_P(OptimizerSuite, LearnsABatchTheSameWayTwice) {
  for (const bool tied : {true, false}) {
    LearnerUnderTest<TypeParam> first(tied), second(tied);
    double loss = first.step(1);
    EXPECT_NEAR(loss, std::log(23.0), 0.5);
    second.step(1);
    for (int number = 2; number <= 60; ++number) {
      loss = first.step(number);
      second.step(number);
    }
    EXPECT_LT(loss, 0.1);
    EXPECT_EQ(first.weights(), second.weights());
  }
}

TYPED_TEST_P(OptimizerSuite, ClipsDecaysAndFreezesByName) {
  using T = typename TypeParam::T;
  using Accum = ssm::accum_t<T>;
  LearnerUnderTest<TypeParam> test(false);
  std::vector<std::vector<double>> before;
  test.model.weights.for_each([&](const char*, const auto& v) { before.push_back(values_of(v)); });
  // Every gradient is 3, except that one array has none.
  double elements = 0;
  test.grads.layers[1].mixer.D = {};
  test.grads.for_each([&](const char*, const auto& v) {
    for (ssm::index_t i = 0; i < v.size(); ++i) v.data()[i] = Accum(3);
    elements += static_cast<double>(v.size());
  });
  const double rate = 0.5;
  const double tolerance = sizeof(T) == 2 ? 4e-3 : std::is_same<T, double>::value ? 1e-12 : 2e-6;
  test.optimizer.step(0) = {rate, 1};
  test.config.eps = 1e-3;  // so that clipping shows in the first step
  SSM_EXPECT_OK(ssm::adamw_step(test.model.backend, test.config, test.model.weights, test.grads,
                                test.optimizer, test.memory[4].arena()));
  EXPECT_EQ(test.optimizer.square_norm(0), 9 * elements);
  const double g = 3 / (3 * std::sqrt(elements) + 1e-6);
  std::size_t next = 0;
  test.model.weights.for_each([&](const char* name, const auto& v) {
    SCOPED_TRACE(name);
    const std::string n = name;
    const bool decays =
        n.find("weight") != std::string::npos && n.find("norm") == std::string::npos;
    const bool frozen = n == "backbone.layers.1.mixer.D";
    std::vector<double> wanted = before[next++];
    for (double& w : wanted) {
      if (!frozen) w = w - (decays ? rate * 0.1 * w : 0) - rate * g / (g + 1e-3);
    }
    SSM_EXPECT_CLOSE(values_of(v), wanted, tolerance);
  });

  // A NaN cannot pass unseen.
  test.grads.norm_f_weight(3) = std::numeric_limits<Accum>::quiet_NaN();
  test.optimizer.step(0) = {rate, 2};
  SSM_EXPECT_OK(ssm::adamw_step(test.model.backend, test.config, test.model.weights, test.grads,
                                test.optimizer, test.memory[4].arena()));
  EXPECT_TRUE(std::isnan(static_cast<double>(test.model.weights.embedding(0, 0))));
}

TYPED_TEST_P(OptimizerSuite, BadInputIsNamedAndNothingIsWritten) {
  using T = typename TypeParam::T;
  LearnerUnderTest<TypeParam> test(true);
  const auto before = test.weights();
  test.grads.for_each([](const char*, const auto& v) {
    for (ssm::index_t i = 0; i < v.size(); ++i) v.data()[i] = 1;
  });
  const auto refused = [&](const ssm::AdamWConfig& c, const ssm::LanguageModelGrads<T>& grads) {
    const ssm::Status status = ssm::adamw_step(test.model.backend, c, test.model.weights, grads,
                                               test.optimizer, test.memory[4].arena());
    EXPECT_EQ(test.weights(), before);
    return std::string(status.message().text);
  };
  ssm::AdamWConfig c;
  c.beta2 = 1;
  EXPECT_EQ(refused(c, test.grads), "adamw: beta1, beta2 must be less than 1");
  c = {};
  c.eps = 0;
  EXPECT_EQ(refused(c, test.grads), "adamw: eps is 0, must be greater than 0");
  c = {};
  c.max_norm = -1;
  EXPECT_EQ(refused(c, test.grads), "adamw_step: max_norm is -1, must be at least 0");
  c = {};
  EXPECT_EQ(refused(c, {}), "adamw_step: n_layer is 0, must equal 3");
  if (!ssm::reads_on_host<typename TypeParam::Backend>) return;
  test.optimizer.step(0).number = 0;
  EXPECT_EQ(refused(c, test.grads), "adamw: step number is 0, must be at least 1");
}

REGISTER_TYPED_TEST_SUITE_P(OptimizerSuite, StepsOfAdamW, SumOfSquares, LearnsABatchTheSameWayTwice,
                            ClipsDecaysAndFreezesByName, BadInputIsNamedAndNothingIsWritten);

}  // namespace ssm_test
