// The contract between the ops and the code that computes them. One object per backend: `reference` (scalar, double
// accumulation; the oracle), `cpu` (per instruction set), `meta` (shapes only), `cuda`. Arguments are checked by
// ops/*.cpp before a backend is called: shapes agree, dtypes are those that the backend computes in unless said, all on one
// device.
// Outputs come first and are already allocated. Every image or token tensor may have any row stride.
#pragma once
#include <vector>

#include "ops/types.h"

namespace df {

class Backend {
 public:
  virtual ~Backend() = default;
  /// "reference", "cpu/avx512bf16", "meta", …
  virtual const char* name() const = 0;
  /// Whether activations and packed weights can be of this dtype. All backends take f32 and bf16; f16 is for inference.
  virtual bool computes(DType t) const { return t == DType::F32 || t == DType::BF16; }

  // ---- weights
  /// Packs a plain weight (O, kh, kw, I) of any floating dtype into the layout for products in `dtype`.
  virtual Weight pack(const Tensor& plain, DType dtype) = 0;
  /// A finite plain weight (O, I) as int8 (see quantize_row in cpu/quantize.h) for products in `dtype`: the layout of
  /// `pack` with one byte per value, and the scales.
  virtual Weight pack_int8(const Tensor& plain, DType dtype) = 0;
  /// Back to (O, kh, kw, I) in the dtype of `plain` (exact when the dtypes agree); int8 is multiplied out in float32.
  virtual void unpack(Tensor& plain, const Weight& weight) = 0;
  /// Bytes that `pack` keeps for such a weight.
  virtual size_t packed_bytes(int64_t out, int64_t kernel_h, int64_t kernel_w, int64_t in, DType dtype) = 0;

  // ---- products; accumulation in float32 or better, x, residual and y of one dtype = that of the weight
  virtual void linear(Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) = 0;
  virtual void conv2d(Tensor& y, const Tensor& x, const Weight& w, const Conv2dParams& p, const Epilogue& e) = 0;
  /// Bytes of working memory that conv2d keeps between calls, for x (N, H, W, I) and the threads of this execution.
  virtual size_t conv2d_scratch_bytes(const Shape&, const Weight&, const Conv2dParams&) { return 0; }
  virtual void attention(Tensor& y, const Tensor& q, const AttentionParams& p) = 0;

  // ---- normalisation
  virtual void group_norm(Tensor& y, const Tensor& x, const GroupNormParams& p) = 0;
  virtual void layer_norm(Tensor& y, const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps) = 0;
  virtual void rms_norm(Tensor& y, const Tensor& x, const Tensor& gamma, float eps) = 0;

  // ---- elementwise
  virtual void activation(Tensor& y, const Tensor& x, Activation kind) = 0;
  /// y = activation(gate) * up.
  virtual void gated_activation(Tensor& y, const Tensor& gate, const Tensor& up, Activation kind) = 0;
  /// y = a * x + b * z; any of the dtypes, y rounded once.
  virtual void axpby(Tensor& y, float a, const Tensor& x, float b, const Tensor& z) = 0;
  /// Copies with conversion between f32, bf16 and f16.
  virtual void copy(Tensor& y, const Tensor& x) = 0;
  virtual bool all_finite(const Tensor& x) = 0;

  // ---- layout and sampling of pixels
  virtual void resample(Tensor& y, const Tensor& x, Resample mode) = 0;
  /// Bilinear, corners aligned, to the height and width of y.
  virtual void bilinear(Tensor& y, const Tensor& x) = 0;
  /// (N, C, H, W) float32 contiguous → (N, H, W, C) of y's dtype.
  virtual void nchw_to_nhwc(Tensor& y, const Tensor& x) = 0;
  virtual void nhwc_to_nchw(Tensor& y, const Tensor& x) = 0;

  // ---- embeddings and tokens
  /// y[i] = table[ids[i]]; ids int32 already checked to be in range.
  virtual void embedding(Tensor& y, const Tensor& ids, const Tensor& table) = 0;
  /// Sinusoidal embedding of (B) float32 timesteps into y (B, dim) float32; see ops.h.
  virtual void timestep_embedding(Tensor& y, const Tensor& t, bool flip_sin_to_cos, float freq_shift) = 0;
  /// y (B, T+1, C): y[:,0] = mean over tokens of x + position; y[:,1:] = x. position: (C) float32.
  virtual void prepend_mean_token(Tensor& y, const Tensor& x, const Tensor& position) = 0;
  /// y (heads, T, T) float32 from table (buckets, heads) float32: T5's bidirectional bucketed distances.
  virtual void relative_position_bias(Tensor& y, const Tensor& table, int max_distance) = 0;

  // ---- diffusion
  /// prev, x0 (undefined if not wanted), x, noise (undefined if not needed): (B, H, W, C) float32;
  /// model: (B or 2B, H, W, C or 2C). With 2B items the first B are unconditional, the rest conditional;
  /// learned variance channels come from the conditional half.
  virtual void ddpm_step(Tensor& prev, Tensor& x0, const Tensor& x, const Tensor& model, const Tensor& noise, const DdpmStep& p) = 0;

  // ---- backward. dy: the gradient of the op's result, in its dtype. Activation gradients are `Gradient`s. Parameter
  // gradients (dw, db, dgamma, …) are float32, contiguous, undefined when not wanted, and always added to: first the
  // sums over pairs of items (0, 1), (2, 3), … (dim 0 of x), then the pairs by a binary tree (see tree_sum in types.h),
  // then one addition to what is there, so that the batch may be cut among replicas without a change of bits.

