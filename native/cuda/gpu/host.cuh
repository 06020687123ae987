// Host side of the kernels: the stream, copies, and how tensors reach a kernel. Two builds, as of the kernels: on a device
// (host.cu) and emulated, where device memory is host memory (emulation/host.cpp).
#pragma once
#include <cstdint>

#include "core/error.h"
#include "core/tensor.h"
#include "cuda/gpu/types.cuh"

#if GPU_EMULATED
#define IF_CUDA_NAMESPACE cuda_emulated
#else
#define IF_CUDA_NAMESPACE cuda
#endif

namespace df::IF_CUDA_NAMESPACE {

/// The compute stream of a device: all kernels of a command run on it, in order.
gpu::Stream stream(Device device);
/// Of the device; a plan may depend on it.
int multiprocessors(Device device);
/// Compute capability 9.0: code for sm_90a runs.
bool has_wgmma(Device device);
/// Asynchronous; bytes may be 0.
void set_zero(void* device, size_t bytes, gpu::Stream stream);
/// Waits for the stream, then copies.
void copy_to_host(void* host, const void* device, size_t bytes, gpu::Stream stream);
/// `host` may be changed or freed on return.
void copy_to_device(void* device, const void* host, size_t bytes, gpu::Stream stream);

/// Rows of a tensor as a kernel sees them: row r begins at data + r * stride.
template <class T> struct Rows {
  T* data;
  int64_t stride;  // elements
  GPU_HOST_FN T* operator[](int64_t row) const { return data + row * stride; }
};
template <class T> Rows<T> rows(const Tensor& t) {
  return {static_cast<T*>(t.defined() ? t.raw() : nullptr), t.defined() ? t.row_stride() : 0};
}

/// Blocks of `threads` that cover n items; at least one, at most what a grid's x dimension can hold.
inline unsigned blocks_for(int64_t n, int threads) {
  const int64_t blocks = n <= 0 ? 1 : (n + threads - 1) / threads;
  DF_CHECK(blocks < (int64_t(1) << 31), "cuda: a kernel for %lld items does not fit a grid", static_cast<long long>(n));
  return unsigned(blocks);
}

/// Calls f with a value of the element type: float, gpu::bf16 or gpu::f16.
template <class F> void with_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::F32: return f(float{});
    case DType::BF16: return f(gpu::bf16{});
    case DType::F16: return f(gpu::f16{});
    default: fail(ErrorCode::Internal, "cuda: no kernels for %s", dtype_name(dtype));
  }
}

}  // namespace df::IF_CUDA_NAMESPACE
