#include "cuda/emulation/backend.h"

#include "cuda/cuda_backend.h"

namespace df {

Backend& emulated_cuda_backend() { return cuda_emulated::backend(); }

Backend& emulated_cuda_mma_backend() {
  static cuda_emulated::CudaBackend backend(cuda_emulated::Kernels::Mma);
  return backend;
}

Backend& emulated_cuda_wgmma_backend() {
  static cuda_emulated::CudaBackend backend(cuda_emulated::Kernels::Wgmma);
  return backend;
}

}  // namespace df
