// conv2d by Winograd's F(4×4, 3×3): when it is used, and the phases of a block of tiles. The arithmetic is in
// kernels/winograd.h.
#include <algorithm>

#include "core/parallel.h"
#include "cpu/cpu_backend.h"
#include "cpu/scratch.h"

namespace df {
namespace {

constexpr int64_t kPositions = 36, kTileSide = 4;
constexpr int kPairs = 3, kPairPositions = 12;  // work items of the products: pairs of rows of the window
// Transformed weights of a K block of one item: they stay in L2.
constexpr int64_t kTransformedBytes = 480 << 10;
// An odd number of cache lines between the 36 positions: else all of them fall into one set of the L1 cache.
constexpr int64_t kPadding = 5 * 16;
constexpr int64_t kItemTiles = 2;
// About as many tiles in a block: their windows and products stay in L3, and the transform of the weights that they
// share is a small part of the time.
constexpr int64_t kBlockTiles = 64;
// Below this the accuracy of the direct form is worth more.
constexpr double kLeastGain = 1.1;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

size_t shared_bytes(const WinogradProblem& p) { return size_t(kPositions * (p.v_step + p.m_step)) * sizeof(float); }
size_t transformed_bytes(const WinogradProblem& p) { return size_t(kPairPositions * p.u_step) * sizeof(float); }

}  // namespace

// How many times as fast as the direct form; within a third of what was measured on Zen 4 with AVX-512 and AVX2 from
// 64 channels on. A tile takes 36 products per pair of channels instead of 9 per pixel; the transform of the weights
// costs 6 products per position, shared by the tiles of a block; the transforms of a tile cost 8 per position and
// channel. product_rate is that of the direct form, relative to fp32. A guided sampler computes two images at a time.
double CpuBackend::winograd_gain(int64_t height, int64_t width, const Weight& w) const {
  const int64_t tiles = ceil_div(height, kTileSide) * ceil_div(width, kTileSide);
  const double products = 36 * double(tiles) * (1 + 8 / double(w.in) + 8 / double(w.out)) +
                          36 * 6 * double(tiles) / double(std::min(2 * tiles, kBlockTiles));
  return 9 * double(height * width) / double(kernels_.product_rate[int(w.dtype)]) / products;
}

bool CpuBackend::use_winograd(const Shape& x, const Weight& w, const Conv2dParams& p) const {
  const bool possible = w.kernel_h == 3 && w.kernel_w == 3 && p.stride == 1 && p.padding == 1 &&
                        w.in * int64_t(dtype_size(w.dtype)) <= kZeroBytes;
  if (!possible || p.algorithm == ConvAlgorithm::Direct) return false;
  return p.algorithm == ConvAlgorithm::Winograd || winograd_gain(x[1], x[2], w) >= kLeastGain;
}

WinogradProblem CpuBackend::plan_winograd(const Shape& x, const Weight& w) const {
  WinogradProblem p = {};
  p.conv.in = padded(w.in, w.dtype);
  p.conv.height = x[1];
  p.conv.width = x[2];
  p.channels = w.in;
  p.tiles_y = ceil_div(x[1], kTileSide);
  p.tiles_x = ceil_div(x[2], kTileSide);
  // blocks of nearly equal size, whole register tiles
  const int64_t tiles = x[0] * p.tiles_y * p.tiles_x;
  const int64_t blocks = std::max<int64_t>(1, (tiles + kBlockTiles / 2) / kBlockTiles);
  p.count = std::min(round_up(ceil_div(tiles, blocks), kernels_.tile_rows), tiles);
  p.v_stride = round_up(p.conv.in, 16);
  p.v_step = p.count * p.v_stride + kPadding;
  p.m_stride = panels(w.out) * kernels_.panel;
  p.m_step = p.count * p.m_stride + kPadding;
  const int64_t bytes = p.conv.in * kPairPositions * kernels_.panel * int64_t(sizeof(float));
  p.conv.block_channels = round_up(ceil_div(p.conv.in, ceil_div(bytes, kTransformedBytes)), 16);
  p.u_step = p.conv.block_channels * kernels_.panel + kPadding;
  return p;
}

size_t CpuBackend::conv2d_scratch_bytes(const Shape& x, const Weight& w, const Conv2dParams& p) {
  if (!use_winograd(x, w, p)) return 0;
  const WinogradProblem plan = plan_winograd(x, w);
  return shared_bytes(plan) + size_t(parallel_threads()) * transformed_bytes(plan);
}

void CpuBackend::winograd(Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) const {
  WinogradProblem plan = plan_winograd(x.shape(), w);
  set_operands(plan.conv, y, x, w, e);
  plan.v = static_cast<float*>(scratch(Scratch::Windows, shared_bytes(plan)));
  plan.m = plan.v + kPositions * plan.v_step;
  const int type = int(w.dtype);
  const int64_t tiles = x.dim(0) * plan.tiles_y * plan.tiles_x, block_tiles = plan.count;
  WinogradProblem previous = plan, next = plan;
  previous.count = 0;
  for (int64_t first = 0; first < tiles || previous.count > 0; first += block_tiles) {
    next.first = first;
    next.count = std::clamp<int64_t>(tiles - first, 0, block_tiles);
    // the outputs of a block and the inputs of the next in one phase
    const int64_t outputs = ceil_div(previous.count, kItemTiles), inputs = ceil_div(next.count, kItemTiles);
    parallel_for(outputs + inputs, [&](int64_t item, int) {
      const bool output = item < outputs;
      const WinogradProblem& block = output ? previous : next;
      const int64_t begin = (output ? item : item - outputs) * kItemTiles;
      const auto transform = output ? kernels_.winograd_output[type] : kernels_.winograd_input[type];
      transform(&block, begin, std::min(begin + kItemTiles, block.count));
    });
    if (next.count > 0)
      parallel_for(kPairs * panels(w.out), [&](int64_t item, int) {
        float* u = static_cast<float*>(scratch(Scratch::Transformed, transformed_bytes(next)));
        kernels_.winograd_multiply[type](&next, item / kPairs, int(item % kPairs), u);
      });
    previous = next;
  }
}

}  // namespace df
