// Which kernels a backend uses, where there is a choice.
#pragma once
#include <cstdint>

#include "cuda/gpu/host.cuh"

namespace df::IF_CUDA_NAMESPACE {

enum class Kernels {
  Plain,  ///< for every type, width and alignment
  Tuned,  ///< mma.sync and 16-byte accesses for norms and attention in bf16 and f16 where shapes allow, plain elsewhere
};
/// What a backend uses unless told otherwise: the environment variable IF_CUDA_KERNELS (plain or tuned), read once, or
/// Plain.
Kernels default_kernels();

/// Whether every row of a 16-bit tensor can be moved 16 bytes at a time; an undefined tensor is no obstacle.
inline bool has_vectors(const Tensor& t) {
  return !t.defined() || (dtype_size(t.dtype()) == 2 && reinterpret_cast<uintptr_t>(t.raw()) % 16 == 0 &&
                          t.dim(-1) % 8 == 0 && (t.row_stride() % 8 == 0 || t.rows() == 1));
}

}  // namespace df::IF_CUDA_NAMESPACE
