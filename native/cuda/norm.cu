// Group, layer and RMS norm.
#include "cuda/cuda_backend.h"

namespace df::IF_CUDA_NAMESPACE {

void CudaBackend::group_norm(Tensor& y, const Tensor& x, const GroupNormParams& p) { fail(ErrorCode::NotBuilt, "group_norm"); }

void CudaBackend::layer_norm(Tensor& y, const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps) { fail(ErrorCode::NotBuilt, "layer_norm"); }

void CudaBackend::rms_norm(Tensor& y, const Tensor& x, const Tensor& gamma, float eps) { fail(ErrorCode::NotBuilt, "rms_norm"); }

}  // namespace df::IF_CUDA_NAMESPACE
