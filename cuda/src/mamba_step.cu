#include "ssm/cuda/mamba_step.cuh"

#define SSM_INSTANTIATE_MAMBA_STEP(T)                                                \
  template std::size_t scratch_bytes(const Cuda&, const MambaStepArgs<T>&) noexcept; \
  template Status mamba_step(const Cuda&, const MambaStepArgs<T>&, Arena);

SSM_NAMESPACE_BEGIN
SSM_INSTANTIATE_MAMBA_STEP(float)
SSM_INSTANTIATE_MAMBA_STEP(bf16)
SSM_INSTANTIATE_MAMBA_STEP(f16)
SSM_NAMESPACE_END
