#include "instantiate_selective_scan.cuh"

SSM_NAMESPACE_BEGIN
SSM_INSTANTIATE_SELECTIVE_SCAN(double, double)
SSM_INSTANTIATE_SELECTIVE_SCAN(double, std::complex<double>)
SSM_NAMESPACE_END
