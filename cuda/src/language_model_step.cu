#include "ssm/cuda/language_model_step.cuh"

SSM_NAMESPACE_BEGIN
template bool language_model_step_takes(const Cuda&, const LanguageModelStepArgs<float>&);
template bool language_model_step_takes(const Cuda&, const LanguageModelStepArgs<bf16>&);
template bool language_model_step_takes(const Cuda&, const LanguageModelStepArgs<f16>&);
template Status language_model_step(const Cuda&, const LanguageModelStepArgs<float>&, Arena);
template Status language_model_step(const Cuda&, const LanguageModelStepArgs<bf16>&, Arena);
template Status language_model_step(const Cuda&, const LanguageModelStepArgs<f16>&, Arena);
SSM_NAMESPACE_END
