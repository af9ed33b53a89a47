#pragma once

#include <algorithm>
#include <string>

#include "ops/run.hpp"
#include "ssm/ops/causal_conv1d_backward.hpp"
#include "ssm/ops/cross_entropy.hpp"
#include "ssm/ops/embedding_backward.hpp"
#include "ssm/ops/linear_backward.hpp"
#include "ssm/ops/residual_add.hpp"
#include "ssm/ops/rms_norm_backward.hpp"
#include "ssm/ops/selective_scan_backward.hpp"
#include "support/suite.hpp"
#include "support/target.hpp"

// One call of a backward operation on a target, with exactly the workspace it asks for.
namespace ssm_test {

template <class Target>
class MappedWorkspace {
 public:
  MappedWorkspace(Target& target, std::size_t bytes)
      : memory_({static_cast<index_t>(std::min(bytes, kLargest))}),
        view_(target.map(memory_.view())) {}
  ssm::Arena arena() const {
    return ssm::Arena(view_.data(), static_cast<std::size_t>(view_.extent(0)));
  }
  const Tensor<unsigned char, 1>& memory() const { return memory_; }

 private:
  // Calls that must be refused may name any shape.
  static constexpr std::size_t kLargest = std::size_t{1} << 28;

  Tensor<unsigned char, 1> memory_;
  ssm::View<unsigned char, 1> view_;
};

// A default-constructed Arena, which only counts, in place of workspace that the call needs:
// refused before anything is touched.
template <class Target, class Args, class Call>
void expect_counter_refused(const char* operation, const Args& a, Call call) {
  Target target;
  const auto backend = target.backend();
  if (scratch_bytes(backend, a) == 0) return;
  const ssm::Status status = call(backend, a, ssm::Arena());
  EXPECT_EQ(status.code(), ssm::ErrorCode::workspace_too_small) << status.message().text;
  const std::string text = status.message().text;
  EXPECT_EQ(text.find(std::string(operation) + ": workspace bytes is 0, must be at least"), 0u)
      << text;
}

template <class Target, class T, class S>
ssm::SelectiveScanArgs<T, S> mapped(Target& target, ssm::SelectiveScanArgs<T, S> a) {
  a.x = target.map(a.x);
  a.dt = target.map(a.dt);
  a.A = target.map(a.A);
  a.B = target.map(a.B);
  a.C = target.map(a.C);
  a.D = target.map(a.D);
  a.z = target.map(a.z);
  a.dt_bias = target.map(a.dt_bias);
  a.h0 = target.map(a.h0);
  a.h_last = target.map(a.h_last);
  a.y = target.map(a.y);
  a.sequences = mapped(target, a.sequences);
  return a;
}

template <class Target, class T, class S>
ssm::Status run(ssm::SelectiveScanGradArgs<T, S> a) {
  Target target;
  const MappedWorkspace<Target> workspace(target, scratch_bytes(target.backend(), a));
  a.forward = mapped(target, a.forward);
  a.dy = target.map(a.dy);
  a.dh_last = target.map(a.dh_last);
  a.dx = target.map(a.dx);
  a.ddt = target.map(a.ddt);
  a.dz = target.map(a.dz);
  a.dB = target.map(a.dB);
  a.dC = target.map(a.dC);
  a.dh0 = target.map(a.dh0);
  a.dA = target.map(a.dA);
  a.dA_log = target.map(a.dA_log);
  a.dD = target.map(a.dD);
  a.ddt_bias = target.map(a.ddt_bias);
  const ssm::Status status = selective_scan_backward(target.backend(), a, workspace.arena());
  target.finish();
  EXPECT_TRUE(workspace.memory().guards_intact());
  return status;
}

template <class Target, class T>
ssm::Status run(ssm::CausalConv1dGradArgs<T> a) {
  Target target;
  const MappedWorkspace<Target> workspace(target, scratch_bytes(target.backend(), a));
  a.forward.x = target.map(a.forward.x);
  a.forward.weight = target.map(a.forward.weight);
  a.forward.bias = target.map(a.forward.bias);
  a.forward.state0 = target.map(a.forward.state0);
  a.forward.sequences = mapped(target, a.forward.sequences);
  a.dy = target.map(a.dy);
  a.dstate_last = target.map(a.dstate_last);
  a.dx = target.map(a.dx);
  a.dstate0 = target.map(a.dstate0);
  a.dweight = target.map(a.dweight);
  a.dbias = target.map(a.dbias);
  const ssm::Status status = causal_conv1d_backward(target.backend(), a, workspace.arena());
  target.finish();
  EXPECT_TRUE(workspace.memory().guards_intact());
  return status;
}

template <class Target, class T, class TOut, class TIn>
ssm::Status run(ssm::LinearGradArgs<T, TOut, TIn> a) {
  Target target;
  const MappedWorkspace<Target> workspace(target, scratch_bytes(target.backend(), a));
  a.x = target.map(a.x);
  a.weight = target.map(a.weight);
  a.dy = target.map(a.dy);
  a.dx = target.map(a.dx);
  a.dweight = target.map(a.dweight);
  a.dbias = target.map(a.dbias);
  const ssm::Status status = linear_backward(target.backend(), a, workspace.arena());
  target.finish();
  EXPECT_TRUE(workspace.memory().guards_intact());
  return status;
}

template <class Target, class T, class TGrad>
ssm::Status run(ssm::RmsNormGradArgs<T, TGrad> a) {
  Target target;
  const MappedWorkspace<Target> workspace(target, scratch_bytes(target.backend(), a));
  a.x = target.map(a.x);
  a.residual = target.map(a.residual);
  a.weight = target.map(a.weight);
  a.z = target.map(a.z);
  a.dy = target.map(a.dy);
  a.dr_later = target.map(a.dr_later);
  a.dx = target.map(a.dx);
  a.dresidual = target.map(a.dresidual);
  a.dz = target.map(a.dz);
  a.dweight = target.map(a.dweight);
  const ssm::Status status = rms_norm_backward(target.backend(), a, workspace.arena());
  target.finish();
  EXPECT_TRUE(workspace.memory().guards_intact());
  return status;
}

template <class Target, class T>
ssm::Status run(ssm::EmbeddingGradArgs<T> a) {
  Target target;
  const MappedWorkspace<Target> workspace(target, scratch_bytes(target.backend(), a));
  a.ids = target.map(a.ids);
  a.dy = target.map(a.dy);
  a.dweight = target.map(a.dweight);
  const ssm::Status status = embedding_backward(target.backend(), a, workspace.arena());
  target.finish();
  EXPECT_TRUE(workspace.memory().guards_intact());
  return status;
}

template <class Target, class R>
ssm::Status run(ssm::CrossEntropyArgs<R> a) {
  Target target;
  const MappedWorkspace<Target> workspace(target, scratch_bytes(target.backend(), a));
  a.logits = target.map(a.logits);
  a.targets = target.map(a.targets);
  a.loss = target.map(a.loss);
  a.dlogits = target.map(a.dlogits);
  const ssm::Status status = cross_entropy(target.backend(), a, workspace.arena());
  target.finish();
  EXPECT_TRUE(workspace.memory().guards_intact());
  return status;
}

template <class Target, class T>
ssm::Status run(ssm::ResidualAddArgs<T> a) {
  Target target;
  a.residual = target.map(a.residual);
  a.x = target.map(a.x);
  a.y = target.map(a.y);
  const ssm::Status status = residual_add(target.backend(), a);
  target.finish();
  return status;
}

}  // namespace ssm_test
