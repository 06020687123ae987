// Backward of attention.
#include "cuda/cuda_backend.h"

namespace df::IF_CUDA_NAMESPACE {

void CudaBackend::attention_backward(Gradient dq, const std::vector<Gradient>& dkey, const std::vector<Gradient>& dvalue, Tensor dbias, const Tensor& dy, const Tensor& y, const Tensor& q, const AttentionParams& p) { fail(ErrorCode::NotBuilt, "attention_backward"); }

}  // namespace df::IF_CUDA_NAMESPACE
