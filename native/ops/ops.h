// What modules call. Every op checks its arguments (INVALID_ARGUMENT: op, parameter, expected, got), heeds cancellation,
// counts its work, picks the backend of its input's device and returns the result. `into`, where present, is a tensor or
// view of the right shape that receives the result (a slice of a wider buffer makes a concatenation free).
#pragma once
#include <vector>

#include "core/tensor.h"
#include "ops/types.h"

namespace df::ops {

// ---- linear.cpp, conv2d.cpp
/// Packs (O, I) or (O, kh, kw, I) for products in `dtype` on the device of `plain`.
Weight pack(const Tensor& plain, DType dtype);
/// Packs the transpose of (I, O), for products that map I to O.
Weight pack_transposed(const Tensor& plain, DType dtype);
/// Packs (O, I) as int8 with one float32 scale per output, for products in `dtype` with float32 accumulation. The values
/// must be finite.
Weight pack_int8(const Tensor& plain, DType dtype);
/// The plain weight (O, kh, kw, I) in `dtype`.
Tensor unpack(const Weight& weight, DType dtype);
/// x (…, I) → (…, O).
Tensor linear(const Tensor& x, const Weight& w, const Epilogue& e = {}, Tensor into = {});
/// x (N, H, W, I) → (N, H', W', O), H' = (H + 2*padding - kh) / stride + 1.
Tensor conv2d(const Tensor& x, const Weight& w, const Conv2dParams& p, const Epilogue& e = {}, Tensor into = {});

// ---- attention.cpp
/// q (B, Tq, heads*width) → (B, Tq, heads*width). Vaswani et al. 2017, eq. 1, with added keys.
Tensor attention(const Tensor& q, const AttentionParams& p);
/// Every row of a mask (B, Tk) int32 must keep a key, for a row without keys has no softmax. `attention` checks this on the
/// CPU; check masks of other devices before they go there.
void check_mask(const Tensor& mask);
/// x (B, T, C) → (B, T+1, C): the mean token plus `position` (C) in front (diffusers AttentionPooling.forward).
Tensor prepend_mean_token(const Tensor& x, const Tensor& position);
/// table (buckets, heads) float32 → (heads, T, T) float32 (transformers T5Attention._relative_position_bucket, encoder).
Tensor relative_position_bias(const Tensor& table, int64_t tokens, int max_distance);

// ---- norm.cpp
/// x (N, …, C), statistics per item over all positions. Wu & He 2018.
Tensor group_norm(const Tensor& x, const GroupNormParams& p, Tensor into = {});
Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps);
/// x / sqrt(mean(x²) + eps) * gamma, no mean, no bias (T5LayerNorm).
Tensor rms_norm(const Tensor& x, const Tensor& gamma, float eps);

// ---- elementwise.cpp
Tensor activation(const Tensor& x, Activation kind);
Tensor gated_activation(const Tensor& gate, const Tensor& up, Activation kind);
/// a*x + b*z; result in the dtype of x.
Tensor axpby(float a, const Tensor& x, float b, const Tensor& z);
/// terms[0] += terms[1] + …, float32 and alike, by tree_sum; all terms but the first hold partial sums afterwards. They
/// may be on different devices of one type.
void add_terms(const std::vector<Tensor>& terms);
/// Copy with conversion; `into` may be a strided view.
Tensor copy(const Tensor& x, DType dtype, Tensor into = {});
bool all_finite(const Tensor& x);
/// A dense copy on `device`.
Tensor to_device(const Tensor& x, Device device);

// ---- resample.cpp
Tensor resample(const Tensor& x, Resample mode, Tensor into = {});
/// torch.nn.functional.interpolate(mode="bilinear", align_corners=True). x (N, H, W, C).
Tensor bilinear(const Tensor& x, int64_t height, int64_t width);
/// (N, C, H, W) float32 → (N, H, W, C) `dtype`, and back to float32.
Tensor nchw_to_nhwc(const Tensor& x, DType dtype);
Tensor nhwc_to_nchw(const Tensor& x);

// ---- embedding.cpp
/// ids (…) int32 in [0, V) → (…, C); INVALID_ARGUMENT names the first id out of range. Only ids on the CPU can be looked
/// at: check those of other devices before they go there.
Tensor embedding(const Tensor& ids, const Tensor& table);
void check_ids(const Tensor& ids, int64_t vocabulary);
/// t (B) float32 → (B, dim) float32. freq_i = 10000^(-i / (dim/2 - freq_shift)); halves [sin, cos], or [cos, sin] when
/// flipped; an odd dim gets a zero last column (diffusers get_timestep_embedding; Vaswani et al. 2017, 3.5).
Tensor timestep_embedding(const Tensor& t, int64_t dim, bool flip_sin_to_cos, float freq_shift);

// ---- diffusion.cpp
struct DdpmResult {
  Tensor prev, x0;
};
/// One ancestral step (Ho et al. 2020, eq. 7; Nichol & Dhariwal 2021, eq. 15; Saharia et al. 2022, section 2.3), with
/// classifier-free guidance when `model` has twice the items of x (uncond first). See DdpmStep.
DdpmResult ddpm_step(const Tensor& x, const Tensor& model, const Tensor& noise, const DdpmStep& p, bool want_x0);

}  // namespace df::ops
