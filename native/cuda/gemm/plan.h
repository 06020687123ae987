// How products are cut: pure functions of shapes and of the number of multiprocessors. Cuts of a sum enter the bits of
// the result, so they depend on the size of an item and never on the number of items.
#pragma once
#include <algorithm>
#include <cstdint>

namespace df::gemm {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

enum class ProductTile { Large, Middle, Small };  // 128×128, 128×64, 64×64

struct ProductPlan {
  ProductTile tile = ProductTile::Small;
  int splits = 1;  // of the sum
};

/// Clocks of one multiprocessor per 64 steps of K of a tile, and per tile besides: ratios of the multiplying and copying
/// instructions, to be replaced by measurements.
struct TileCost {
  ProductTile tile;
  int rows, columns;
  double step, tile_start;
};
constexpr TileCost kTileCosts[] = {{ProductTile::Large, 128, 128, 1600, 3000},
                                   {ProductTile::Middle, 128, 64, 950, 2500},
                                   {ProductTile::Small, 64, 64, 570, 2000}};
constexpr int64_t kLeastSplitSteps = 8;  // a share of 512 values at least
constexpr int kMostSplits = 16;
constexpr double kMemoryBytesPerClock = 2000;  // partial sums are written and read once

inline double product_cost(const TileCost& t, int64_t rows, int64_t out, int64_t steps, int64_t splits,
                           int multiprocessors) {
  const int64_t blocks = ceil_div(rows, t.rows) * ceil_div(out, t.columns) * splits;
  const double traffic = splits > 1 ? 8.0 * double(rows * out * splits) / kMemoryBytesPerClock : 0;
  return double(ceil_div(blocks, multiprocessors)) * (t.step * double(ceil_div(steps, splits)) + t.tile_start) + traffic;
}

/// rows, out: the result; item_rows: rows of one item; steps: of 64 values of the sum. The tile is chosen for all rows, the
/// splits for two items (a picture with and without its text).
inline ProductPlan plan_product(int64_t rows, int64_t item_rows, int64_t out, int64_t steps, int multiprocessors) {
  ProductPlan plan;
  double least = 0;
  for (const TileCost& t : kTileCosts)
    for (int splits = 1; splits == 1 || (splits <= kMostSplits && steps >= kLeastSplitSteps * splits); splits++) {
      const double cost = product_cost(t, 2 * item_rows, out, steps, splits, multiprocessors);
      if (least == 0 || cost < least) least = cost, plan.splits = splits;
    }
  least = 0;
  for (const TileCost& t : kTileCosts) {
    const double cost = product_cost(t, rows, out, steps, plan.splits, multiprocessors);
    if (least == 0 || cost < least) least = cost, plan.tile = t.tile;
  }
  return plan;
}

/// Workspaces, in bytes: partial sums and widened int8 weights of a product, partial sums of a weight gradient.
constexpr int64_t kSplitWorkspace = 16 << 20, kWidenedWorkspace = 16 << 20, kGradientWorkspace = 64 << 20;

/// How many of `units`, whose partial sums take unit_bytes each, one launch makes: what fits the workspace, one at least.
inline int64_t split_slab(int64_t units, int64_t splits, int64_t unit_bytes, int64_t workspace_bytes) {
  return splits == 1 ? units : std::clamp<int64_t>(workspace_bytes / unit_bytes, 1, units);
}
/// How many outputs of an int8 weight are widened at a time: tiles that fit the workspace, one at least.
inline int64_t widened_slab(int64_t row_bytes, int64_t workspace_bytes) {
  return std::max<int64_t>(workspace_bytes / row_bytes / 128 * 128, 128);
}
// ---- wgmma

/// Output pixels: n images × h rows × w columns, and how many such boxes cover the pictures.
struct PixelBox {
  int n = 1, h = 1, w = 128;
  int tiles_n = 1, tiles_h = 1, tiles_w = 1;
};
/// The box of `pixels` pixels, a power of two, that needs the fewest tiles; among equals the widest, then the highest.
inline PixelBox plan_box(int64_t images, int64_t height, int64_t width, int pixels = 128) {
  PixelBox best;
  int64_t fewest = -1;
  for (int w = pixels; w >= 1; w /= 2)
    for (int h = pixels / w; h >= 1; h /= 2) {
      const int n = pixels / (w * h);
      const int64_t tiles = ceil_div(images, n) * ceil_div(height, h) * ceil_div(width, w);
      if (fewest >= 0 && tiles >= fewest) continue;
      fewest = tiles;
      best = {n, h, w, int(ceil_div(images, n)), int(ceil_div(height, h)), int(ceil_div(width, w))};
    }
  return best;
}

struct WidePlan {
  int width = 128;  // outputs of a tile
  int splits = 1;
};
/// 176 divides the widths of IF-I-XL (704, 1408, …), 160 those of IF-I-L and IF-II-L (320, 640, …); 64 is for the last
/// convolution of a model.
constexpr int kWideTiles[] = {256, 192, 176, 160, 128, 64};

inline double wide_cost(int width, int64_t rows, int64_t out, int64_t steps, int64_t splits, int multiprocessors) {
  const int64_t blocks = ceil_div(rows, 128) * ceil_div(out, width) * splits;
  const double traffic = splits > 1 ? 8.0 * double(rows * out * splits) / kMemoryBytesPerClock : 0;
  // 2048 multiplications per clock, seven eighths of which are reached; narrow tiles wait for the pixels of A
  const double step = 128.0 * (width + 16) * 64 / 1792;
  return double(ceil_div(blocks, multiprocessors)) * (step * double(ceil_div(steps, splits)) + 2500) + traffic;
}

/// As plan_product.
inline WidePlan plan_wide_product(int64_t rows, int64_t item_rows, int64_t out, int64_t steps, int multiprocessors) {
  WidePlan plan;
  double least = 0;
  for (int width : kWideTiles)
    for (int splits = 1; splits == 1 || (splits <= kMostSplits && steps >= kLeastSplitSteps * splits); splits++) {
      const double cost = wide_cost(width, 2 * item_rows, out, steps, splits, multiprocessors);
      if (least == 0 || cost < least) least = cost, plan.splits = splits;
    }
  least = 0;
  for (int width : kWideTiles) {
    const double cost = wide_cost(width, rows, out, steps, plan.splits, multiprocessors);
    if (least == 0 || cost < least) least = cost, plan.width = width;
  }
  return plan;
}

/// Most bytes of the partial sums of a product, by mma.sync or wgmma: the workspace, or one row of tiles of the one or one
/// tile of the other where that is more. in: as packed.
inline int64_t product_scratch_bytes(int64_t rows, int64_t item_rows, int64_t out, int64_t taps, int64_t in,
                                     int multiprocessors, int64_t workspace_bytes) {
  const ProductPlan plan = plan_product(rows, item_rows, out, ceil_div(taps * in, 64), multiprocessors);
  const WidePlan wide = plan_wide_product(rows, item_rows, out, taps * ceil_div(in, 64), multiprocessors);
  int64_t values = 0;
  for (const TileCost& t : kTileCosts)
    if (t.tile == plan.tile && plan.splits > 1) values = t.rows * ceil_div(out, t.columns) * t.columns * plan.splits;
  if (wide.splits > 1) values = std::max<int64_t>(values, 128 * wide.width * wide.splits);
  if (plan.splits == 1 && wide.splits == 1) return 0;
  return std::max(values * int64_t(sizeof(float)), workspace_bytes);
}

// ---- weight gradients

/// Outputs and columns of a block of the plain kernel, and of those with mma.sync and wgmma.
constexpr int kPlainGradientTile = 64, kGradientTile = 128;

struct GradientPlan {
  int64_t pieces = 1, piece_rows = 1;
};
/// Pieces of the pixels of a pair of items of `item_rows` output pixels: enough blocks for two per multiprocessor, but at
/// least 512 pixels each. columns: taps · inputs; tile: outputs and columns of one block.
inline GradientPlan plan_weight_gradient(int64_t item_rows, int64_t out, int64_t columns, int64_t tile,
                                         int multiprocessors) {
  const int64_t tiles = ceil_div(out, tile) * ceil_div(columns, tile);
  const int64_t wanted = ceil_div(2 * multiprocessors, tiles), most = std::max<int64_t>(1, 2 * item_rows / 512);
  GradientPlan plan;
  plan.piece_rows = ceil_div(ceil_div(2 * item_rows, std::clamp<int64_t>(wanted, 1, most)), 64) * 64;
  plan.pieces = ceil_div(2 * item_rows, plan.piece_rows);
  return plan;
}

struct GradientSlab {
  int64_t outs, taps;
};
/// The part of a gradient whose partial sums fit the workspace: all taps of as many tiles of 128 outputs as possible, else
/// one tile and as many taps, one at least.
inline GradientSlab gradient_slab(int64_t out, int64_t taps, int64_t in, int64_t shares, int64_t workspace_bytes) {
  const int64_t tap_bytes = shares * in * int64_t(sizeof(float)), fits = workspace_bytes / (tap_bytes * taps) / 128 * 128;
  if (fits >= 128 || out <= 128) return {std::min(out, std::max<int64_t>(fits, 128)), taps};
  return {128, std::clamp<int64_t>(workspace_bytes / (tap_bytes * 128), 1, taps)};
}
/// Most bytes of the partial sums of a weight gradient, whatever kernel makes it.
inline int64_t gradient_scratch_bytes(int64_t items, int64_t item_rows, int64_t out, int64_t taps, int64_t in,
                                      int multiprocessors, int64_t workspace_bytes) {
  int64_t most = 0;
  for (int tile : {kPlainGradientTile, kGradientTile}) {
    const int64_t shares =
        ceil_div(items, 2) * plan_weight_gradient(item_rows, out, taps * in, tile, multiprocessors).pieces;
    const GradientSlab slab = gradient_slab(out, taps, in, shares, workspace_bytes);
    if (shares > 1) most = std::max(most, shares * slab.outs * slab.taps * in * int64_t(sizeof(float)));
  }
  return most;
}

}  // namespace df::gemm
