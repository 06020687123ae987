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
constexpr TileCost kTileCosts[] = {
    {ProductTile::Large, 128, 128, 1600, 3000}, {ProductTile::Middle, 128, 64, 950, 2500}, {ProductTile::Small, 64, 64, 570, 2000}};
constexpr int64_t kLeastSplitSteps = 8;  // a share of 512 values at least
constexpr int kMostSplits = 16;
constexpr double kMemoryBytesPerClock = 2000;  // partial sums are written and read once

inline double product_cost(const TileCost& t, int64_t rows, int64_t out, int64_t steps, int64_t splits, int multiprocessors) {
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
/// 176 divides the widths of IF-I-XL (704, 1408, …), 160 those of IF-I-L and IF-II-L (320, 640, …).
constexpr int kWideTiles[] = {256, 192, 176, 160, 128};

inline double wide_cost(int width, int64_t rows, int64_t out, int64_t steps, int64_t splits, int multiprocessors) {
  const int64_t blocks = ceil_div(rows, 128) * ceil_div(out, width) * splits;
  const double traffic = splits > 1 ? 8.0 * double(rows * out * splits) / kMemoryBytesPerClock : 0;
  // 2048 multiplications per clock, seven eighths of which are reached
  return double(ceil_div(blocks, multiprocessors)) * (128.0 * width * 64 / 1792 * double(ceil_div(steps, splits)) + 2500) + traffic;
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

// ---- weight gradients

struct GradientPlan {
  int64_t pieces = 1, piece_rows = 1;
};
/// Pieces of the pixels of a pair of items of `item_rows` output pixels: enough blocks for two per multiprocessor, but at
/// least 512 pixels each. columns: taps · inputs; tile: outputs and columns of one block.
inline GradientPlan plan_weight_gradient(int64_t item_rows, int64_t out, int64_t columns, int64_t tile, int multiprocessors) {
  const int64_t tiles = ceil_div(out, tile) * ceil_div(columns, tile);
  const int64_t wanted = ceil_div(2 * multiprocessors, tiles), most = std::max<int64_t>(1, 2 * item_rows / 512);
  GradientPlan plan;
  plan.piece_rows = ceil_div(ceil_div(2 * item_rows, std::clamp<int64_t>(wanted, 1, most)), 64) * 64;
  plan.pieces = ceil_div(2 * item_rows, plan.piece_rows);
  return plan;
}

/// Outputs whose partial sums fit the workspace, in whole tiles of 128.
inline int64_t gradient_slab(int64_t out, int64_t columns, int64_t shares, int64_t workspace_bytes) {
  const int64_t fits = workspace_bytes / (shares * columns * int64_t(sizeof(float))) / 128 * 128;
  return std::min(out, std::max<int64_t>(fits, 128));
}

}  // namespace df::gemm
