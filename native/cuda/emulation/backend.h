// The CUDA backend of the tests: the kernels of native/cuda, run by fibers on the CPU, on tensors of the cpu device.
#pragma once
#include "ops/backend.h"

namespace df {

Backend& emulated_cuda_backend();
/// The same with Kernels::Mma and with Kernels::Wgmma.
Backend& emulated_cuda_mma_backend();
Backend& emulated_cuda_wgmma_backend();

}  // namespace df
