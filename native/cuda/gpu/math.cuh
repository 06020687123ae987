// Activation functions in float32.
#pragma once
#include "cuda/gpu/types.cuh"
#include "ops/types.h"

namespace GPU_NAMESPACE {

/// a * b rounded by itself, never part of a fused multiply-add.
GPU_FN float multiply_rounded(float a, float b) {
#if GPU_EMULATED
  return a * b;
#else
  return __fmul_rn(a, b);
#endif
}

/// x·Φ(x) (exact, erf), silu x/(1+e^-x), and transformers' gelu_new with tanh.
GPU_FN float activate(float x, df::Activation kind) {
  switch (kind) {
    case df::Activation::Silu: return x / (1 + expf(-x));
    case df::Activation::Gelu: return 0.5f * x * erfcf(-0.70710678118654752f * x);
    case df::Activation::GeluTanh: return 0.5f * x * (1 + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    default: return x;
  }
}

}  // namespace GPU_NAMESPACE
