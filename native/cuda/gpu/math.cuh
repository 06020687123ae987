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

/// The derivative of `activate`; its limits 0 and 1 at -∞ and ∞. 1 - s is computed as a logistic function too: it
/// does not cancel.
GPU_FN float activation_derivative(float x, df::Activation kind) {
  if (kind == df::Activation::None) return 1;
  if (fabsf(x) == INFINITY) return x > 0 ? 1 : 0;
  if (kind == df::Activation::Gelu) {
    // Φ(-|x|) - |x| φ(x). The functions amplify what their rounded arguments lack x² times, so that it is added after them.
    float a = fabsf(x);
    if (a > 14) a = 14;  // the result is below the smallest normal float
    const float square = a * a, square_rest = fmaf(a, a, -square);
    const float t = 0.70710678118654752f * a, t_rest = fmaf(0.70710678118654752f, a, -t) + 1.2101617e-8f * a;  // a / √2
    float e = expf(-0.5f * square);
    e = fmaf(e, -0.5f * square_rest, e);
    const float tail = 0.5f * (erfcf(t) - 1.12837916709551257f * e * t_rest), d = tail - 0.39894228040143268f * a * e;
    return x > 0 ? 1 - d : d;
  }
  const bool tanh = kind == df::Activation::GeluTanh;  // (1 + tanh u) / 2 = 1 / (1 + exp(-2u))
  const float k = 1.59576912160573071f, z = tanh ? k * (x + 0.044715f * x * x * x) : x;
  const float slope = tanh ? k * (1 + 0.134145f * x * x) : 1, s = 1 / (1 + expf(-z)), rest = 1 / (1 + expf(z));
  return s == 0 || rest == 0 ? s : s + x * slope * s * rest;
}

}  // namespace GPU_NAMESPACE
