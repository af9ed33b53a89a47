#pragma once

#include "ssm/cuda/mamba_step.hpp"

// The decoding step of a whole model on CUDA, declared; see selective_scan.hpp on .hpp and .cuh.
// One kernel takes a token of every row through up to 64 layers (32 with a toolkit before 12.1),
// the next one through the next: every multiprocessor keeps its rows of all weights and its
// channels of all states, copies weights ahead while it waits, and exchanges activations with the
// others through the L2.

SSM_NAMESPACE_BEGIN

// Up to four rows, on sm_80 and later with code compiled for it, if all rows of the four
// projections, of the embedding and of the head are made of aligned groups of 16 bytes, d_state is
// even and at most 32, d_conv at most 4, channels are contiguous in the states and in A, and layers
// are alike in strides. False, too, where a model is too wide for the threads and the shared memory
// of a multiprocessor, or the driver is older than 12.1 and the toolkit is not.
template <class T>
bool language_model_step_takes(const Cuda& cuda, const LanguageModelStepArgs<T>& a);

// `unsupported` for what is not taken. Values (ids, slots, the sign of A) are not checked. T is
// float, bf16 or f16, states are in float.
template <class T>
Status language_model_step(const Cuda& cuda, const LanguageModelStepArgs<T>& a, Arena workspace);

SSM_NAMESPACE_END
