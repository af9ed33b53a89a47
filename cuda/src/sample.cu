#include "ssm/cuda/sample.cuh"

SSM_NAMESPACE_BEGIN
template Status sample(const Cuda&, const SampleArgs<float>&);
SSM_NAMESPACE_END
