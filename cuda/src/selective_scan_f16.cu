#include "instantiate_selective_scan.cuh"

SSM_NAMESPACE_BEGIN
SSM_INSTANTIATE_SELECTIVE_SCAN(f16, float)
SSM_INSTANTIATE_SELECTIVE_SCAN(f16, std::complex<float>)
SSM_NAMESPACE_END
