#pragma once

#include <cmath>

#include "ssm/cpu/gradient.hpp"
#include "ssm/ops/adamw.hpp"

SSM_CPU_NAMESPACE_BEGIN

// One step of AdamW on the CPU; see AdamWArgs for the equations. The corrections of the moments are
// powers in double; the rest is computed in accum_t<T>. No allocation. On a bad argument it returns
// a Status and writes nothing.
template <class T>
Status adamw(const Cpu& cpu, const AdamWArgs<T>& a) noexcept {
  using Accum = accum_t<T>;
  using V = detail::Vec<Accum>;
  Status status = check_shapes(a);
  if (status) {
    status = Check("adamw").at_least("step number", a.step(0).number, index_t{1}).status();
  }
  if (!status) return status;

  const AdamWFactors<Accum> f = adamw_factors(a);
  const V c(f.clip), decay(f.decay), scale(f.scale), correction(f.correction);
  const V mix1(f.mix1), mix2(f.mix2), eps(f.eps);
  constexpr index_t kTask = 4096;
  const index_t size = a.parameter.extent(0);
  cpu.parallel.for_each((size + kTask - 1) / kTask, [&](index_t task) noexcept {
    const index_t end = std::min((task + 1) * kTask, size);
    for (index_t i = task * kTask; i < end; i += V::kWidth) {
      const int n = detail::lanes_within<V>(i, end);
      const auto load = [i, n](const auto& v) noexcept {
        return detail::load_strided<V>(v.data() + i * v.stride(0), v.stride(0), n);
      };
      const auto store = [i, n](V value, const auto& v) noexcept {
        detail::store_strided(value, v.data() + i * v.stride(0), v.stride(0), n);
      };
      V w = a.master.present() ? load(a.master) : load(a.parameter);
      const V g = c * load(a.gradient);
      V m = load(a.m);
      V v = load(a.v);
      m = fma(mix1, g - m, m);
      v = fma(mix2, g * g - v, v);
      w = fnma(decay, w, w);
      w = w - scale * m / fma(sqrt(v), correction, eps);
      store(m, a.m);
      store(v, a.v);
      if (a.master.present()) store(w, a.master);
      store(w, a.parameter);
    }
  });
  return status;
}

SSM_CPU_NAMESPACE_END
