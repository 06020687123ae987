// How products are cut: pure functions of shapes and of the number of multiprocessors. Cuts of a sum enter the bits of
// the result, so they depend on the size of an item and never on the number of items.
#pragma once
#include <algorithm>
#include <cstdint>

namespace df::IF_CUDA_NAMESPACE {

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct GradientPlan {
  int64_t pieces = 1, piece_rows = 1;
};
/// Pieces of the pixels of a pair of items of `item_rows` output pixels: enough blocks for two per multiprocessor, but at
/// least 512 pixels each.
inline GradientPlan plan_weight_gradient(int64_t item_rows, int64_t out, int64_t columns, int multiprocessors) {
  const int64_t tiles = ceil_div(out, 64) * ceil_div(columns, 64);
  const int64_t wanted = ceil_div(2 * multiprocessors, tiles), most = std::max<int64_t>(1, 2 * item_rows / 512);
  GradientPlan plan;
  plan.piece_rows = ceil_div(ceil_div(2 * item_rows, std::clamp<int64_t>(wanted, 1, most)), 32) * 32;
  plan.pieces = ceil_div(2 * item_rows, plan.piece_rows);
  return plan;
}

/// Outputs whose partial sums fit the workspace, in whole tiles of 128.
inline int64_t gradient_slab(int64_t out, int64_t columns, int64_t shares, int64_t workspace_bytes) {
  const int64_t fits = workspace_bytes / (shares * columns * int64_t(sizeof(float))) / 128 * 128;
  return std::min(out, std::max<int64_t>(fits, 128));
}

}  // namespace df::IF_CUDA_NAMESPACE
