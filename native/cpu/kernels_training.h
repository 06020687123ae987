// Kernels of the loss and the optimizer. Plain types only, see kernels.h; type indices are those of DType.
#pragma once
#include <stdint.h>

namespace df {

/// Values of one block of the loss.
constexpr int kLossBlock = 1024;

/// Values [begin, end) of one item, at most kLossBlock of them, counted over its pixels and channels. Addresses are those
/// of the item's first pixel, strides elements between pixels. See DiffusionLoss and LossSample for the formulas.
struct LossBlock {
  int64_t begin, end, channels;
  const void* model;     ///< of the kernel's type: m, then v at `variance` channels further on
  void* dmodel;          ///< the same, or null
  int64_t model_stride, dmodel_stride, variance;
  int zero_variance;     ///< dmodel has variance channels: they get 0 without a divergence
  const float *x0, *xt, *noise;
  int64_t x0_stride, xt_stride, noise_stride;
  float target_x0, target_noise;
  int huber;
  float huber_delta;
  float main_gradient;   ///< times the error (Huber: clamped to the delta) is the gradient of m
  int divergence;        ///< compute the KL divergence and its gradient
  float sample_scale, output_scale, x0_coef, true_log, min_log, max_log;
  float variance_gradient;  ///< times the derivative of the divergence by the log variance is the gradient of v
};

/// See AdamWStep; new1 = 1 - beta1 and so on, decay = lr * weight_decay.
struct AdamWCoefficients {
  float gradient_scale, decay, beta1, new1, beta2, new2, step_size, root_correction, eps, ema_decay, new_ema;
};

struct TrainingKernels {
  /// sums[0]: Σ squared error or Huber loss, sums[1]: Σ divergence in nats.
  void (*loss[2])(const LossBlock*, double* sums);
  /// Σ x² in double, as 16 interleaved sums: the same bits on every instruction set.
  double (*squared_sum)(const float* x, int64_t n);
  /// ema may be null. Every operation is rounded to float32 by itself: the same bits on every instruction set.
  void (*adamw)(float* p, float* m, float* v, float* ema, const float* g, int64_t n, const AdamWCoefficients*);
};

}  // namespace df
