// The CUDA backend of the tests: the kernels of native/cuda, run by fibers on the CPU, on tensors of the cpu device.
#pragma once
#include "ops/backend.h"

namespace df {

Backend& emulated_cuda_backend();
/// The same with mma.sync and with wgmma for products of bf16.
Backend& emulated_cuda_mma_backend();
Backend& emulated_cuda_wgmma_backend();

}  // namespace df
