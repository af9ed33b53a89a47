#pragma once

#include "ops/run.hpp"
#include "support/suite.hpp"
#include "support/target.hpp"

// What every backend's embedding must do; a copy, so every comparison is exact:
//
//   using Types = testing::Types<EmbeddingTypes<HostTarget<ssm::Cpu>, float>, …>;
//   INSTANTIATE_TYPED_TEST_SUITE_P(Cpu, EmbeddingSuite, Types, TypeNames);
namespace ssm_test {

template <class Target_, class T_>
struct EmbeddingTypes {
  using Target = Target_;
  using T = T_;
  using Args = ssm::EmbeddingArgs<T>;
  static std::string name() { return type_name<T>(); }
};

template <class Types>
class EmbeddingSuite : public testing::Test {
 public:
  using Element = typename Types::T;
  using Accumulated = ssm::accum_t<Element>;

  // Poisoned weights and output, ids that meet the first and the last row.
  EmbeddingSuite() { make(3, 7, 11, 20, Layout::contiguous); }

  void make(index_t batch, index_t length, index_t vocabulary, index_t features, Layout layout) {
    Random random;
    ids = Tensor<index_t, 2>({batch, length}, layout);
    index_t next = 0;
    ids.for_each([&](index_t& id) { id = (vocabulary - 1 + next++ * 3) % vocabulary; });
    weight = Tensor<Element, 2>({vocabulary, features}, layout);
    weight.fill(random, -1, 1);
    y = Tensor<Accumulated, 3>({batch, length, features}, layout);
  }
  typename Types::Args args() const {
    typename Types::Args a;
    a.ids = ids.view();
    a.weight = weight.view();
    a.y = y.view();
    return a;
  }
  void check() const {
    const ssm::Status status = run<typename Types::Target>(args());
    ASSERT_TRUE(status.is_ok()) << status.message().text;
    for (index_t b = 0; b < y.view().extent(0); ++b) {
      for (index_t t = 0; t < y.view().extent(1); ++t) {
        for (index_t i = 0; i < y.view().extent(2); ++i) {
          ASSERT_EQ(to_real(y(b, t, i)), to_real(weight(ids(b, t), i)));
        }
      }
    }
    EXPECT_TRUE(y.guards_intact());
  }

  Tensor<index_t, 2> ids;
  Tensor<Element, 2> weight;
  Tensor<Accumulated, 3> y;
};

TYPED_TEST_SUITE_P(EmbeddingSuite);

TYPED_TEST_P(EmbeddingSuite, AnySizeAndStrides) {
  this->check();
  for (const Layout layout : kAllLayouts) {
    for (const index_t features : {1, 3, 16, 31, 64, 65, 129}) {
      this->make(2, 9, 13, features, layout);
      this->check();
    }
  }
}

TYPED_TEST_P(EmbeddingSuite, NothingToLookUp) {
  this->make(0, 4, 3, 5, Layout::contiguous);
  this->check();
  this->make(4, 0, 3, 5, Layout::contiguous);
  this->check();
}

TYPED_TEST_P(EmbeddingSuite, BadArgumentsAreNamedAndNothingIsWritten) {
  using Args = typename TypeParam::Args;
  using ssm::ErrorCode;
  const ErrorCode shape = ErrorCode::shape_mismatch;
  const ErrorCode invalid = ErrorCode::invalid_argument;
  const BadCall<Args> calls[] = {
      {"ids", invalid,
       [](Args& a) {
         a.ids = ssm::View<const index_t, 2>(nullptr, {3, 7});
       }},
      {"weight", invalid,
       [](Args& a) {
         a.weight = {nullptr, {11, 20}};
       }},
      {"y", shape, [](Args& a) { a.y = a.y.slice(1, 0, 6); }},
      {"y", shape, [](Args& a) { a.weight = a.weight.slice(1, 0, 19); }},
  };
  for (const BadCall<Args>& bad : calls) {
    SCOPED_TRACE(bad.argument);
    Args a = this->args();
    bad.spoil(a);
    expect_refused(run<typename TypeParam::Target>(a), "embedding", bad.argument, bad.code);
  }
  if (TypeParam::Target::kChecksValues) {
    for (const index_t id : {index_t{-1}, index_t{11}, index_t{1} << 40}) {
      this->ids(2, 6) = id;
      expect_refused(run<typename TypeParam::Target>(this->args()), "embedding", "ids", invalid);
    }
  }
  EXPECT_TRUE(this->y.untouched());
}

REGISTER_TYPED_TEST_SUITE_P(EmbeddingSuite, AnySizeAndStrides, NothingToLookUp,
                            BadArgumentsAreNamedAndNothingIsWritten);

}  // namespace ssm_test
