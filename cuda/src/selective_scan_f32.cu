#include "instantiate_selective_scan.cuh"

SSM_NAMESPACE_BEGIN
SSM_INSTANTIATE_SELECTIVE_SCAN(float, float)
SSM_INSTANTIATE_SELECTIVE_SCAN(float, std::complex<float>)
SSM_NAMESPACE_END
