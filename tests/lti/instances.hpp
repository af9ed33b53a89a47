#pragma once

#include "ssm/lti/discretize.hpp"

// The dense discretization of each scalar is compiled once, in instances_*.cpp: a matrix
// exponential and a factorization take seconds.
#define LTI_TEST_INSTANCE(Scalar)                                                      \
  template ssm::Status ssm::lti::discretize<Scalar>(                                   \
      const ssm::lti::Rule&, ssm::lti::MatrixArg<Scalar>, ssm::lti::MatrixArg<Scalar>, \
      ssm::lti::detail::Identity<ssm::real_t<Scalar>>::type, ssm::lti::DenseSystem<Scalar>&)

extern LTI_TEST_INSTANCE(float);
extern LTI_TEST_INSTANCE(double);
extern LTI_TEST_INSTANCE(long double);
extern LTI_TEST_INSTANCE(std::complex<float>);
extern LTI_TEST_INSTANCE(std::complex<double>);
extern LTI_TEST_INSTANCE(std::complex<long double>);
