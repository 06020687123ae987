#include "cuda/emulation/backend.h"

#include "cuda/cuda_backend.h"

namespace df {

Backend& emulated_cuda_backend() { return cuda_emulated::backend(); }

Backend& emulated_tuned_cuda_backend() {
  static cuda_emulated::CudaBackend instance(cuda_emulated::Kernels::Tuned);
  return instance;
}

}  // namespace df
