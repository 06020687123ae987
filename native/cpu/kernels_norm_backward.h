// Kernels of the backward pass of the norms (see kernels.h). Plain types only.
#pragma once
#include <stdint.h>

namespace df {

/// Rows of layer_norm or rms_norm on the way back.
struct RowNormBackward {
  void* dx;  ///< or null
  int64_t dx_stride;
  int add;   ///< dx is added to
  const void* dy;
  int64_t dy_stride;
  const void* x;
  int64_t x_stride;
  int64_t rows, channels;
  const float* gamma;
  float eps;
  double *dgamma, *dbeta;  ///< (channels): Σ dy·x̂ and Σ dy over the rows, or null
  float* sums;             ///< 2 * channels, working memory
};

struct NormBackwardKernels {
  /// Per channel Σg and Σ g·(x - mean) over pixels, in double; g = dy · activation'((x - mean) * a + b).
  void (*gradient_moments[2])(const void* dy, int64_t dy_stride, const void* x, int64_t x_stride, int64_t pixels,
                              int64_t channels, const float* mean, const float* a, const float* b, int activation,
                              double* sum, double* product);
  /// dx = g * a - (x - mean) * slope - offset, with that g; added to dx when `add`. factors: five rows of `channels`
  /// values: mean, a, b, slope, offset.
  void (*normalize_backward[2])(void* dx, int64_t dx_stride, int add, const void* dy, int64_t dy_stride, const void* x,
                                int64_t x_stride, int64_t pixels, int64_t channels, const float* factors,
                                int activation);
  void (*layer_norm_backward[2])(const RowNormBackward*);
  void (*rms_norm_backward[2])(const RowNormBackward*);
};

}  // namespace df
