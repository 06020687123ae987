// Linear layers and convolutions.
#include "cuda/cuda_backend.h"

namespace df::IF_CUDA_NAMESPACE {

void CudaBackend::linear(Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) { fail(ErrorCode::NotBuilt, "linear"); }

void CudaBackend::conv2d(Tensor& y, const Tensor& x, const Weight& w, const Conv2dParams& p, const Epilogue& e) { fail(ErrorCode::NotBuilt, "conv2d"); }

}  // namespace df::IF_CUDA_NAMESPACE
