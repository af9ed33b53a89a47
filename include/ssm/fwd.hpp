#pragma once

#include "ssm/core/config.hpp"
#include "ssm/core/dtype.hpp"
#include "ssm/core/isa.hpp"

SSM_CPU_NAMESPACE_BEGIN
struct Cpu;
SSM_CPU_NAMESPACE_END

SSM_NAMESPACE_BEGIN

// The other backends. Name one, include its header: <ssm/reference/backend.hpp>,
// <ssm/cpu/backend.hpp>, <ssm/cuda/context.hpp>.
struct Reference;
struct Cuda;

struct MambaConfig;
template <class T>
struct MambaParameters;
template <class T, class H = accum_t<T>>
struct MambaState;
template <class T, class Backend = Cpu>
class MambaBlock;

struct LanguageModelConfig;
template <class T>
struct LanguageModelParameters;
template <class T, class H = accum_t<T>>
struct LanguageModelState;
template <class T, class Backend = Cpu>
class LanguageModel;

SSM_NAMESPACE_END
