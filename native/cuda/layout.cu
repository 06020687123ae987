// Layout and sampling of pixels.
#include "cuda/cuda_backend.h"

namespace df::IF_CUDA_NAMESPACE {

void CudaBackend::resample(Tensor& y, const Tensor& x, Resample mode) { fail(ErrorCode::NotBuilt, "resample"); }

void CudaBackend::bilinear(Tensor& y, const Tensor& x) { fail(ErrorCode::NotBuilt, "bilinear"); }

void CudaBackend::nchw_to_nhwc(Tensor& y, const Tensor& x) { fail(ErrorCode::NotBuilt, "nchw_to_nhwc"); }

void CudaBackend::nhwc_to_nchw(Tensor& y, const Tensor& x) { fail(ErrorCode::NotBuilt, "nhwc_to_nchw"); }

void CudaBackend::resample_backward(Gradient dx, const Tensor& dy, Resample mode) { fail(ErrorCode::NotBuilt, "resample_backward"); }

}  // namespace df::IF_CUDA_NAMESPACE
