// Linear layers and convolutions: the plain kernel, for every type, shape and alignment, and the choice of the kernel.
#include <algorithm>

#include "cuda/cuda_backend.h"
#include "cuda/gemm/layout.h"
#include "cuda/gemm/plain.cuh"
#include "cuda/gemm/plan.h"
#include "cuda/gemm/product.cuh"

namespace df::IF_CUDA_NAMESPACE {
namespace {

// A block of 128 threads makes 64×64 results, 8×4 per thread, 32 steps of K at a time.
constexpr int kTile = 64, kSteps = 32, kThreads = 128, kWarps = kThreads / 32, kRows = 8, kColumns = 4;
constexpr int kPitch = kTile + 4;  // floats: rows of 16-byte vectors, and fewer conflicts of the transposing stores

struct Shared {
  alignas(16) float a[kSteps][kPitch];
  alignas(16) float b[kSteps][kPitch];
  Place places[kTile];
};

GPU_FN float weight_value(int8_t v) { return float(v); }
template <class W> GPU_FN float weight_value(W v) { return gpu::to_float(v); }

template <class T, class W>
__global__ void __launch_bounds__(kThreads, 4) product_kernel(Product<T> p) {
  Shared& s = gpu::dynamic_shared<Shared>();
  const int tid = int(threadIdx.x), warp = tid / 32, lane = tid % 32;
  const int m0 = int(blockIdx.x) * kTile, n0 = int(blockIdx.y) * kTile;
  const W* w = static_cast<const W*>(p.w);
  if (tid < kTile) s.places[tid] = place_of(p, m0 + tid);
  __syncthreads();

  const int steps = p.taps * p.in, row0 = tid / (kTile / kColumns) * kRows, column0 = tid % (kTile / kColumns) * kColumns;
  float acc[kRows][kColumns] = {};
  for (int k0 = 0; k0 < steps; k0 += kSteps) {
    const int k = k0 + lane, tap = k / p.in, channel = k - tap * p.in, dy = tap / p.kernel_w, dx = tap - dy * p.kernel_w;
    for (int i = warp; i < kTile; i += kWarps) {
      const Place at = s.places[i];
      const int y = at.y + dy, x = at.x + dx;
      const bool inside = k < steps && unsigned(y) < unsigned(p.height) && unsigned(x) < unsigned(p.width);
      s.a[lane][i] = inside ? gpu::to_float(p.x[at.image + int64_t(y) * p.width + x][channel]) : 0;
      const int n = n0 + i;
      s.b[lane][i] = k < steps && n < p.out ? weight_value(w[(int64_t(n) * p.taps + tap) * p.padded_in + channel]) : 0;
    }
    __syncthreads();
    add_step(acc, s.a, s.b, row0, column0);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kRows; i++) {
    const int m = m0 + row0 + i;
#pragma unroll
    for (int j = 0; j < kColumns; j++) {
      const int n = n0 + column0 + j;
      if (m < p.rows && n < p.out) p.y[m][n] = gpu::from_float<T>(finish(p, n, acc[i][j], residual_at(p, m, n)));
    }
  }
}

// Everything but the geometry.
template <class T> Product<T> product_of(Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) {
  const auto small = [](int64_t n) {
    DF_CHECK(n < (int64_t(1) << 31), "cuda: a product of %lld rows or outputs is too large", static_cast<long long>(n));
    return int(n);
  };
  Product<T> p{};
  p.x = rows<const T>(x);
  p.w = w.data.raw();
  p.weight_scale = static_cast<const float*>(w.scales.raw());
  p.bias = static_cast<const float*>(e.bias.raw());
  p.residual = rows<const T>(e.residual);
  p.y = rows<T>(y);
  p.scale = e.scale;
  p.rows = small(y.rows());
  p.out = small(w.out);
  p.in = small(w.in);
  p.padded_in = small(cuda_padded_in(w.in));
  p.taps = small(w.kernel_h * w.kernel_w);
  p.kernel_w = int(w.kernel_w);
  p.height = p.width = p.out_height = p.out_width = p.stride = 1;
  return p;
}

template <class T> void multiply_plain(const Product<T>& p, gpu::Stream s) {
  const unsigned tiles = unsigned((p.out + kTile - 1) / kTile);
  DF_CHECK(tiles <= 65535, "cuda: a product of %d outputs does not fit a grid", p.out);
  gpu::launch(p.weight_scale ? product_kernel<T, int8_t> : product_kernel<T, T>,
              dim3(blocks_for(p.rows, kTile), tiles), dim3(kThreads), sizeof(Shared), s, p);
}

// Outputs [first, first + count), of weights w that begin with the first of them.
template <class T> Product<T> outputs_of(Product<T> p, const void* w, int first, int count) {
  p.w = w;
  p.out = count;
  p.y.data += first;
  if (p.residual.data) p.residual.data += first;
  if (p.bias) p.bias += first;
  p.weight_scale += first;
  return p;
}

template <class T> void multiply(Product<T> p, const Tensor& x, const Weight& w, int item_rows, Kernels kernels) {
  if (p.rows == 0) return;
  if constexpr (sizeof(T) == 2) {
    if (kernels != Kernels::Plain) {
      const Tensor wide_x = aligned_rows(x);
      p.x = rows<const T>(wide_x);
      p.in = p.padded_in;
      const bool wgmma = kernels == Kernels::Wgmma && p.stride == 1 && has_wgmma(x.device());
      const auto run = [&](const Product<T>& q) {
        wgmma ? multiply_wgmma(q, item_rows, x.device()) : multiply_mma(q, item_rows, x.device());
      };
      if (!w.int8()) return run(p);
      // slabs of outputs, so that the widened weights stay small
      const int64_t row_bytes = int64_t(p.padded_in) * p.taps * int64_t(sizeof(T));
      const int64_t slab = gemm::widened_slab(row_bytes, kWidenedWorkspace);
      for (int64_t first = 0; first < p.out; first += slab) {
        const int64_t count = std::min<int64_t>(slab, p.out - first);
        const Tensor wide = widened(w, first, count);
        run(outputs_of(p, wide.raw(), int(first), int(count)));
      }
      return;
    }
  }
  multiply_plain(p, stream(x.device()));
}

}  // namespace

void CudaBackend::linear(Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) {
  check_weight_layout("linear", w);
  with_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const int64_t items = x.shape().rank() > 1 ? x.dim(0) : 1;
    multiply<T>(product_of<T>(y, x, w, e), x, w, int(x.rows() / std::max<int64_t>(items, 1)), kernels_);
  });
}

void CudaBackend::conv2d(Tensor& y, const Tensor& x, const Weight& w, const Conv2dParams& c, const Epilogue& e) {
  check_weight_layout("conv2d", w);
  with_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    Product<T> p = product_of<T>(y, x, w, e);
    p.height = int(x.dim(1));
    p.width = int(x.dim(2));
    p.out_height = int(y.dim(1));
    p.out_width = int(y.dim(2));
    p.stride = c.stride;
    p.padding = c.padding;
    multiply<T>(p, x, w, p.out_height * p.out_width, kernels_);
  });
}

}  // namespace df::IF_CUDA_NAMESPACE
