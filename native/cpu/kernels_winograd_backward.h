// Kernels of the weight gradient of 3×3 convolutions by Winograd's forms. Plain types only, see kernels.h; type indices
// are those of DType.
#pragma once
#include <stdint.h>

namespace df {

struct WinogradProblem;

/// Register tiles of outputs that lie side by side in `d`.
constexpr int kGradientGroup = 8;

/// dw += scale · Σ over output pixels of dy ⊗ x for a 3×3 convolution of stride 1 and padding 1, one block of tiles at a
/// time. Steps between positions, panels and groups are in values.
struct WinogradGradientProblem {
  const WinogradProblem* block;  ///< x, zeros, image and tiles, `first` and `count`; in and out of the weight
  const void* dy;
  int64_t dy_stride;             ///< elements between rows
  float* v;                      ///< transformed windows of x [panel][(tile + 2)²][count][panel width]
  float* d;                      ///< transformed tiles of dy [group][(tile + 2)²][count][group * tile rows]
  int64_t v_step, v_panel, d_step, d_group;
  float scale;
  float* dw;                     ///< (out, 3, 3, in)
};

/// Tiles [begin, end) of a block, of one pair of items.
struct WinogradGradientStep {
  int64_t pair, pairs;  ///< of the batch
  int64_t begin, end;
  int resume, complete; ///< 0: the first, 1: the last tiles of the pair
};

/// One form; null for types that have no use for it.
struct WinogradBackwardKernels {
  /// Tiles [begin, end) of a block, from x to v, and from dy to d.
  void (*input[2])(const WinogradGradientProblem*, int64_t begin, int64_t end);
  void (*output[2])(const WinogradGradientProblem*, int64_t begin, int64_t end);
  /// The weights of one panel of inputs and the register tiles [begin, end) of outputs. slots: partial sums,
  /// bit_width(pairs) * (end - begin) * 9 tiles of tile rows * panel width; products: 2 * (tile + 2) * (end - begin)
  /// such tiles.
  void (*multiply)(const WinogradGradientProblem*, const WinogradGradientStep*, int64_t panel, int64_t begin, int64_t end,
                   float* slots, float* products);
};

}  // namespace df
