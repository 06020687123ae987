// The sampler's step.
#include "cuda/cuda_backend.h"

namespace df::IF_CUDA_NAMESPACE {

void CudaBackend::ddpm_step(Tensor& prev, Tensor& x0, const Tensor& x, const Tensor& model, const Tensor& noise, const DdpmStep& p) { fail(ErrorCode::NotBuilt, "ddpm_step"); }

}  // namespace df::IF_CUDA_NAMESPACE
