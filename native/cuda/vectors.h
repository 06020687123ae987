// When 16-byte accesses are possible.
#pragma once
#include <cstdint>

#include "cuda/gpu/host.cuh"

namespace df::IF_CUDA_NAMESPACE {

/// Whether every row of a 16-bit tensor can be moved 16 bytes at a time; an undefined tensor is no obstacle.
inline bool has_vectors(const Tensor& t) {
  return !t.defined() || (dtype_size(t.dtype()) == 2 && reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0 &&
                          t.dim(-1) % 8 == 0 && (t.row_stride() % 8 == 0 || t.rows() == 1));
}

}  // namespace df::IF_CUDA_NAMESPACE
