#include "instances.hpp"

LTI_TEST_INSTANCE(std::complex<float>);
LTI_TEST_INSTANCE(std::complex<double>);
LTI_TEST_INSTANCE(std::complex<long double>);
