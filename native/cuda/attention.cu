// Attention.
#include "cuda/cuda_backend.h"

namespace df::IF_CUDA_NAMESPACE {

void CudaBackend::attention(Tensor& y, const Tensor& q, const AttentionParams& p) { fail(ErrorCode::NotBuilt, "attention"); }

}  // namespace df::IF_CUDA_NAMESPACE
