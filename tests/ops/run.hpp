#pragma once

#include "ssm/ops/causal_conv1d.hpp"
#include "ssm/ops/convert.hpp"
#include "ssm/ops/embedding.hpp"
#include "ssm/ops/linear.hpp"
#include "ssm/ops/rms_norm.hpp"
#include "ssm/ops/selective_scan.hpp"

// One call of an operation on a target (support/target.hpp): map the arrays, call, finish.
namespace ssm_test {

template <class Target>
ssm::Sequences mapped(Target& target, const ssm::Sequences& s) {
  return {target.map(s.lengths), target.map(s.starts)};
}

template <class Target, class T, class S>
ssm::Status run(ssm::SelectiveScanArgs<T, S> a) {
  Target target;
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
  const ssm::Status status = selective_scan(target.backend(), a);
  target.finish();
  return status;
}

template <class Target, class T>
ssm::Status run(ssm::CausalConv1dArgs<T> a) {
  Target target;
  a.x = target.map(a.x);
  a.weight = target.map(a.weight);
  a.bias = target.map(a.bias);
  a.state0 = target.map(a.state0);
  a.state_last = target.map(a.state_last);
  a.y = target.map(a.y);
  a.sequences = mapped(target, a.sequences);
  const ssm::Status status = causal_conv1d(target.backend(), a);
  target.finish();
  return status;
}

template <class Target, class From, class To>
ssm::Status run(ssm::ConvertArgs<From, To> a) {
  Target target;
  a.x = target.map(a.x);
  a.y = target.map(a.y);
  const ssm::Status status = convert(target.backend(), a);
  target.finish();
  return status;
}

template <class Target, class T, class TOut>
ssm::Status run(ssm::LinearArgs<T, TOut> a) {
  Target target;
  a.x = target.map(a.x);
  a.weight = target.map(a.weight);
  a.bias = target.map(a.bias);
  a.y = target.map(a.y);
  const ssm::Status status = linear(target.backend(), a);
  target.finish();
  return status;
}

template <class Target, class T>
ssm::Status run(ssm::RmsNormArgs<T> a) {
  Target target;
  a.x = target.map(a.x);
  a.residual = target.map(a.residual);
  a.weight = target.map(a.weight);
  a.z = target.map(a.z);
  a.y = target.map(a.y);
  const ssm::Status status = rms_norm(target.backend(), a);
  target.finish();
  return status;
}

template <class Target, class T>
ssm::Status run(ssm::EmbeddingArgs<T> a) {
  Target target;
  a.ids = target.map(a.ids);
  a.weight = target.map(a.weight);
  a.y = target.map(a.y);
  const ssm::Status status = embedding(target.backend(), a);
  target.finish();
  return status;
}

}  // namespace ssm_test