  /// The weight that maps dy to dx: plain (O, kh, kw, I) of any floating dtype with taps mirrored and O and I exchanged.
  virtual Weight pack_transposed(const Tensor& plain, DType dtype) { not_implemented("pack_transposed"); }
  /// dw (O, kh, kw, I) += scale · Σ over output pixels of dy ⊗ x, of conv2d with stride 1, or of linear (1×1).
  /// p.algorithm as for conv2d, without the forms that are multiplied in bfloat16.
  virtual void weight_gradient(Tensor& dw, const Tensor& x, const Tensor& dy, const Conv2dParams& p, float scale) { not_implemented("weight_gradient"); }
  /// db (C) += scale · Σ over rows of dy.
  virtual void bias_gradient(Tensor& db, const Tensor& dy, float scale) { not_implemented("bias_gradient"); }
  /// y is what the forward pass gave. dkey and dvalue have as many entries as p.segments. dbias (heads, Tq, Tk) sums over
  /// the items.
  virtual void attention_backward(Gradient dq, const std::vector<Gradient>& dkey, const std::vector<Gradient>& dvalue, Tensor dbias, const Tensor& dy, const Tensor& y, const Tensor& q, const AttentionParams& p) { not_implemented("attention_backward"); }
  virtual void group_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, Gradient dscale, Gradient dshift, const Tensor& dy, const Tensor& x, const GroupNormParams& p) { not_implemented("group_norm_backward"); }
  virtual void layer_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, const Tensor& dy, const Tensor& x, const Tensor& gamma, float eps) { not_implemented("layer_norm_backward"); }
  virtual void rms_norm_backward(Gradient dx, Tensor dgamma, const Tensor& dy, const Tensor& x, const Tensor& gamma, float eps) { not_implemented("rms_norm_backward"); }
  virtual void activation_backward(Gradient dx, const Tensor& dy, const Tensor& x, Activation kind) { not_implemented("activation_backward"); }
  virtual void gated_activation_backward(Gradient dgate, Gradient dup, const Tensor& dy, const Tensor& gate, const Tensor& up, Activation kind) { not_implemented("gated_activation_backward"); }
  /// dx = a · dy; dtypes may differ (f32, bf16). The backward of axpby, of residuals and of copies.
  virtual void scale_backward(Gradient dx, float a, const Tensor& dy) { not_implemented("scale_backward"); }
  virtual void resample_backward(Gradient dx, const Tensor& dy, Resample mode) { not_implemented("resample_backward"); }
  virtual void prepend_mean_token_backward(Gradient dx, Tensor dposition, const Tensor& dy) { not_implemented("prepend_mean_token_backward"); }
  /// dtable (V, C) += the rows of dy (…, C) at ids (…), dim 0 of ids being the items.
  virtual void embedding_backward(Tensor& dtable, const Tensor& dy, const Tensor& ids) { not_implemented("embedding_backward"); }
  /// dtable (buckets, heads) += from dy (heads, T, T) float32.
  virtual void relative_position_bias_backward(Tensor& dtable, const Tensor& dy, int max_distance) { not_implemented("relative_position_bias_backward"); }

  // ---- training; all float32 unless said
  /// y = a[i] · x + b[i] · z for every item i of the batch (dim 0): q_sample and its like.
  virtual void blend(Tensor& y, const std::vector<float>& a, const Tensor& x, const std::vector<float>& b, const Tensor& z) { not_implemented("blend"); }
  /// terms (B, 2): the weighted main term and variational term of every sample; dmodel: the gradient of
  /// p.gradient_scale · Σ terms, shape and dtype of `model` (undefined: not wanted). See DiffusionLoss.
  virtual void diffusion_loss(Tensor& terms, Tensor& dmodel, const Tensor& model, const Tensor& x0, const Tensor& xt, const Tensor& noise, const DiffusionLoss& p) { not_implemented("diffusion_loss"); }
  /// Σ x² in double, by a fixed tree.
  virtual double squared_norm(const Tensor& x) { not_implemented("squared_norm"); }
  /// One AdamW step of one parameter, its moments and (if defined) its EMA, all contiguous of one size; see AdamWStep.
  virtual void adamw_step(Tensor& parameter, Tensor& m, Tensor& v, Tensor& ema, const Tensor& gradient, const AdamWStep& p) { not_implemented("adamw_step"); }

 private:
  [[noreturn]] void not_implemented(const char* op);
};

/// The backend that computes for a device. Throws NOT_BUILT for a device that this build or machine lacks.
Backend& backend_for(Device device);

/// Instruction sets of the CPU backend, worst first: "reference", "portable", "avx2", "avx512", "avx512bf16".
struct CpuIsa {
  const char* name;
  bool supported;  ///< by this machine (CPUID and XCR0) and build
};
std::vector<CpuIsa> cpu_isas();
/// The CPU backend of one instruction set. Throws INVALID_ARGUMENT for an unknown name, NOT_BUILT for an unsupported one.
Backend& cpu_backend(const char* isa);
/// The instruction set of backend_for(cpu): the best supported one, or what the environment variable IF_CPU_ISA names.
const char* cpu_isa();

}  // namespace df
