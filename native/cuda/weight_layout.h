// What memory plans must know of the CUDA backend's weights, in a build without it as well.
#pragma once
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace df {

/// Values per row (of one tap) of a packed weight: rows of 16-bit values begin at multiples of 16 bytes.
constexpr int64_t cuda_padded_in(int64_t in) { return (in + 7) / 8 * 8; }

/// Bytes of a packed weight (O, kh, kw, I): row-major, inputs padded with zeros.
inline size_t cuda_packed_bytes(int64_t out, int64_t kernel_h, int64_t kernel_w, int64_t in, DType dtype) {
  return size_t(out * kernel_h * kernel_w * cuda_padded_in(in)) * dtype_size(dtype);
}

}  // namespace df
