#include <ssm/cuda/rms_norm.cuh>

ssm::Status norm_from_headers(const ssm::RmsNormArgs<float>& norm) {
  return ssm::rms_norm(ssm::Cuda{}, norm);
}
