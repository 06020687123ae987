// Gradients of the parameters of linear and conv2d: how the work is cut. The arithmetic is in kernels/products_backward.h.
#include <algorithm>
#include <bit>
#include <vector>

#include "core/parallel.h"
#include "cpu/cpu_backend.h"
#include "cpu/scratch.h"

namespace df {
namespace {

// Steps of K in one block: its x of one panel stays in L2 over the outputs and taps of a work item.
constexpr int64_t kBlockSteps = 768;
// Register tiles of a work item: their partial sums stay in L2, and share what is read of x.
constexpr int64_t kItemTiles = 36;
// x of one panel up to this size stays in L2 as a whole: blocks of outputs then follow each other, and need partial sums
// of one block only.
constexpr int64_t kPanelBytes = 256 << 10;
// Enough items for many threads.
constexpr int64_t kEnoughItems = 64;
// Pixels that are packed by one item, rows whose sum is one float32 sum.
constexpr int64_t kPackPixels = 64, kSumRows = 128;
constexpr int64_t kSumChannels = 256;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
// A single row is one item.
int64_t items_of(const Tensor& t) { return t.shape().rank() > 1 ? t.dim(0) : 1; }

// Bytes of the packed operands.
struct PackedBytes {
  size_t x, dy;
};
PackedBytes operand_bytes(const WeightGradientProblem& g, const CpuKernels& k, int type) {
  const size_t unit = size_t(k.products_backward.unit[type] * k.products_backward.value_size[type]);
  const int64_t x_pixels = (g.out_height + g.kernel_h - 1) * (g.out_width + g.kernel_w - 1);
  const int64_t x_columns = ceil_div(g.in, k.panel) * k.panel, dy_columns = ceil_div(g.out, k.tile_rows) * k.tile_rows;
  return {size_t(g.images * x_pixels * x_columns) * unit, size_t(g.images * g.out_height * g.out_width * dy_columns) * unit};
}

}  // namespace

WeightGradientProblem CpuBackend::plan_weight_gradient(const Shape& dw, const Shape& x, DType dtype,
                                                       const Conv2dParams& p) const {
  WeightGradientProblem g = {};
  g.items = x.rank() > 1 ? x[0] : 1;
  g.in = dw[-1];
  g.out = dw[0];
  g.width = g.out_width = g.kernel_h = g.kernel_w = 1;
  g.height = g.out_height = x.rows() / g.items;
  if (dw.rank() == 4 && x.rank() == 4) {
    g.kernel_h = dw[1];
    g.kernel_w = dw[2];
    g.padding = p.padding;
    g.height = x[1];
    g.width = x[2];
    g.out_height = x[1] + 2 * p.padding - dw[1] + 1;
    g.out_width = x[2] + 2 * p.padding - dw[2] + 1;
  }
  g.images = ceil_div(g.items, kernels_.products_backward.unit[int(dtype)]);
  g.block_rows = ceil_div(g.out_height, ceil_div(g.out_height * g.out_width, kBlockSteps));
  return g;
}

void CpuBackend::weight_gradient(Tensor& dw, const Tensor& x, const Tensor& dy, const Conv2dParams& p, float scale) {
  if (const auto form = winograd_gradient_form(dw.shape(), x.shape(), x.dtype(), p))
    return winograd_weight_gradient(*form, dw, x, dy, scale);
  const int type = int(x.dtype());
  const ProductsBackwardKernels& kernels = kernels_.products_backward;
  WeightGradientProblem g = plan_weight_gradient(dw.shape(), x.shape(), x.dtype(), p);
  g.x = x.raw();
  g.x_stride = x.row_stride();
  g.dy = dy.raw();
  g.dy_stride = dy.row_stride();
  g.scale = scale;
  g.dw = dw.data<float>();
  const PackedBytes bytes = operand_bytes(g, kernels_, type);
  char* packed = static_cast<char*>(scratch(Scratch::Windows, bytes.x + bytes.dy));
  g.packed_x = packed;
  g.packed_dy = packed + bytes.x;

  const int64_t x_rows = g.images * (g.out_height + g.kernel_h - 1), dy_rows = g.images * g.out_height;
  const int64_t grain = ceil_div(kPackPixels, g.out_width), x_items = ceil_div(x_rows, grain);
  parallel_for(x_items + ceil_div(dy_rows, grain), [&](int64_t item, int) {
    const int64_t begin = (item < x_items ? item : item - x_items) * grain;
    if (item < x_items) kernels.pack_x[type](&g, begin, std::min(begin + grain, x_rows));
    else kernels.pack_dy[type](&g, begin, std::min(begin + grain, dy_rows));
  });

  const int64_t taps = g.kernel_h * g.kernel_w, blocks = ceil_div(g.out, kernels_.tile_rows), count = panels(g.in);
  int64_t groups = ceil_div(blocks, std::max<int64_t>(1, kItemTiles / taps));
  groups = std::min(blocks, std::max(groups, ceil_div(kEnoughItems, count)));
  const int64_t group = ceil_div(blocks, groups), pairs = ceil_div(g.items, 2);
  const int64_t together = int64_t(bytes.x) <= count * kPanelBytes ? 1 : group;  // blocks with partial sums at a time
  const size_t slot_bytes = size_t(std::bit_width(uint64_t(pairs)) * together * taps * kernels_.tile_rows *
                                   kernels_.panel) * sizeof(float);
  // the panels of a group follow each other: they complete rows of dw
  parallel_for(ceil_div(blocks, group) * count, [&](int64_t item, int) {
    float* slots = static_cast<float*>(scratch(Scratch::Partial, slot_bytes));
    const int64_t begin = item / count * group, end = std::min(begin + group, blocks);
    for (int64_t block = begin; block < end; block += together)
      kernels.weight_gradient[type](&g, item % count, block, std::min(block + together, end), slots);
  });
}

void CpuBackend::bias_gradient(Tensor& db, const Tensor& dy, float scale) {
  const int64_t channels = dy.dim(-1), items = items_of(dy), item_rows = dy.rows() / items, pairs = ceil_div(items, 2);
  const int64_t pieces = ceil_div(2 * item_rows, kSumRows);  // of a pair
  const auto sums = static_cast<float*>(scratch(Scratch::Statistics, size_t(pairs * pieces * channels) * sizeof(float)));
  parallel_for(pairs * pieces, [&](int64_t piece, int) {
    const int64_t p = piece / pieces, end = std::min(2 * p + 2, items) * item_rows;
    const int64_t begin = std::min(2 * p * item_rows + piece % pieces * kSumRows, end);
    kernels_.products_backward.column_sums[int(dy.dtype())](sums + piece * channels, row_at(dy, begin), dy.row_stride(),
                                                            std::min(kSumRows, end - begin), channels);
  });
  parallel_ranges(channels, kSumChannels, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; c++)
      db.data<float>()[c] += tree_sum<float>(0, pairs, [&](int64_t p) {
        double sum = 0;
        for (int64_t i = p * pieces; i < (p + 1) * pieces; i++) sum += sums[i * channels + c];
        return float(sum * scale);
      });
  });
}

}  // namespace df
