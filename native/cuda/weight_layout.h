// What memory plans must know of the CUDA backend, in a build without it as well.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace df {

/// Rows (taps × inputs) of packed weights end at a multiple of 16 bytes of 16-bit values.
constexpr int64_t kCudaInputUnit = 8;
/// Bound of the partial sums that one product keeps.
constexpr size_t kCudaProductScratch = size_t(16) << 20;

/// Bytes of a packed weight (O, kh, kw, I): row-major, inputs padded with zeros.
inline size_t cuda_packed_bytes(int64_t out, int64_t kernel_h, int64_t kernel_w, int64_t in, DType dtype) {
  const int64_t padded = (in + kCudaInputUnit - 1) / kCudaInputUnit * kCudaInputUnit;
  return size_t(out * kernel_h * kernel_w * padded) * dtype_size(dtype);
}

}  // namespace df
