// Layout of weights.
#include "cuda/cuda_backend.h"

namespace df::IF_CUDA_NAMESPACE {

Weight CudaBackend::pack(const Tensor& plain, DType dtype) { fail(ErrorCode::NotBuilt, "pack"); }

Weight CudaBackend::pack_transposed(const Tensor& plain, DType dtype) { fail(ErrorCode::NotBuilt, "pack_transposed"); }

Weight CudaBackend::pack_int8(const Tensor& plain, DType dtype) { fail(ErrorCode::NotBuilt, "pack_int8"); }

void CudaBackend::unpack(Tensor& plain, const Weight& weight) { fail(ErrorCode::NotBuilt, "unpack"); }

size_t CudaBackend::packed_bytes(int64_t out, int64_t kernel_h, int64_t kernel_w, int64_t in, DType dtype) { fail(ErrorCode::NotBuilt, "packed_bytes"); }

}  // namespace df::IF_CUDA_NAMESPACE
