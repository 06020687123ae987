// The layout of packed weights, and operands brought into it (weights.cu).
#pragma once
#include "cuda/gpu/host.cuh"
#include "cuda/weight_layout.h"
#include "ops/types.h"

namespace df::IF_CUDA_NAMESPACE {

constexpr int kWeightLayout = 1;
/// Throws INTERNAL for a weight that another backend packed.
void check_weight_layout(const char* op, const Weight& w);
/// x, of a 16-bit type, with rows that begin at multiples of 16 bytes and hold a multiple of 8 values, zeros behind the
/// last: x itself, or a copy.
Tensor aligned_rows(const Tensor& x);
/// The values of outputs [first, first + count) of an int8 weight in its dtype, without the scales; exact.
Tensor widened(const Weight& w, int64_t first, int64_t count);

}  // namespace df::IF_CUDA_NAMESPACE
