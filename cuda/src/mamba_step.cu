#include "ssm/cuda/mamba_step.cuh"

SSM_NAMESPACE_BEGIN
template Status mamba_step(const Cuda&, const MambaStepArgs<float>&, Arena);
template Status mamba_step(const Cuda&, const MambaStepArgs<bf16>&, Arena);
template Status mamba_step(const Cuda&, const MambaStepArgs<f16>&, Arena);
template Status mamba_step(const Cuda&, const MambaStepArgs<bf16, bf16>&, Arena);
template Status mamba_step(const Cuda&, const MambaStepArgs<f16, bf16>&, Arena);
SSM_NAMESPACE_END
