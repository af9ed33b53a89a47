#include "ssm/cuda/causal_conv1d.cuh"
#include "ssm/cuda/convert.cuh"
#include "ssm/cuda/embedding.cuh"
#include "ssm/cuda/linear.cuh"
#include "ssm/cuda/rms_norm.cuh"
#include "ssm/cuda/state_matrix.cuh"

#define SSM_INSTANTIATE_BLOCK_OPERATIONS(T)                               \
  template Status causal_conv1d(const Cuda&, const CausalConv1dArgs<T>&); \
  template Status rms_norm(const Cuda&, const RmsNormArgs<T>&);           \
  template Status embedding(const Cuda&, const EmbeddingArgs<T>&);        \
  template Status linear(const Cuda&, const LinearArgs<T, T>&);

SSM_NAMESPACE_BEGIN
SSM_INSTANTIATE_BLOCK_OPERATIONS(float)
SSM_INSTANTIATE_BLOCK_OPERATIONS(bf16)
SSM_INSTANTIATE_BLOCK_OPERATIONS(f16)
SSM_INSTANTIATE_BLOCK_OPERATIONS(double)
template Status linear(const Cuda&, const LinearArgs<bf16, float>&);
template Status linear(const Cuda&, const LinearArgs<f16, float>&);
template Status convert(const Cuda&, const ConvertArgs<float, bf16>&);
template Status convert(const Cuda&, const ConvertArgs<bf16, float>&);
template Status state_matrix(const Cuda&, const StateMatrixArgs<float>&);
template Status state_matrix(const Cuda&, const StateMatrixArgs<double>&);
SSM_NAMESPACE_END
