// Backward of the norms.
#include "cuda/cuda_backend.h"

namespace df::IF_CUDA_NAMESPACE {

void CudaBackend::group_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, Gradient dscale, Gradient dshift, const Tensor& dy, const Tensor& x, const GroupNormParams& p) { fail(ErrorCode::NotBuilt, "group_norm_backward"); }

void CudaBackend::layer_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, const Tensor& dy, const Tensor& x, const Tensor& gamma, float eps) { fail(ErrorCode::NotBuilt, "layer_norm_backward"); }

void CudaBackend::rms_norm_backward(Gradient dx, Tensor dgamma, const Tensor& dy, const Tensor& x, const Tensor& gamma, float eps) { fail(ErrorCode::NotBuilt, "rms_norm_backward"); }

}  // namespace df::IF_CUDA_NAMESPACE
