// Attention for sm_90a (hopper/attention_wgmma.cu).
#pragma once
#include "cuda/gpu/host.cuh"
#include "ops/types.h"

namespace df::IF_CUDA_NAMESPACE {

/// As attention_mma, for what attention_mma_fits() and has neither bias nor mask.
void attention_wgmma(Tensor& y, const Tensor& q, const AttentionParams& p);

}  // namespace df::IF_CUDA_NAMESPACE
