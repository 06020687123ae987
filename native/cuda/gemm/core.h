// Which kernels multiply.
#pragma once
#include "cuda/gpu/host.cuh"

namespace df::IF_CUDA_NAMESPACE {

enum class ProductCore {
  Simt,  ///< plain kernels: every type, shape and alignment
  Mma,   ///< mma.sync for bf16 and f16, plain kernels for f32
};
/// What a backend uses unless told otherwise: the environment variable IF_CUDA_PRODUCTS (simt or mma), read once, or Simt.
ProductCore default_product_core();

}  // namespace df::IF_CUDA_NAMESPACE
