#pragma once

#include "ssm/cuda/context.hpp"

// The decoding step of a block on CUDA, declared; see selective_scan.hpp on .hpp and .cuh. A whole
// model is faster in one kernel, where language_model_step.hpp takes it. Up to four rows whose
// vectors fit in 48 KiB take four kernels, each of which starts to fetch its weights while the one
// before it runs (on sm_90 and later): norm, in_proj and convolution; x_proj; dt_proj and scan;
// out_proj and residual. More rows take their products from cuBLASLt, but for 16-bit T that of
// x_proj in the convolution's kernel (d_conv 4, channels that eight divide) and that of dt_proj in
// the scan's (d_state 16), with states as MambaState::carve lays them out.

SSM_NAMESPACE_BEGIN

// d_state up to 256 and BRule::euler, else `unsupported`. Values (slots, the sign of A) are not
// checked. T is float, bf16 or f16; H is float, or bf16 beside a 16-bit T.
template <class T, class H>
Status mamba_step(const Cuda& cuda, const MambaStepArgs<T, H>& a, Arena workspace);

SSM_NAMESPACE_END
