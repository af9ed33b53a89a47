// A keyword spotter from two safetensors files: the weights, and an utterance of MFCC frames.
//
//   keyword_spotting <model.safetensors> <sample.safetensors>
//
//   x      = W_in input + b_in            (frames, mfcc) -> (frames, d_model)
//   y      = mamba(x)
//   logits = W_out mean_t(y_t) + b_out
//
// Weights are used where they lie in the mapped file. If the sample holds `logits` too, the result
// is compared with them.

#include <algorithm>
#include <cmath>
#include <cstdio>

#include <ssm/io/safetensors.hpp>
#include <ssm/owned.hpp>
#include <ssm/ssm.hpp>

namespace {

bool succeeded(const ssm::Status& status) {
  if (!status) std::fprintf(stderr, "error: %s\n", status.message().text);
  return status.is_ok();
}
bool succeeded(const ssm::io::Result& result) {
  if (!result) std::fprintf(stderr, "error: %s\n", result.message().c_str());
  return result.is_ok();
}

struct Model {
  ssm::View<const float, 2> in_weight;  // (d_model, mfcc)
  ssm::View<const float, 1> in_bias;
  ssm::MambaConfig config;
  ssm::MambaWeights<float> mamba;
  ssm::View<const float, 2> out_weight;  // (keywords, d_model)
  ssm::View<const float, 1> out_bias;
};

// Views into the file; every dimension comes from the shapes there.
bool open_model(const ssm::io::SafetensorsFile& file, Model* model) {
  ssm::MambaWeights<float>& w = model->mamba;
  ssm::View<const float, 3> conv1d;  // (d_inner, 1, d_conv), as PyTorch stores it
  if (!succeeded(file.view("linear_in.weight", &model->in_weight)) ||
      !succeeded(file.view("linear_in.bias", &model->in_bias)) ||
      !succeeded(file.view("mamba.in_proj.weight", &w.in_proj_weight)) ||
      !succeeded(file.view("mamba.conv1d.weight", &conv1d)) ||
      !succeeded(file.view("mamba.conv1d.bias", &w.conv1d_bias)) ||
      !succeeded(file.view("mamba.x_proj.weight", &w.x_proj_weight)) ||
      !succeeded(file.view("mamba.dt_proj.weight", &w.dt_proj_weight)) ||
      !succeeded(file.view("mamba.dt_proj.bias", &w.dt_proj_bias)) ||
      !succeeded(file.view("mamba.A_log", &w.A_log)) || !succeeded(file.view("mamba.D", &w.D)) ||
      !succeeded(file.view("mamba.out_proj.weight", &w.out_proj_weight)) ||
      !succeeded(file.view("classifier.weight", &model->out_weight)) ||
      !succeeded(file.view("classifier.bias", &model->out_bias))) {
    return false;
  }
  w.conv1d_weight = conv1d.select(/*dim=*/1, 0);
  model->config.d_model = w.in_proj_weight.extent(1);
  model->config.d_inner = w.A_log.extent(0);
  model->config.d_state = w.A_log.extent(1);
  model->config.d_conv = w.conv1d_weight.extent(1);
  model->config.dt_rank = w.dt_proj_weight.extent(1);
  return true;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: keyword_spotting <model.safetensors> <sample.safetensors>\n");
    return 2;
  }
  ssm::io::SafetensorsFile model_file;
  ssm::io::SafetensorsFile sample_file;
  Model model;
  ssm::View<const float, 2> input;  // (frames, mfcc)
  if (!succeeded(ssm::io::SafetensorsFile::open(argv[1], &model_file)) ||
      !succeeded(ssm::io::SafetensorsFile::open(argv[2], &sample_file)) ||
      !open_model(model_file, &model) || !succeeded(sample_file.view("input", &input))) {
    return 1;
  }
  const ssm::Cpu cpu;
  const ssm::index_t frames = input.extent(0);
  const ssm::index_t d_model = model.config.d_model;
  const ssm::index_t keywords = model.out_weight.extent(0);

  ssm::MambaBlock<float> mamba;
  const ssm::OwnedWorkspace constants(ssm::MambaBlock<float>::prepared_bytes(cpu, model.config));
  if (!succeeded(mamba.prepare(cpu, model.config, model.mamba, constants.arena()))) return 1;
  const ssm::OwnedWorkspace workspace(mamba.workspace_bytes(cpu, /*batch=*/1, frames));

  ssm::Owned<float, 3> x({1, frames, d_model});
  ssm::Owned<float, 3> y({1, frames, d_model});
  ssm::Owned<float, 3> mean({1, 1, d_model});
  ssm::Owned<float, 3> logits({1, 1, keywords});
  const ssm::View<const float, 3> batch_of_one(input.data(), {1, frames, input.extent(1)});
  const ssm::LinearArgs<float> in{batch_of_one, model.in_weight, model.in_bias, x.view()};
  const ssm::LinearArgs<float> out{mean.view(), model.out_weight, model.out_bias, logits.view()};

  if (!succeeded(linear(cpu, in))) return 1;
  if (!succeeded(mamba.forward(cpu, x.view(), y.view(), {}, {}, workspace.arena()))) return 1;
  for (ssm::index_t i = 0; i < d_model; ++i) {
    double sum = 0;
    for (ssm::index_t t = 0; t < frames; ++t) sum += static_cast<double>(y.view()(0, t, i));
    mean.data()[i] = static_cast<float>(sum / static_cast<double>(frames));
  }
  if (!succeeded(linear(cpu, out))) return 1;

  const float* const first = logits.data();
  for (ssm::index_t k = 0; k < keywords; ++k) {
    std::printf("logit %lld: %+.6f\n", static_cast<long long>(k), static_cast<double>(first[k]));
  }
  std::printf("keyword: %lld\n",
              static_cast<long long>(std::max_element(first, first + keywords) - first));

  if (sample_file.find("logits") == nullptr) return 0;
  ssm::View<const float, 1> expected;
  if (!succeeded(sample_file.view("logits", &expected))) return 1;
  float error = 0;
  for (ssm::index_t k = 0; k < keywords && expected.extent(0) == keywords; ++k) {
    const float difference = std::abs(first[k] - expected(k));
    if (!(difference <= error)) error = difference;
  }
  std::printf("the sample's own logits differ by at most %.1e\n", static_cast<double>(error));
  return expected.extent(0) == keywords && error <= 1e-4f ? 0 : 1;
}
