#include "cuda/emulation/backend.h"

#include "cuda/cuda_backend.h"

namespace df {

Backend& emulated_cuda_backend() { return cuda_emulated::backend(); }

}  // namespace df
