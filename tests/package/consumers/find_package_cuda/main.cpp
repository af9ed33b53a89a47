// A user's plain C++ that links the compiled CUDA operations, beside a file of the same program
// that nvcc compiles from the headers. It needs no GPU: what it calls is refused, or empty.
#include <cstdio>

#include <ssm/cuda/selective_scan.hpp>
#include <ssm/ssm.hpp>

ssm::Status norm_from_headers(const ssm::RmsNormArgs<float>& norm);

int main() {
  static float x[4] = {}, A[2] = {-1, -2};
  ssm::SelectiveScanArgs<float> scan;
  ssm::RmsNormArgs<float> norm;
  scan.x = {x, {1, 2, 2}};  // dt is missing
  norm.x = scan.x;          // y is missing
  const ssm::Status bad_scan = selective_scan(ssm::Cuda{}, scan);
  const ssm::Status bad_norm = norm_from_headers(norm);
  std::printf("%s\n%s\n", bad_scan.message().text, bad_norm.message().text);
  if (bad_scan.is_ok() || bad_norm.is_ok()) return 1;

  scan.x = {x, {0, 2, 2}};  // an empty batch: nothing to do
  scan.dt = scan.x;
  scan.A = {A, {2, 1}};
  scan.B = {x, {0, 2, 1, 1}};
  scan.C = scan.B;
  scan.y = {x, {0, 2, 2}};
  norm.x = scan.x;
  norm.y = scan.y;
  return selective_scan(ssm::Cuda{}, scan).is_ok() && norm_from_headers(norm).is_ok() ? 0 : 1;
}
