// linear and conv2d: the plan of a GemmProblem. Where the time goes is kernels/gemm.h.
#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "cpu/cpu_backend.h"
#include "cpu/scratch.h"

namespace df {

alignas(64) const char kZeros[kZeroBytes] = {};

namespace {

// A K block of one panel stays in L2 (1 MiB and more on current servers) beside the rows of x that it meets.
constexpr int64_t kPanelBytes = 768 << 10;
// Rows of one work item: their x stays in L2 over the panels, and their partial sums over the K blocks.
constexpr int64_t kBlockRows = 512;
// Enough items for many threads, as long as each still multiplies this many rows per read of a panel.
constexpr int64_t kEnoughItems = 64, kFewestRows = 64;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

void plan_k_blocks(GemmProblem& g, int64_t panel_width, int64_t unit, int64_t value_size) {
  const int64_t tap_bytes = g.in * panel_width * value_size;
  if (tap_bytes <= kPanelBytes && g.in * value_size <= int64_t(sizeof(kZeros))) {
    const int64_t most = std::clamp<int64_t>(kPanelBytes / tap_bytes, 1, std::min(g.taps, kMaxBlockTaps));
    g.block_taps = int(ceil_div(g.taps, ceil_div(g.taps, most)));
    g.block_channels = g.in;
  } else {
    const int64_t pieces = std::max(ceil_div(tap_bytes, kPanelBytes), ceil_div(g.in * value_size, sizeof(kZeros)));
    g.block_taps = 1;
    g.block_channels = ceil_div(ceil_div(g.in, pieces), unit) * unit;
  }
}

int64_t plan_block_rows(int64_t rows, int64_t panels, int64_t tile_rows) {
  int64_t blocks = ceil_div(rows, kBlockRows);
  while (blocks * panels < kEnoughItems && ceil_div(rows, 2 * blocks) >= kFewestRows) blocks *= 2;
  return ceil_div(ceil_div(rows, blocks), tile_rows) * tile_rows;
}

}  // namespace

void CpuBackend::set_operands(GemmProblem& g, Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) const {
  g.in = padded(w.in, w.dtype);
  g.x = x.raw();
  g.x_stride = x.row_stride();
  g.weight = w.data.raw();
  g.weight_scale = w.int8() ? w.scales.data<float>() : nullptr;
  g.out = w.out;
  g.taps = int(w.kernel_h * w.kernel_w);
  g.kernel_w = int(w.kernel_w);
  g.bias = e.bias.defined() ? e.bias.data<float>() : nullptr;
  g.residual = e.residual.raw();
  g.residual_stride = e.residual.row_stride();
  g.scale = e.scale;
  g.y = y.raw();
  g.y_stride = y.row_stride();
  g.zeros = kZeros;
}

void CpuBackend::multiply(Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e, GemmProblem& g) const {
  set_operands(g, y, x, w, e);
  const int type = int(w.dtype);
  const int64_t value_size = int64_t(dtype_size(w.dtype)), rows = y.rows();
  if (g.in != w.in) {
    // rows of whole units, because the kernel reads units and nothing may be read behind a row
    char* wide = static_cast<char*>(scratch(Scratch::Rows, size_t(x.rows() * g.in * value_size)));
    parallel_ranges(x.rows(), 4096, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) {
        char* row = wide + r * g.in * value_size;
        std::memcpy(row, row_at(x, r), size_t(w.in * value_size));
        std::memset(row + w.in * value_size, 0, size_t((g.in - w.in) * value_size));
      }
    });
    g.x = wide;
    g.x_stride = g.in;
  }
  plan_k_blocks(g, kernels_.panel, kernels_.unit[type], value_size);
  const bool one_block = g.block_taps == g.taps && g.block_channels == g.in;
  const int64_t count = panels(w.out), block = plan_block_rows(rows, count, kernels_.tile_rows);
  const size_t partial_bytes = one_block ? 0 : size_t(block * kernels_.panel) * sizeof(float);
  const size_t widened_bytes = size_t(g.block_taps * g.block_channels * kernels_.panel * value_size);
  // panels of one block of rows follow each other: x stays in the cache
  parallel_for(ceil_div(rows, block) * count, [&](int64_t item, int) {
    const int64_t begin = item / count * block;
    float* partial = partial_bytes ? static_cast<float*>(scratch(Scratch::Partial, partial_bytes)) : nullptr;
    const int64_t end = std::min(begin + block, rows), panel = item % count;
    if (w.int8())
      kernels_.gemm_int8[type](&g, begin, end, panel, partial, scratch(Scratch::Packed, widened_bytes));
    else kernels_.gemm[type](&g, begin, end, panel, partial);
  });
}

void CpuBackend::linear(Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) {
  check_layout("linear", w);
  GemmProblem g = {};
  g.direct = 1;
  multiply(y, x, w, e, g);
}

void CpuBackend::conv2d(Tensor& y, const Tensor& x, const Weight& w, const Conv2dParams& p, const Epilogue& e) {
  check_layout("conv2d", w);
  if (const std::optional<WinogradForm> form = winograd_form(x.shape(), w, p)) return winograd(*form, y, x, w, e);
  GemmProblem g = {};
  g.direct = w.kernel_h == 1 && w.kernel_w == 1 && p.stride == 1 && p.padding == 0;
  g.height = x.dim(1);
  g.width = x.dim(2);
  g.out_height = y.dim(1);
  g.out_width = y.dim(2);
  g.stride = p.stride;
  g.padding = p.padding;
  multiply(y, x, w, e, g);
}

}  // namespace df
