// A product as its kernels see it: y (rows, out) = (x · w + bias + residual) · scale, an implicit matrix product whose
// rows are output pixels and whose sum runs over (tap, input channel). A linear layer is a 1×1 convolution of images of
// one pixel.
#pragma once
#include "cuda/gemm/plan.h"
#include "cuda/gpu/host.cuh"

namespace df::IF_CUDA_NAMESPACE {

template <class T> struct Product {
  Rows<const T> x;
  const void* w;              // (out, taps, padded_in) of T, or of int8 with weight_scale
  const float* weight_scale;  // (out), or null
  const float* bias;          // (out), or null
  Rows<const T> residual;     // data null: none; may be y
  Rows<T> y;
  float scale;
  int first_row, rows;        // of y, [first_row, rows); all of it: images * out_height * out_width
  int out, in, padded_in, taps, kernel_w;
  int height, width, out_height, out_width, stride, padding;
};

/// The input pixels of one row of y: `image` is the first row of x of its image, (y, x) where tap (0, 0) reads.
struct Place {
  int64_t image;
  int y, x;
};
template <class T> GPU_FN Place place_of(const Product<T>& p, int row) {
  if (row >= p.rows) return {0, -(1 << 30), 0};  // no tap of it is inside
  const int pixels = p.out_height * p.out_width, n = row / pixels, pixel = row - n * pixels, oh = pixel / p.out_width;
  return {int64_t(n) * p.height * p.width, oh * p.stride - p.padding, (pixel - oh * p.out_width) * p.stride - p.padding};
}

template <class T> GPU_FN float residual_at(const Product<T>& p, int row, int column) {
  return p.residual.data ? gpu::to_float(p.residual[row][column]) : 0;
}
/// The end of a product: acc is the whole sum of one row and output `column`.
template <class T> GPU_FN float finish(const Product<T>& p, int column, float acc, float residual) {
  if (p.weight_scale) acc *= p.weight_scale[column];
  if (p.bias) acc += p.bias[column];
  if (p.residual.data) acc += residual;
  return acc * p.scale;
}

/// Whether y and the residual may be accessed two values at a time.
template <class T> bool in_pairs(const Product<T>& p) {
  const auto even = [](const auto& r) {
    return !r.data || (reinterpret_cast<uintptr_t>(r.data) % 4 == 0 && r.stride % 2 == 0);
  };
  return even(p.y) && even(p.residual);
}
/// Finishes and stores outputs n (even, below p.out) and n + 1 of row m. 16-bit types.
template <class T> GPU_FN void store_pair(const Product<T>& p, bool paired, int m, int n, float v0, float v1) {
  T* const to = p.y[m] + n;
  if (paired && n + 1 < p.out) {
    float2 r = make_float2(0, 0);
    if (p.residual.data) r = gpu::unpack2<T>(*reinterpret_cast<const uint32_t*>(p.residual[m] + n));
    *reinterpret_cast<uint32_t*>(to) = gpu::pack2<T>(finish(p, n, v0, r.x), finish(p, n + 1, v1, r.y));
    return;
  }
  to[0] = gpu::from_float<T>(finish(p, n, v0, residual_at(p, m, n)));
  if (n + 1 < p.out) to[1] = gpu::from_float<T>(finish(p, n + 1, v1, residual_at(p, m, n + 1)));
}

/// What one product keeps besides: partial sums, and int8 weights widened. Emulated: so little that tests need several
/// launches.
constexpr int64_t kSplitWorkspace = GPU_EMULATED ? 256 << 10 : gemm::kSplitWorkspace;
constexpr int64_t kWidenedWorkspace = GPU_EMULATED ? 4 << 10 : gemm::kWidenedWorkspace;

/// Partial sums of the blocks that share a tile, and the tickets by which they meet (left zero); none for one split.
class SplitScratch {
 public:
  SplitScratch(int64_t tiles, int64_t splits, int64_t tile_values, Device device) {
    if (splits == 1) return;
    partial_ = Tensor::empty(Shape{tiles * splits * tile_values}, DType::F32, device);
    tickets_ = Tensor::empty(Shape{tiles}, DType::I32, device);
    set_zero(tickets_.raw(), tickets_.bytes(), stream(device));
  }
  float* partial() const { return static_cast<float*>(partial_.raw()); }
  unsigned* tickets() const { return static_cast<unsigned*>(tickets_.raw()); }

 private:
  Tensor partial_, tickets_;
};

/// hopper/products_wgmma.cu: like multiply_mma, for a stride of 1 and a device of compute capability 9.0.
template <class T> void multiply_wgmma(const Product<T>& p, int item_rows, Device device);
/// products_mma.cu: for bf16 and f16, when rows of x begin at multiples of 16 bytes and p.in is a multiple of 8. item_rows:
/// rows of y of one item.
template <class T> void multiply_mma(const Product<T>& p, int item_rows, Device device);

}  // namespace df::IF_CUDA_NAMESPACE
