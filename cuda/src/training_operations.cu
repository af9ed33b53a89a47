#include "ssm/cuda/adamw.cuh"
#include "ssm/cuda/causal_conv1d_backward.cuh"
#include "ssm/cuda/cross_entropy.cuh"
#include "ssm/cuda/embedding_backward.cuh"
#include "ssm/cuda/linear_backward.cuh"
#include "ssm/cuda/residual_add.cuh"
#include "ssm/cuda/rms_norm_backward.cuh"
#include "ssm/cuda/sum_of_squares.cuh"

#define SSM_INSTANTIATE_LINEAR_BACKWARD(T, TOut, TIn)                                            \
  template std::size_t scratch_bytes(const Cuda&, const LinearGradArgs<T, TOut, TIn>&) noexcept; \
  template Status linear_backward(const Cuda&, const LinearGradArgs<T, TOut, TIn>&, Arena);
#define SSM_INSTANTIATE_RMS_NORM_BACKWARD(T, TGrad)                                           \
  template std::size_t scratch_bytes(const Cuda&, const RmsNormGradArgs<T, TGrad>&) noexcept; \
  template Status rms_norm_backward(const Cuda&, const RmsNormGradArgs<T, TGrad>&, Arena);
#define SSM_INSTANTIATE_TRAINING(T)                                                           \
  template std::size_t scratch_bytes(const Cuda&, const CausalConv1dGradArgs<T>&) noexcept;   \
  template Status causal_conv1d_backward(const Cuda&, const CausalConv1dGradArgs<T>&, Arena); \
  template std::size_t scratch_bytes(const Cuda&, const EmbeddingGradArgs<T>&) noexcept;      \
  template Status embedding_backward(const Cuda&, const EmbeddingGradArgs<T>&, Arena);        \
  template Status residual_add(const Cuda&, const ResidualAddArgs<T>&);                       \
  template Status adamw(const Cuda&, const AdamWArgs<T>&);                                    \
  SSM_INSTANTIATE_LINEAR_BACKWARD(T, T, T)                                                    \
  SSM_INSTANTIATE_RMS_NORM_BACKWARD(T, T)
#define SSM_INSTANTIATE_TRAINING_SUMS(R)                                                \
  template std::size_t scratch_bytes(const Cuda&, const CrossEntropyArgs<R>&) noexcept; \
  template Status cross_entropy(const Cuda&, const CrossEntropyArgs<R>&, Arena);        \
  template std::size_t scratch_bytes(const Cuda&, const SumOfSquaresArgs<R>&) noexcept; \
  template Status sum_of_squares(const Cuda&, const SumOfSquaresArgs<R>&, Arena);

SSM_NAMESPACE_BEGIN
SSM_INSTANTIATE_TRAINING(float)
SSM_INSTANTIATE_TRAINING(bf16)
SSM_INSTANTIATE_TRAINING(f16)
SSM_INSTANTIATE_TRAINING(double)
// A two-byte type beside gradients in its accum_t.
SSM_INSTANTIATE_LINEAR_BACKWARD(bf16, float, bf16)
SSM_INSTANTIATE_LINEAR_BACKWARD(bf16, bf16, float)
SSM_INSTANTIATE_LINEAR_BACKWARD(f16, float, f16)
SSM_INSTANTIATE_LINEAR_BACKWARD(f16, f16, float)
SSM_INSTANTIATE_RMS_NORM_BACKWARD(bf16, float)
SSM_INSTANTIATE_RMS_NORM_BACKWARD(f16, float)
SSM_INSTANTIATE_TRAINING_SUMS(float)
SSM_INSTANTIATE_TRAINING_SUMS(double)
SSM_NAMESPACE_END
