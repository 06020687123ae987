// The CUDA backend of the tests: the kernels of native/cuda, run by fibers on the CPU, on tensors of the cpu device.
#pragma once
#include "ops/backend.h"

namespace df {

Backend& emulated_cuda_backend();
/// The same with Kernels::Tuned.
Backend& emulated_tuned_cuda_backend();

}  // namespace df
