// Parameters shared by the op functions (ops/ops.h) and the backends (ops/backend.h).
#pragma once
#include <vector>

#include "core/tensor.h"

namespace df {

enum class Activation { None, Silu, Gelu /* exact, erf */, GeluTanh /* "gelu_new" */ };
enum class Resample { NearestUp2, AverageDown2 };

/// The weight of a linear layer (taps 1×1) or convolution in the layout that its backend multiplies from. Logical shape
/// (out, kernel_h, kernel_w, in). `layout` is private to the backend that packed it; 0 is plain row-major (O, kh, kw, I).
struct Weight {
  int64_t out = 0, kernel_h = 1, kernel_w = 1, in = 0;
  DType dtype = DType::F32;  ///< of the x that it multiplies
  int layout = 0;
  Tensor data;    ///< values of `dtype`, or with `scales` int8 values in a tensor of u8
  Tensor scales;  ///< (out) float32: the weight of output o is scales[o] * data[o]; undefined when data is of `dtype`
  /// In training instead of `data`: the contiguous float32 parameter (O, kh, kw, I), packed for every product.
  Tensor master;
  bool defined() const { return data.defined() || master.defined(); }
  bool int8() const { return scales.defined(); }
  size_t bytes() const { return master.defined() ? master.bytes() : data.bytes() + (int8() ? scales.bytes() : 0); }
};

/// What is done to a product before it is stored: y = (x·w + bias + residual) * scale, rounded once.
struct Epilogue {
  Tensor bias;      ///< (O) float32, or undefined
  Tensor residual;  ///< shape and dtype of y (any row stride), or undefined
  float scale = 1;
};

/// What a model gives up in accuracy for speed.
enum class Precision {
  Exact,    ///< convolutions are direct sums
  Default,  ///< ConvAlgorithm::Default
  Fast,     ///< ConvAlgorithm::Fast; for float32 the same as Default
};

/// How a convolution is computed. The forms of Winograd are for 3×3 convolutions with stride 1 and padding 1; others, and
/// all where a backend lacks the form, are direct. A NaN or infinity of x also reaches the other outputs of the tiles that
/// read it.
enum class ConvAlgorithm {
  Direct,
  /// The fastest form whose error is small beside the rounding of the activations: Direct, WinogradF4, or, for bfloat16,
  /// WinogradF8. Chosen by the sizes of an image and of the weight, never by the number of images.
  Default,
  /// The fastest form: for bfloat16 also those that round what they multiply to bfloat16.
  Fast,
  WinogradF4,      ///< F(4×4, 3×3) multiplied in float32: a few times the rounding error of a direct float32 sum
  WinogradF8,      ///< F(8×8, 3×3) multiplied in float32, bfloat16 only: about 100 times that error, 1/40 of bfloat16's
  WinogradF2Bf16,  ///< F(2×2, 3×3) multiplied in bfloat16: 1.8 times the error of a direct bfloat16 sum
  WinogradF4Bf16,  ///< F(4×4, 3×3) multiplied in bfloat16: 5 times that error
};

constexpr ConvAlgorithm conv_algorithm(Precision p) {
  return p == Precision::Exact ? ConvAlgorithm::Direct : p == Precision::Fast ? ConvAlgorithm::Fast : ConvAlgorithm::Default;
}

/// Output pixel (i, j) reads input pixels (i*stride - padding + r, j*stride - padding + s); outside is zero.
struct Conv2dParams {
  int stride = 1;
  int padding = 0;
  ConvAlgorithm algorithm = ConvAlgorithm::Direct;
};

/// y = activation(norm(x) * gamma + beta, then * (1 + scale) + shift); statistics over a group's channels and all pixels
/// of one item, in float32 or better.
struct GroupNormParams {
  int groups = 32;
  float eps = 1e-5f;
  Tensor gamma, beta;   ///< (C) float32
  Tensor scale, shift;  ///< (N, C), dtype of x, any row stride; both or none (scale-shift norm)
  Activation activation = Activation::None;
};

/// One run of keys and values, (B, T, heads * width), any row stride.
struct KeyValue {
  Tensor key, value;
};

/// softmax(q·kᵀ * scale + bias + mask)·v over the concatenation of `segments` (IF: text first, then image).
struct AttentionParams {
  int heads = 1;
  float scale = 1;
  std::vector<KeyValue> segments;  ///< one or two; the concatenation is never made
  Tensor bias;                     ///< (heads, Tq, Tk) float32, or undefined
  Tensor mask;                     ///< (B, Tk) int32, 0 = key is ignored (weight exactly 0), or undefined
};

/// Coefficients of one sampler step, computed in float64 by lib/diffusion/ddpm.ts, applied in float32:
///   x0    = sample_scale * x + output_scale * m                        (m: first C channels of the guided model output)
///   x0    = threshold(x0)
///   prev  = x0_coef * x0 + x_coef * x + sigma * noise
struct DdpmStep {
  float sample_scale = 0, output_scale = 0;
  enum class Threshold { None, Clip, Dynamic } threshold = Threshold::None;
  float clip_range = 1;    ///< Clip: x0 is clamped to ±clip_range
  float ratio = 0.995f;    ///< Dynamic: s = clamp(quantile(|x0|, ratio), 1, max_value) per item; x0 = clamp(x0, ±s) / s
  float max_value = 1;
  float x0_coef = 0, x_coef = 0;
  bool add_noise = false;
  enum class Variance { Fixed, LearnedRange, Learned } variance = Variance::Fixed;
  float sigma = 0;                      ///< Fixed: standard deviation
  float min_log = 0, max_log = 0;       ///< LearnedRange: log variance = f*max_log + (1-f)*min_log, f = (v+1)/2
  float guidance = 1;                   ///< ε = ε_uncond + guidance * (ε_text - ε_uncond) when the output is doubled
};

// ---- backward and training

/// Where the backward pass puts the gradient of an activation: written, or added (in float32, rounded once) to what is
/// there. Same shape as the activation, any row stride. Undefined `into`: not wanted.
struct Gradient {
  Tensor into;
  bool add = false;
  bool wanted() const { return into.defined(); }
};

/// The order in which partial sums of pairs of items are added: with the largest power of two p < n on the left,
/// sum(0, n) = sum(0, p) + sum(p, n). `leaf(i)` gives partial sum i; T needs +.
template <class T, class Leaf> T tree_sum(int64_t begin, int64_t end, const Leaf& leaf) {
  if (end - begin == 1) return leaf(begin);
  int64_t left = 1;
  while (2 * left < end - begin) left *= 2;
  return tree_sum<T>(begin, begin + left, leaf) + tree_sum<T>(begin + left, end, leaf);
}

/// One training sample's coefficients, computed in float64 by lib/diffusion/objective.ts, applied in float32. m: the
/// first C channels of the model output, v: the other C (learned variance).
struct LossSample {
  float target_x0 = 0, target_noise = 1;      ///< target = target_x0 · x0 + target_noise · noise (ε: 0, 1)
  float weight = 1;                           ///< of the main term
  float variational_weight = 0;               ///< of the variational term; 0: v is not trained (its gradient is 0)
  float sample_scale = 0, output_scale = 0;   ///< x̂0 = sample_scale · xt + output_scale · m
  float x0_coef = 0, x_coef = 0;              ///< posterior mean = x0_coef · x0 + x_coef · xt
  float true_log = 0;                         ///< log variance of the posterior
  float min_log = 0, max_log = 0;             ///< model's log variance = f·max_log + (1-f)·min_log, f = (v+1)/2
  bool last = false;                          ///< t = 0: discretised Gaussian likelihood instead of the KL divergence
};

/// Main term: mean over H·W·C of the squared error, or of Huber's loss (δ as in torch huber_loss: quadratic below δ).
/// Variational term in bits: mean over H·W·C of KL(posterior ‖ model) / ln 2, or of -log2 p(x0) at t = 0, with m
/// detached (Nichol & Dhariwal 2021, eq. 16 and section 3.1; improved-diffusion losses.py).
struct DiffusionLoss {
  enum class Main { Mse, Huber } main = Main::Mse;
  float huber_delta = 1;
  float gradient_scale = 1;          ///< 1 / samples of the logical batch
  std::vector<LossSample> samples;   ///< one per item
};

/// torch.optim.AdamW (Loshchilov & Hutter 2019), arithmetic in float32, the corrections computed in float64 by the
/// caller: g = gradient_scale · gradient; p -= lr · weight_decay · p; m = β1·m + (1-β1)·g; v = β2·v + (1-β2)·g²;
/// p -= step_size · m / (√v / root_correction + eps); ema = ema_decay · ema + (1 - ema_decay) · p.
struct AdamWStep {
  float gradient_scale = 1;          ///< of the clipping
  float lr = 0, weight_decay = 0, beta1 = 0.9f, beta2 = 0.999f, eps = 1e-8f;
  float step_size = 0;               ///< lr / (1 - β1^n)
  float root_correction = 1;         ///< √(1 - β2^n)
  float ema_decay = 0;
};

}  // namespace df
