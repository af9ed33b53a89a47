#include "convolution_modes.hpp"

namespace {

using Scalars = ::testing::Types<std::complex<float>, std::complex<double>>;
INSTANTIATE_TYPED_TEST_SUITE_P(Complex, Convolution, Scalars);

}  // namespace
