// Gradients of weights and biases: plain kernels, for every type, shape and alignment. A block sums over one piece of one
// pair of items; a second kernel adds pieces and pairs in the order of the contract.
#include <algorithm>

#include "cuda/cuda_backend.h"
#include "cuda/gemm/layout.h"
#include "cuda/gemm/plain.cuh"
#include "cuda/gemm/plan.h"
#include "cuda/gemm/weight_gradient.cuh"

namespace df::IF_CUDA_NAMESPACE {
namespace {

// ---- the sums of pieces and pairs

constexpr int kSumThreads = 256;
constexpr int kTreeLevels = 24;  // 2^24 pairs

__global__ void __launch_bounds__(kSumThreads, 4)
sum_kernel(Rows<float> gradient, const float* partial, int64_t count, int64_t width, int pairs, int pieces) {
  const int64_t i = int64_t(blockIdx.x) * kSumThreads + threadIdx.x;
  if (i >= count) return;
  // tree_sum as a binary counter: level l holds the sum of 2^l pairs when bit l of the number of pairs read is set
  float level[kTreeLevels];
  for (int pair = 0; pair < pairs; pair++) {
    float sum = 0;
    for (int piece = 0; piece < pieces; piece++) {
      const float v = partial[(int64_t(pair) * pieces + piece) * count + i];
      sum = piece ? sum + v : v;
    }
    bool carried = true;
#pragma unroll
    for (int l = 0; l < kTreeLevels; l++) {
      if (carried && (pair >> l & 1)) sum = level[l] + sum;
      else if (carried) level[l] = sum, carried = false;
    }
  }
  float sum = 0;
  bool first = true;
#pragma unroll
  for (int l = 0; l < kTreeLevels; l++)
    if (pairs >> l & 1) sum = first ? level[l] : level[l] + sum, first = false;
  gradient[i / width][i % width] += sum;
}

// ---- weights

// 64 outputs × 64 columns (tap, input) per block of 128 threads, 8×4 per thread, 32 pixels at a time.
constexpr int kTile = gemm::kPlainGradientTile, kSteps = 32, kThreads = 128, kWarps = kThreads / 32, kRows = 8, kColumns = 4;

struct Shared {
  alignas(16) float dy[kSteps][kTile];
  alignas(16) float x[kSteps][kTile];
  GradientPlace places[2][kSteps];
};

template <class T> __global__ void __launch_bounds__(kThreads, 4) weight_gradient_kernel(WeightGradient<T> p) {
  Shared& s = gpu::dynamic_shared<Shared>();
  const int tid = int(threadIdx.x), warp = tid / 32, lane = tid % 32;
  const int columns = p.slab_taps * p.in, share = int(blockIdx.x) % p.shares;
  const int n0 = int(blockIdx.x) / p.shares * kTile, o0 = p.first_out + int(blockIdx.y) * kTile;
  const GradientRange range = range_of(p, share);

  // the two columns of x that this thread loads
  int channel[2], tap_y[2], tap_x[2];
#pragma unroll
  for (int h = 0; h < 2; h++) {
    const int n = n0 + lane + 32 * h, tap = p.first_tap + n / p.in;
    channel[h] = n % p.in;
    tap_y[h] = n < columns ? tap / p.kernel_w : -(1 << 30);
    tap_x[h] = tap % p.kernel_w;
  }
  if (tid < kSteps) s.places[0][tid] = place_of(p, range, range.begin + tid);
  __syncthreads();

  const int row0 = tid / (kTile / kColumns) * kRows, column0 = tid % (kTile / kColumns) * kColumns;
  float acc[kRows][kColumns] = {};
  for (int q0 = range.begin, turn = 0; q0 < range.end; q0 += kSteps, turn ^= 1) {
    for (int i = warp; i < kSteps; i += kWarps) {
      const GradientPlace at = s.places[turn][i];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int o = o0 + lane + 32 * h, y = at.y + tap_y[h], x = at.x + tap_x[h];
        s.dy[i][lane + 32 * h] = at.dy >= 0 && o < p.out ? gpu::to_float(p.dy[at.dy][o]) : 0;
        const bool inside = at.dy >= 0 && unsigned(y) < unsigned(p.height) && unsigned(x) < unsigned(p.width);
        s.x[i][lane + 32 * h] = inside ? gpu::to_float(p.x[at.image + int64_t(y) * p.width + x][channel[h]]) : 0;
      }
    }
    if (tid < kSteps) s.places[turn ^ 1][tid] = place_of(p, range, q0 + kSteps + tid);
    __syncthreads();
    add_step(acc, s.dy, s.x, row0, column0);
    __syncthreads();
  }
#pragma unroll
  for (int i = 0; i < kRows; i++)
#pragma unroll
    for (int j = 0; j < kColumns; j++) {
      const int o = o0 + row0 + i, n = n0 + column0 + j;
      if (o < p.first_out + p.outs && n < columns) store_gradient(p, share, o, n, acc[i][j]);
    }
}

template <class T> void sum_plain(const WeightGradient<T>& p, gpu::Stream s) {
  const int64_t columns = (int64_t(p.slab_taps) * p.in + kTile - 1) / kTile;
  gpu::launch(weight_gradient_kernel<T>, dim3(blocks_for(columns * p.shares, 1), unsigned((p.outs + kTile - 1) / kTile)),
              dim3(kThreads), sizeof(Shared), s, p);
}

template <class T> void sum(const WeightGradient<T>& p, Kernels kernels, Device device) {
  if constexpr (sizeof(T) == 2) {
    if (kernels == Kernels::Wgmma && has_wgmma(device)) return sum_wgmma(p, device);
    if (kernels != Kernels::Plain) return sum_mma(p, stream(device));
  }
  sum_plain(p, stream(device));
}

// ---- biases

constexpr int kBiasChannels = 32, kBiasLanes = 8, kBiasRows = 512;  // rows of one piece

// rows: of one item. Column sums of one piece of one pair.
template <class T>
__global__ void __launch_bounds__(kBiasChannels * kBiasLanes, 4)
bias_gradient_kernel(float* partial, Rows<const T> dy, int items, int rows, int pieces, int channels, float scale) {
  GPU_SHARED(float[kBiasLanes][kBiasChannels], sums);
  const int pair = int(blockIdx.x) / pieces, piece = int(blockIdx.x) % pieces;
  const int x = int(threadIdx.x), lane = int(threadIdx.y), channel = int(blockIdx.y) * kBiasChannels + x;
  const int64_t first = int64_t(2) * pair * rows, end = first + int64_t(min(2, items - 2 * pair)) * rows;
  const int64_t begin = first + int64_t(piece) * kBiasRows, stop = min(begin + kBiasRows, end);
  float sum = 0;
  if (channel < channels)
    for (int64_t r = begin + lane; r < stop; r += kBiasLanes) sum += gpu::to_float(dy[r][channel]);
  sums[lane][x] = sum;
  __syncthreads();
  if (lane != 0 || channel >= channels) return;
  for (int l = 1; l < kBiasLanes; l++) sum += sums[l][x];
  partial[int64_t(blockIdx.x) * channels + channel] = scale * sum;
}

// A single row is one item.
int64_t items_of(const Tensor& t) { return t.shape().rank() > 1 ? t.dim(0) : 1; }

}  // namespace

