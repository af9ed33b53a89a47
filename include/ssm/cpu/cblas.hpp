#pragma once

#if defined(__has_include)
#if !__has_include(<cblas.h>)
#error "<ssm/cpu/cblas.hpp> needs the <cblas.h> of a BLAS: OpenBLAS, BLIS, ATLAS, …"
#endif
#endif

#include <cblas.h>

#include "ssm/cpu/blas.hpp"

SSM_NAMESPACE_BEGIN

// The BLAS whose <cblas.h> this is; link its library. OpenBLAS: openblas_set_num_threads(1).
inline Blas cblas() noexcept {
  Blas blas;
  blas.sgemm = [](bool a_transposed, bool b_transposed, int m, int n, int k, const float* a,
                  int a_stride, const float* b, int b_stride, float beta, float* c, int c_stride) {
    cblas_sgemm(CblasRowMajor, a_transposed ? CblasTrans : CblasNoTrans,
                b_transposed ? CblasTrans : CblasNoTrans, m, n, k, 1, a, a_stride, b, b_stride,
                beta, c, c_stride);
  };
  blas.dgemm = [](bool a_transposed, bool b_transposed, int m, int n, int k, const double* a,
                  int a_stride, const double* b, int b_stride, double beta, double* c,
                  int c_stride) {
    cblas_dgemm(CblasRowMajor, a_transposed ? CblasTrans : CblasNoTrans,
                b_transposed ? CblasTrans : CblasNoTrans, m, n, k, 1, a, a_stride, b, b_stride,
                beta, c, c_stride);
  };
  return blas;
}

SSM_NAMESPACE_END
