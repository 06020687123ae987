// Embeddings and tokens.
#include "cuda/cuda_backend.h"

namespace df::IF_CUDA_NAMESPACE {

void CudaBackend::embedding(Tensor& y, const Tensor& ids, const Tensor& table) { fail(ErrorCode::NotBuilt, "embedding"); }

void CudaBackend::timestep_embedding(Tensor& y, const Tensor& t, bool flip_sin_to_cos, float freq_shift) { fail(ErrorCode::NotBuilt, "timestep_embedding"); }

void CudaBackend::prepend_mean_token(Tensor& y, const Tensor& x, const Tensor& position) { fail(ErrorCode::NotBuilt, "prepend_mean_token"); }

void CudaBackend::relative_position_bias(Tensor& y, const Tensor& table, int max_distance) { fail(ErrorCode::NotBuilt, "relative_position_bias"); }

void CudaBackend::prepend_mean_token_backward(Gradient dx, Tensor dposition, const Tensor& dy) { fail(ErrorCode::NotBuilt, "prepend_mean_token_backward"); }

void CudaBackend::embedding_backward(Tensor& dtable, const Tensor& dy, const Tensor& ids) { fail(ErrorCode::NotBuilt, "embedding_backward"); }

void CudaBackend::relative_position_bias_backward(Tensor& dtable, const Tensor& dy, int max_distance) { fail(ErrorCode::NotBuilt, "relative_position_bias_backward"); }

}  // namespace df::IF_CUDA_NAMESPACE
