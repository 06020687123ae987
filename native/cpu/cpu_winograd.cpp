// conv2d by Winograd's F(tile×tile, 3×3): which form is used, and the phases of a block of tiles. The arithmetic is in
// kernels/winograd.h.
#include <algorithm>

#include "core/parallel.h"
#include "cpu/cpu_backend.h"
#include "cpu/scratch.h"

namespace df {
namespace {

// Transformed weights of a K block of one item: they stay in L2.
constexpr int64_t kTransformedBytes = 480 << 10;
// An odd number of cache lines between the positions: else all of them fall into one set of the L1 cache.
constexpr int64_t kPaddingBytes = 5 * 64;
// Output pixels of one item of the transforms.
constexpr int64_t kItemPixels = 32;

// What a form costs, in multiply-adds of float32: `product` per product (half of it in bfloat16), `transform` per value
// of the windows and of the products; and about how many tiles make a block: their windows and products stay in L3, and
// the transform of the weights that they share is a small part of the time.
struct FormCosts {
  double product, transform;
  int64_t block_tiles;
};
constexpr FormCosts kCosts[kWinogradForms] = {{1.08, 8, 64}, {1.08, 15, 32}, {1, 5, 128}, {1, 8, 64}};
constexpr double kWeightTransform = 4;  // per transformed value
// How much faster a form must be than one that is more accurate.
constexpr double kLeastGain = 1.1;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

int64_t positions(int form, const CpuKernels& kernels) {
  const int64_t window = kernels.winograd[form].tile + 2;
  return window * window;
}

}  // namespace

// Per pair of channels, for one image; a guided sampler computes two at a time. Within a sixth of what was measured on Zen
// 4 with AVX-512-BF16, AVX-512 and AVX2, for 64 channels and 8 pixels of a side or more.
double CpuBackend::winograd_cost(int form, int64_t height, int64_t width, const Weight& w) const {
  const WinogradKernels& k = kernels_.winograd[form];
  const FormCosts& c = kCosts[form];
  const int64_t tiles = ceil_div(height, k.tile) * ceil_div(width, k.tile);
  const double rate = k.value_size == int(sizeof(float)) ? 1 : kernels_.product_rate[int(DType::BF16)];
  const double per_tile = c.product / rate + c.transform / double(w.in) + c.transform / double(w.out) +
                          kWeightTransform / double(std::min(2 * tiles, c.block_tiles));
  return double(positions(form, kernels_) * tiles) * per_tile;
}

std::optional<WinogradForm> CpuBackend::winograd_form(const Shape& x, const Weight& w, const Conv2dParams& p) const {
  const bool possible = w.kernel_h == 3 && w.kernel_w == 3 && p.stride == 1 && p.padding == 1 &&
                        w.in * int64_t(dtype_size(w.dtype)) <= kZeroBytes;
  if (!possible || p.algorithm == ConvAlgorithm::Direct) return {};
  const auto exists = [&](int form) { return kernels_.winograd[form].multiply[int(w.dtype)] != nullptr; };
  if (p.algorithm != ConvAlgorithm::Default && p.algorithm != ConvAlgorithm::Fast) {
    const int form = int(p.algorithm) - int(ConvAlgorithm::WinogradF4);
    return exists(form) ? std::optional(WinogradForm(form)) : std::nullopt;
  }
  std::optional<WinogradForm> best;
  double least = 9 * double(x[1] * x[2]) / kernels_.product_rate[int(w.dtype)];
  for (int form = 0; form < kWinogradForms; form++) {
    const bool rounds = kernels_.winograd[form].value_size < int(sizeof(float));
    if (!exists(form) || (rounds && p.algorithm == ConvAlgorithm::Default)) continue;
    const double cost = winograd_cost(form, x[1], x[2], w);
    // in bfloat16 the error of a float32 form is small beside that of the rounded result
    const bool as_accurate = best && !rounds;
    if (cost * (as_accurate ? 1 : kLeastGain) > least) continue;
    least = cost;
    best = WinogradForm(form);
  }
  return best;
}

WinogradProblem CpuBackend::plan_winograd(WinogradForm form, const Shape& x, const Weight& w) const {
  const WinogradKernels& k = kernels_.winograd[form];
  WinogradProblem p = {};
  p.conv.in = padded(w.in, w.dtype);
  p.conv.height = x[1];
  p.conv.width = x[2];
  p.channels = w.in;
  p.tiles_y = ceil_div(x[1], k.tile);
  p.tiles_x = ceil_div(x[2], k.tile);
  // blocks of nearly equal size, whole register tiles
  const int64_t tiles = x[0] * p.tiles_y * p.tiles_x, block_tiles = kCosts[form].block_tiles;
  const int64_t blocks = std::max<int64_t>(1, (tiles + block_tiles / 2) / block_tiles);
  p.count = std::min(round_up(ceil_div(tiles, blocks), kernels_.tile_rows), tiles);
  p.v_stride = round_up(p.conv.in, 16);
  p.v_step = p.count * p.v_stride + kPaddingBytes / k.value_size;
  p.m_stride = panels(w.out) * kernels_.panel;
  p.m_step = p.count * p.m_stride + kPaddingBytes / int64_t(sizeof(float));
  const int64_t bytes = p.conv.in * 2 * (k.tile + 2) * kernels_.panel * k.value_size;
  p.conv.block_channels = round_up(ceil_div(p.conv.in, ceil_div(bytes, kTransformedBytes)), 16);
  p.u_step = p.conv.block_channels * kernels_.panel + kPaddingBytes / k.value_size;
  return p;
}

CpuBackend::WinogradBytes CpuBackend::winograd_bytes(WinogradForm form, const WinogradProblem& p) const {
  const WinogradKernels& k = kernels_.winograd[form];
  const int64_t count = positions(form, kernels_);
  return {size_t(round_up(count * p.v_step * k.value_size, 64)), size_t(count * p.m_step) * sizeof(float),
          size_t(2 * (k.tile + 2) * p.u_step * k.value_size)};
}

size_t CpuBackend::conv2d_scratch_bytes(const Shape& x, const Weight& w, const Conv2dParams& p) {
  const std::optional<WinogradForm> form = winograd_form(x, w, p);
  if (!form) return 0;
  const WinogradProblem plan = plan_winograd(*form, x, w);
  const WinogradBytes bytes = winograd_bytes(*form, plan);
  const size_t buffers = x[0] * plan.tiles_y * plan.tiles_x > plan.count ? 2 : 1;
  return buffers * (bytes.windows + bytes.products) + size_t(parallel_threads()) * bytes.weights;
}

void CpuBackend::winograd(WinogradForm form, Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) const {
  const WinogradKernels& k = kernels_.winograd[form];
  WinogradProblem plan = plan_winograd(form, x.shape(), w);
  set_operands(plan.conv, y, x, w, e);
  const WinogradBytes bytes = winograd_bytes(form, plan);
  const int type = int(w.dtype);
  const int64_t tiles = x.dim(0) * plan.tiles_y * plan.tiles_x, block_tiles = plan.count;
  const int64_t blocks = ceil_div(tiles, block_tiles), buffers = std::min<int64_t>(blocks, 2);
  const int64_t pairs = k.tile / 2 + 1, item_tiles = std::max<int64_t>(1, kItemPixels / (k.tile * k.tile));
  char* memory = static_cast<char*>(scratch(Scratch::Windows, size_t(buffers) * (bytes.windows + bytes.products)));
  const auto block = [&](int64_t i) {
    WinogradProblem p = plan;
    p.first = i * block_tiles;
    p.count = i < 0 || i >= blocks ? 0 : std::min(tiles - p.first, block_tiles);
    char* buffer = memory + size_t(i & (buffers - 1)) * (bytes.windows + bytes.products);
    p.v = buffer;
    p.m = reinterpret_cast<float*>(buffer + bytes.windows);
    return p;
  };
  // the products of a block, the inputs of the next and the outputs of the one before in one phase: the small items come
  // last and even out what the threads have to do
  for (int64_t i = -1; i <= blocks; i++) {
    const WinogradProblem previous = block(i - 1), current = block(i), next = block(i + 1);
    const int64_t products = current.count > 0 ? pairs * panels(w.out) : 0;
    const int64_t outputs = ceil_div(previous.count, item_tiles), inputs = ceil_div(next.count, item_tiles);
    parallel_for(products + outputs + inputs, [&](int64_t item, int) {
      if (item < products) {
        k.multiply[type](&current, item / pairs, int(item % pairs), scratch(Scratch::Transformed, bytes.weights));
        return;
      }
      item -= products;
      const bool output = item < outputs;
      const WinogradProblem& problem = output ? previous : next;
      const int64_t begin = (output ? item : item - outputs) * item_tiles;
      const auto transform = output ? k.output[type] : k.input[type];
      transform(&problem, begin, std::min(begin + item_tiles, problem.count));
    });
  }
}

}  // namespace df
