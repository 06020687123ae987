// Backward of the elementwise ops.
#include "cuda/cuda_backend.h"

namespace df::IF_CUDA_NAMESPACE {

void CudaBackend::activation_backward(Gradient dx, const Tensor& dy, const Tensor& x, Activation kind) { fail(ErrorCode::NotBuilt, "activation_backward"); }

void CudaBackend::gated_activation_backward(Gradient dgate, Gradient dup, const Tensor& dy, const Tensor& gate, const Tensor& up, Activation kind) { fail(ErrorCode::NotBuilt, "gated_activation_backward"); }

void CudaBackend::scale_backward(Gradient dx, float a, const Tensor& dy) { fail(ErrorCode::NotBuilt, "scale_backward"); }

}  // namespace df::IF_CUDA_NAMESPACE
