// Noising, loss, optimizer.
#include "cuda/cuda_backend.h"

namespace df::IF_CUDA_NAMESPACE {

void CudaBackend::blend(Tensor& y, const std::vector<float>& a, const Tensor& x, const std::vector<float>& b, const Tensor& z) { fail(ErrorCode::NotBuilt, "blend"); }

void CudaBackend::diffusion_loss(Tensor& terms, Tensor& dmodel, const Tensor& model, const Tensor& x0, const Tensor& xt, const Tensor& noise, const DiffusionLoss& p) { fail(ErrorCode::NotBuilt, "diffusion_loss"); }

double CudaBackend::squared_norm(const Tensor& x) { fail(ErrorCode::NotBuilt, "squared_norm"); }

void CudaBackend::adamw_step(Tensor& parameter, Tensor& m, Tensor& v, Tensor& ema, const Tensor& gradient, const AdamWStep& p) { fail(ErrorCode::NotBuilt, "adamw_step"); }

}  // namespace df::IF_CUDA_NAMESPACE
