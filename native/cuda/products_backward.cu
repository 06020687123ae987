// Gradients of weights and biases.
#include "cuda/cuda_backend.h"

namespace df::IF_CUDA_NAMESPACE {

void CudaBackend::weight_gradient(Tensor& dw, const Tensor& x, const Tensor& dy, const Conv2dParams& p, float scale) { fail(ErrorCode::NotBuilt, "weight_gradient"); }

void CudaBackend::bias_gradient(Tensor& db, const Tensor& dy, float scale) { fail(ErrorCode::NotBuilt, "bias_gradient"); }

}  // namespace df::IF_CUDA_NAMESPACE
