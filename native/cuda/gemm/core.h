// Which kernels multiply, and with them which attention and group norm are used: with Simt their plain kernels, with Mma
// and Wgmma also those for bf16 and f16 in rows of 16-byte vectors.
#pragma once
#include "cuda/gpu/host.cuh"

namespace df::IF_CUDA_NAMESPACE {

enum class ProductCore {
  Simt,  ///< plain kernels: every type, shape and alignment
  Mma,   ///< mma.sync for bf16 and f16, plain kernels for f32
  Wgmma, ///< wgmma and TMA for bf16 and f16 with stride 1 on a device of compute capability 9.0, else as Mma
};
/// What a backend uses unless told otherwise: the environment variable IF_CUDA_PRODUCTS (simt, mma or wgmma), read once, or Simt.
ProductCore default_product_core();

}  // namespace df::IF_CUDA_NAMESPACE
