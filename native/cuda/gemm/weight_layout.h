// The layout of packed weights (weights.cu).
#pragma once
#include "cuda/gpu/host.cuh"
#include "ops/types.h"

namespace df::IF_CUDA_NAMESPACE {

constexpr int kWeightLayout = 1;
/// Values per row of a packed weight: rows of 16-bit values begin at multiples of 16 bytes.
constexpr int64_t padded_in(int64_t in) { return (in + 7) / 8 * 8; }
/// Throws INTERNAL for a weight that another backend packed.
void check_weight_layout(const char* op, const Weight& w);

}  // namespace df::IF_CUDA_NAMESPACE
