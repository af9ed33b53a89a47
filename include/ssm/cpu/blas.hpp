#pragma once

#include "ssm/core/config.hpp"

SSM_NAMESPACE_BEGIN

// A BLAS for the matrix products of `linear` with 16 tokens or more and for those of
// `linear_backward`, where T is float or double; null (the default): the library's own kernels. Any
// implementation fits; <ssm/cpu/cblas.hpp> offers the one that is linked:
//
//   ssm::Cpu backend{pool.parallel(), ssm::cblas()};
//
// `gemm` computes C = op(A) op(B) + beta C for row-major matrices, op(M) = M or its transpose; C is
// (m, n), the sums run over k, and C is not read if beta is 0. It is called for tiles of C, from
// several threads at once: threads are Parallel's, and those of the BLAS are better set to one.
//
// It changes results by rounding: a token alone and one in a batch may differ, and the bits depend
// on the number of threads if the BLAS's own do. It reads LinearArgs::weight although the weight
// may be packed, so that has to be there, or null; weights packed in fewer bits, and strides that
// BLAS does not know, go to the library's own kernels. Allocation is the BLAS's affair.
struct Blas {
  template <class R>
  using Gemm = void (*)(bool a_transposed, bool b_transposed, int m, int n, int k, const R* a,
                        int a_stride, const R* b, int b_stride, R beta, R* c, int c_stride);
  Gemm<float> sgemm = nullptr;
  Gemm<double> dgemm = nullptr;
};

SSM_NAMESPACE_END
