#include "convolution_modes.hpp"

namespace {

using Scalars = ::testing::Types<float, double>;
INSTANTIATE_TYPED_TEST_SUITE_P(Real, Convolution, Scalars);

}  // namespace
