// Which kernels a backend uses where there is a choice: for products, attention and group norm.
#pragma once
#include "cuda/gpu/host.cuh"

namespace df::IF_CUDA_NAMESPACE {

enum class Kernels {
  Plain,  ///< those that take every type, shape and alignment
  Mma,    ///< for bf16 and f16 in rows of 16-byte vectors: mma.sync for products and attention, vectors for group norm
  Wgmma   ///< as Mma, and on a device of compute capability 9.0 wgmma and TMA for products and attention that fit them
};
/// What a backend uses unless told otherwise: the environment variable IF_CUDA_KERNELS (plain, mma or wgmma), read once,
/// or Plain.
Kernels default_kernels();

}  // namespace df::IF_CUDA_NAMESPACE