void add_partial_gradients(Rows<float> gradient, const float* partial, int64_t rows, int64_t width, int64_t pairs,
                           int64_t pieces, gpu::Stream s) {
  DF_CHECK(pairs < (int64_t(1) << kTreeLevels), "cuda: a gradient over %lld pairs of items is too large",
           static_cast<long long>(pairs));
  gpu::launch(sum_kernel, dim3(blocks_for(rows * width, kSumThreads)), dim3(kSumThreads), 0, s, gradient, partial,
              rows * width, width, int(pairs), int(pieces));
}

void CudaBackend::weight_gradient(Tensor& dw, const Tensor& x, const Tensor& dy, const Conv2dParams& c, float scale) {
  const gpu::Stream s = stream(x.device());
  with_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const bool mma = sizeof(T) == 2 && kernels_ != Kernels::Plain;
    const Tensor wide_x = mma ? aligned_rows(x) : x, wide_dy = mma ? aligned_rows(dy) : dy;
    WeightGradient<T> p{};
    p.x = rows<const T>(wide_x);
    p.dy = rows<const T>(wide_dy);
    p.items = int(items_of(x));
    p.in = int(dw.dim(-1));
    p.out = int(dw.dim(0));
    p.x_in = int(wide_x.shape()[-1]);
    p.dy_out = int(wide_dy.shape()[-1]);
    p.scale = scale;
    p.height = p.out_height = int(x.rows() / p.items);
    p.width = p.out_width = p.taps = p.kernel_w = 1;
    if (dw.shape().rank() == 4 && x.shape().rank() == 4) {
      p.taps = int(dw.dim(1) * dw.dim(2));
      p.kernel_w = int(dw.dim(2));
      p.padding = c.padding;
      p.height = int(x.dim(1));
      p.width = int(x.dim(2));
      p.out_height = int(dy.dim(1));
      p.out_width = int(dy.dim(2));
    }
    const int64_t pairs = (p.items + 1) / 2, columns = int64_t(p.taps) * p.in;
    const gemm::GradientPlan plan = gemm::plan_weight_gradient(int64_t(p.out_height) * p.out_width, p.out, columns,
                                                               mma ? kGradientTile : kTile, multiprocessors(x.device()));
    p.pieces = int(plan.pieces);
    p.piece_rows = int(plan.piece_rows);
    p.shares = int(pairs * plan.pieces);
    if (p.shares == 1) {
      p.outs = p.out;
      p.slab_taps = p.taps;
      p.target = dw.data<float>();
      p.add = true;
      sum(p, kernels_, x.device());
      return;
    }
    // slabs, so that the partial sums stay small; they are used one after the other
    const gemm::GradientSlab slab = gemm::gradient_slab(p.out, p.taps, p.in, p.shares, kGradientWorkspace);
    const Tensor partial = Tensor::empty(Shape{p.shares * slab.outs * slab.taps * p.in}, DType::F32, x.device());
    p.target = partial.data<float>();
    for (int64_t out = 0; out < p.out; out += slab.outs)
      for (int64_t tap = 0; tap < p.taps; tap += slab.taps) {
        p.first_out = int(out);
        p.outs = int(std::min<int64_t>(slab.outs, p.out - out));
        p.first_tap = int(tap);
        p.slab_taps = int(std::min<int64_t>(slab.taps, p.taps - tap));
        sum(p, kernels_, x.device());
        add_partial_gradients({dw.data<float>() + out * columns + tap * p.in, columns}, p.target, p.outs,
                              int64_t(p.slab_taps) * p.in, pairs, p.pieces, s);
      }
  });
}

void CudaBackend::bias_gradient(Tensor& db, const Tensor& dy, float scale) {
  const int64_t channels = dy.dim(-1), items = items_of(dy), rows_of_item = dy.rows() / items, pairs = (items + 1) / 2;
  const int64_t pieces = (2 * rows_of_item + kBiasRows - 1) / kBiasRows;
  const gpu::Stream s = stream(dy.device());
  const Tensor partial = Tensor::empty({pairs * pieces * channels}, DType::F32, dy.device());
  with_type(dy.dtype(), [&](auto zero) {
    using T = decltype(zero);
    gpu::launch(bias_gradient_kernel<T>,
                dim3(blocks_for(pairs * pieces, 1), unsigned((channels + kBiasChannels - 1) / kBiasChannels)),
                dim3(kBiasChannels, kBiasLanes), 0, s, partial.data<float>(), rows<const T>(dy), int(items),
                int(rows_of_item), int(pieces), int(channels), scale);
  });
  add_partial_gradients({db.data<float>(), channels}, partial.data<float>(), 1, channels, pairs, pieces, s);
}

}  // namespace df::IF_CUDA_NAMESPACE
