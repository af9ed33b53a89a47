#include "ssm/cuda/selective_scan_backward.cuh"

#define SSM_INSTANTIATE_SELECTIVE_SCAN_BACKWARD(T, ...)                                      \
  template std::size_t scratch_bytes(const Cuda&,                                            \
                                     const SelectiveScanGradArgs<T, __VA_ARGS__>&) noexcept; \
  template Status selective_scan_backward(const Cuda&,                                       \
                                          const SelectiveScanGradArgs<T, __VA_ARGS__>&, Arena);

SSM_NAMESPACE_BEGIN
SSM_INSTANTIATE_SELECTIVE_SCAN_BACKWARD(float, float)
SSM_INSTANTIATE_SELECTIVE_SCAN_BACKWARD(float, std::complex<float>)
SSM_INSTANTIATE_SELECTIVE_SCAN_BACKWARD(bf16, float)
SSM_INSTANTIATE_SELECTIVE_SCAN_BACKWARD(bf16, std::complex<float>)
SSM_INSTANTIATE_SELECTIVE_SCAN_BACKWARD(f16, float)
SSM_INSTANTIATE_SELECTIVE_SCAN_BACKWARD(f16, std::complex<float>)
SSM_INSTANTIATE_SELECTIVE_SCAN_BACKWARD(double, double)
SSM_INSTANTIATE_SELECTIVE_SCAN_BACKWARD(double, std::complex<double>)
SSM_NAMESPACE_END
