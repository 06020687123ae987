// The weight gradient of 3×3 convolutions by Winograd's forms: which form is used, and how the work is cut. The arithmetic
// is in kernels/winograd_backward.h.
#include <algorithm>
#include <bit>
#include <vector>

#include "core/parallel.h"
#include "cpu/cpu_backend.h"
#include "cpu/scratch.h"

namespace df {
namespace {

// Transformed x and dy of a step (a pair of items, or about equal parts of it) and of a block of steps: they stay in L3
// while every work item reads a panel of one and a group of the other. A step of fewer tiles would be mostly transforms.
constexpr int64_t kStepBytes = 8 << 20, kBlockBytes = 16 << 20, kFewestTiles = 32;
// An odd number of cache lines between the positions: else all of them fall into one set of the L1 cache.
constexpr int64_t kPaddingValues = 5 * 16;
// Pixels of one item of the transforms.
constexpr int64_t kItemPixels = 32;
// Enough items for many threads.
constexpr int64_t kEnoughItems = 24;

// What a form costs, in multiply-adds of float32: `transform` per value of the windows and of the tiles of dy, `weight` per
// weight, position and step. The direct sum takes kDirect per product of float32.
struct FormCosts {
  double transform, weight;
};
constexpr FormCosts kCosts[] = {{12, 16}, {29, 10}};  // kF4, kF8
constexpr double kDirect = 1.08;
// How much faster a form must be than the direct sum.
constexpr double kLeastGain = 1.1;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

CpuBackend::WinogradGradientSizes CpuBackend::winograd_gradient_sizes(int form, const Shape& dw, const Shape& x) const {
  WinogradGradientSizes s;
  const int64_t tile = kernels_.winograd[form].tile;
  s.positions = (tile + 2) * (tile + 2);
  s.tiles_y = ceil_div(x[1], tile);
  s.tiles_x = ceil_div(x[2], tile);
  s.groups = ceil_div(dw[0], kGradientGroup * kernels_.tile_rows);
  s.tile_values = panels(dw[3]) * kernels_.panel + s.groups * kGradientGroup * kernels_.tile_rows;
  const int64_t bytes = s.positions * s.tile_values * int64_t(sizeof(float)), pair_tiles = 2 * s.tiles_y * s.tiles_x;
  const int64_t most = std::max(kFewestTiles, kStepBytes / bytes);
  s.step_tiles = ceil_div(pair_tiles, std::max<int64_t>(1, (pair_tiles + most / 2) / most));
  s.block_tiles = std::max(s.step_tiles, kBlockBytes / bytes);
  return s;
}

std::optional<WinogradForm> CpuBackend::winograd_gradient_form(const Shape& dw, const Shape& x, DType dtype,
                                                               const Conv2dParams& p) const {
  const bool possible = dw.rank() == 4 && x.rank() == 4 && dw[1] == 3 && dw[2] == 3 && p.padding == 1 &&
                        std::max(dw[0], dw[3]) * int64_t(dtype_size(dtype)) <= kZeroBytes;
  if (!possible || p.algorithm == ConvAlgorithm::Direct) return {};
  const auto exists = [&](int form) { return kernels_.winograd_backward[form].input[int(dtype)] != nullptr; };
  if (p.algorithm == ConvAlgorithm::WinogradF4) return kF4;
  if (p.algorithm == ConvAlgorithm::WinogradF8) return exists(kF8) ? std::optional(kF8) : std::nullopt;
  if (p.algorithm != ConvAlgorithm::Default && p.algorithm != ConvAlgorithm::Fast) return {};
  // of a pair of items; a sum over many pixels in bfloat16 has no use for the accuracy that F(8×8) lacks
  std::optional<WinogradForm> best;
  double least = kDirect / kLeastGain * 9 * 2 * double(x[1] * x[2]) / kernels_.product_rate[int(dtype)];
  for (WinogradForm form : {kF4, kF8}) {
    if (!exists(form)) continue;
    const WinogradGradientSizes s = winograd_gradient_sizes(form, dw, x);
    const int64_t tiles = 2 * s.tiles_y * s.tiles_x, steps = ceil_div(tiles, s.step_tiles);
    const double transforms = kCosts[form].transform * (1 / double(dw[0]) + 1 / double(dw[3]));
    const double cost = double(s.positions) * (double(tiles) * (1 + transforms) + double(steps) * kCosts[form].weight);
    if (cost >= least) continue;
    least = cost;
    best = form;
  }
  return best;
}

void CpuBackend::winograd_weight_gradient(WinogradForm form, Tensor& dw, const Tensor& x, const Tensor& dy,
                                          float scale) const {
  const WinogradBackwardKernels& kernels = kernels_.winograd_backward[form];
  const int type = int(x.dtype()), tile = kernels_.winograd[form].tile;
  const WinogradGradientSizes sizes = winograd_gradient_sizes(form, dw.shape(), x.shape());
  const int64_t positions = sizes.positions, group = kGradientGroup * kernels_.tile_rows;
  WinogradProblem block = {};
  block.conv.x = x.raw();
  block.conv.x_stride = x.row_stride();
  block.conv.zeros = kZeros;
  block.conv.height = x.dim(1);
  block.conv.width = x.dim(2);
  block.conv.out = dw.dim(0);
  block.channels = dw.dim(3);
  block.tiles_y = sizes.tiles_y;
  block.tiles_x = sizes.tiles_x;
  WinogradGradientProblem g = {};
  g.block = &block;
  g.dy = dy.raw();
  g.dy_stride = dy.row_stride();
  g.scale = scale;
  g.dw = dw.data<float>();

  // A step is a pair of items, or a part of one that is too large; a block is as many steps as fit.
  const int64_t items = x.dim(0), item_tiles = block.tiles_y * block.tiles_x, pairs = ceil_div(items, 2);
  const int64_t in_panels = panels(block.channels), groups = sizes.groups, step_tiles = sizes.step_tiles;
  std::vector<WinogradGradientStep> steps;
  for (int64_t pair = 0; pair < pairs; pair++) {
    const int64_t first = 2 * pair * item_tiles, end = std::min(2 * pair + 2, items) * item_tiles;
    for (int64_t at = first; at < end; at += step_tiles)
      steps.push_back({pair, pairs, at, std::min(at + step_tiles, end), at > first, at + step_tiles >= end});
  }
  const int64_t tiles = items * item_tiles, largest = std::min(tiles, sizes.block_tiles);
  const bool one_block = tiles <= largest;

  const int64_t rows = ceil_div(block.conv.out, kernels_.tile_rows), tile_sums = kernels_.tile_rows * kernels_.panel;
  int64_t item_rows = kGradientGroup;
  while (item_rows > 1 && in_panels * ceil_div(rows, item_rows) < kEnoughItems) item_rows /= 2;
  const int64_t row_items = ceil_div(rows, item_rows);
  const int64_t slot_values = std::bit_width(uint64_t(pairs)) * item_rows * 9 * tile_sums;
  const size_t slot_bytes = size_t(slot_values) * sizeof(float);
  const size_t product_bytes = size_t(2 * (tile + 2) * item_rows * tile_sums) * sizeof(float);
  float* waiting = one_block ? nullptr
                             : static_cast<float*>(scratch(Scratch::Packed, size_t(in_panels * row_items) * slot_bytes));
  const int64_t largest_values = positions * (largest * sizes.tile_values + (in_panels + groups) * kPaddingValues);
  g.v = static_cast<float*>(scratch(Scratch::Windows, size_t(largest_values) * sizeof(float)));

  for (size_t next = 0; next < steps.size();) {
    const size_t first = next;
    block.first = steps[first].begin;
    while (next < steps.size() && steps[next].end - block.first <= largest) next++;
    block.count = steps[next - 1].end - block.first;
    g.v_step = block.count * kernels_.panel + kPaddingValues;
    g.v_panel = positions * g.v_step;
    g.d = g.v + in_panels * g.v_panel;
    g.d_step = block.count * group + kPaddingValues;
    g.d_group = positions * g.d_step;

    const int64_t grain = std::max<int64_t>(1, kItemPixels / (tile * tile)), ranges = ceil_div(block.count, grain);
    parallel_for(2 * ranges, [&](int64_t item, int) {
      const int64_t begin = item / 2 * grain;
      const auto transform = item % 2 ? kernels.output[type] : kernels.input[type];
      transform(&g, begin, std::min(begin + grain, block.count));
    });
    // the items of a panel follow each other
    parallel_for(in_panels * row_items, [&](int64_t item, int) {
      float* slots = waiting ? waiting + item * slot_values : static_cast<float*>(scratch(Scratch::Partial, slot_bytes));
      float* products = static_cast<float*>(scratch(Scratch::Transformed, product_bytes));
      const int64_t begin = item % row_items * item_rows, end = std::min(begin + item_rows, rows);
      for (size_t i = first; i < next; i++) {
        WinogradGradientStep step = steps[i];
        step.begin -= block.first;
        step.end -= block.first;
        kernels.multiply(&g, &step, item / row_items, begin, end, slots, products);
      }
    });
  }
}

}  // namespace df
