// A weight gradient as its kernels see it: dw (out, taps * in) += scale · Σ over output pixels of dy ⊗ x. The pixels of a
// pair of items are cut into pieces; pair and piece make a share, summed by one block per tile.
#pragma once
#include "cuda/gemm/plan.h"
#include "cuda/gpu/host.cuh"
#include "cuda/gpu/math.cuh"

namespace df::IF_CUDA_NAMESPACE {

/// Partial sums in flight at a time. Emulated: so few that a test needs several slabs.
constexpr int64_t kGradientWorkspace = GPU_EMULATED ? 64 << 10 : gemm::kGradientWorkspace;

template <class T> struct WeightGradient {
  Rows<const T> x, dy;
  float* target;          // dw itself when there is one share, else the partial sums (shares, outs, taps * in)
  float scale;
  int items, in, out, taps, kernel_w;
  int x_in, dy_out;  // channels of x and dy with the zeros behind them: multiples of 8 for mma.sync
  int height, width, out_height, out_width, padding;
  int shares, pieces, piece_rows;  // shares: pairs * pieces
  int first_out, outs, first_tap, slab_taps;  // the slab
  bool add;                        // to target, instead of writing it
};

/// Output pixels [begin, end) of pair `pair`.
struct GradientRange {
  int pair, begin, end;
};
template <class T> GPU_FN GradientRange range_of(const WeightGradient<T>& p, int share) {
  const int pair = share / p.pieces, begin = share % p.pieces * p.piece_rows;
  const int rows = min(2, p.items - 2 * pair) * p.out_height * p.out_width;
  return {pair, begin, min(begin + p.piece_rows, rows)};
}

/// Row of dy (negative: none, and x counts as zero), first row of x of the image, and where tap (0, 0) reads.
struct GradientPlace {
  int64_t dy, image;
  int y, x;
};
template <class T> GPU_FN GradientPlace place_of(const WeightGradient<T>& p, const GradientRange& range, int pixel) {
  if (pixel >= range.end) return {-1, 0, 0, 0};
  const int pixels = p.out_height * p.out_width, n = pixel / pixels, rest = pixel - n * pixels, oh = rest / p.out_width;
  const int64_t item = int64_t(2) * range.pair + n;
  return {item * pixels + rest, item * p.height * p.width, oh - p.padding, rest - oh * p.out_width - p.padding};
}

/// Adds a whole sum to output o and column n, (tap of the slab, input channel), or keeps it as partial sum.
template <class T> GPU_FN void store_gradient(const WeightGradient<T>& p, int share, int o, int n, float sum) {
  const int64_t row = p.add ? o : int64_t(share) * p.outs + o - p.first_out;
  float* to = p.target + row * p.slab_taps * p.in + n;
  const float v = gpu::multiply_rounded(p.scale, sum);  // the same bits whether added here or by sum_kernel
  *to = p.add ? *to + v : v;
}

/// gradient[row][i] += the tree over pairs of Σ pieces partial[pair][piece][row][i], for `rows` rows of `width` elements.
void add_partial_gradients(Rows<float> gradient, const float* partial, int64_t rows, int64_t width, int64_t pairs,
                           int64_t pieces, gpu::Stream s);

/// weight_gradient_mma.cu: for bf16 and f16, when rows of x and dy begin at multiples of 16 bytes.
template <class T> void sum_mma(const WeightGradient<T>& p, gpu::Stream s);
/// hopper/weight_gradient_wgmma.cu: the same on a device of compute capability 9.0.
template <class T> void sum_wgmma(WeightGradient<T> p, Device device);
constexpr int kGradientTile = gemm::kGradientTile;  ///< of both: outputs and columns of a block

}  // namespace df::IF_CUDA_NAMESPACE
