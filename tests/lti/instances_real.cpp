#include "instances.hpp"

LTI_TEST_INSTANCE(float);
LTI_TEST_INSTANCE(double);
LTI_TEST_INSTANCE(long double);
