// Kernels of the gradients of linear and conv2d. Plain types only, see kernels.h; type indices are those of DType.
#pragma once
#include <stdint.h>

namespace df {

/// dw += scale · Σ over output pixels of dy ⊗ x: the weight gradient of a convolution with stride 1, or of a linear layer
/// (width 1, one tap), as matrix products over the pixels of packed *images*. Where a unit is one value, an image is an
/// item. Where it is two, the items of a pair lie side by side, because neighbouring pixels would be torn apart by the
/// shift of a tap; a last single item is cut into its upper and lower half.
struct WeightGradientProblem {
  const void* x;
  const void* dy;
  int64_t x_stride, dy_stride;  ///< elements between rows
  int64_t items, height, width, in, out_height, out_width, out;
  int64_t kernel_h, kernel_w, padding;
  float scale;
  float* dw;                ///< (out, kernel_h, kernel_w, in)
  int64_t images;
  void* packed_x;           ///< [panel][image][out_height + kernel_h - 1][out_width + kernel_w - 1][panel width][unit]
  void* packed_dy;          ///< [block][image][out_height][out_width][tile rows][unit]
  int64_t block_rows;       ///< rows of an image in one K block
};

struct ProductsBackwardKernels {
  int unit[2];              ///< values of a packed operand side by side, per type
  int value_size[2];        ///< bytes of one

  /// Rows [begin, end) of the packed images, counted through all of them: out_height + kernel_h - 1 (x) or out_height
  /// (dy) per image.
  void (*pack_x[2])(const WeightGradientProblem*, int64_t begin, int64_t end);
  void (*pack_dy[2])(const WeightGradientProblem*, int64_t begin, int64_t end);
  /// The weights of one panel of inputs and the blocks [begin, end) of outputs, a block being as many as a register tile
  /// has rows. slots: partial sums, bit_width(pairs of items) * (end - begin) * taps tiles of tile rows * panel width.
  void (*weight_gradient[2])(const WeightGradientProblem*, int64_t panel, int64_t begin, int64_t end, float* slots);

  /// sums = Σ over rows of x (rows, channels).
  void (*column_sums[2])(float* sums, const void* x, int64_t stride, int64_t rows, int64_t channels);
};

}  // namespace df
