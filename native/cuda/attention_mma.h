// Attention with mma.sync (sm_80 and later), head width 64, bf16 or f16: what the forward and the backward pass share.
#pragma once
#include "cuda/attention.h"
#include "cuda/gpu/ptx.cuh"
#include "cuda/vectors.h"

namespace df::IF_CUDA_NAMESPACE {

/// Whether the kernels below can do it: type, width, a positive scale (the largest product is the largest score) and
/// rows of 16-byte vectors in everything that is read. `also`: further tensors that must have such rows, if defined.
bool attention_mma_fits(const Tensor& q, const AttentionParams& p, const std::vector<Tensor>& also);
void attention_mma(Tensor& y, const Tensor& q, const AttentionParams& p);
void attention_backward_mma(const Gradient& dq, const std::vector<Gradient>& dkey, const std::vector<Gradient>& dvalue,
                            const Tensor& dbias, const Tensor& dy, const Tensor& q, const AttentionParams& p);

namespace attention_mma_tiles {

constexpr int kWidth = 64, kRows = 64, kThreads = 128, kSteps = kWidth / 16, kColumnTiles = kRows / 8;
constexpr float kLog2E = 1.44269504088896341f;

/// A tile of 64 rows of 64 values in shared memory. 16-byte chunk c of row r lies at c ^ (r & 7): without bank conflicts
/// for ldmatrix.
template <class T> struct alignas(128) Tile {
  T values[kRows * kWidth];
  GPU_FN T* chunk(int row, int c) { return values + row * kWidth + ((c ^ (row & 7)) << 3); }
};

/// Starts the copy of rows first … of a head (column: its first value); rows past count become zeros.
template <class T>
GPU_FN void copy_rows(Tile<T>& tile, Rows<const T> from, int64_t first, int count, int64_t column) {
  const int c = int(threadIdx.x) % 8;
#pragma unroll
  for (int i = 0; i < kRows / 16; ++i) {
    const int row = int(threadIdx.x) / 8 + 16 * i;
    const bool inside = row < count;
    gpu::cp_async16(tile.chunk(row, c), inside ? from[first + row] + column + c * 8 : from.data, inside);
  }
}

/// The same for keys and values; what does not count becomes zeros, and `kept` says which count.
template <class T>
GPU_FN void copy_keys(Tile<T>& keys, Tile<T>& values, uint8_t (&kept)[kRows], const AttentionProblem<T>& p, int b,
                      int first, int64_t column) {
  const int c = int(threadIdx.x) % 8;
#pragma unroll
  for (int i = 0; i < kRows / 16; ++i) {
    const int row = int(threadIdx.x) / 8 + 16 * i, j = first + row;
    const bool counts = p.kept(b, j);
    const int segment = j < p.run[0] ? 0 : 1;
    const int64_t at = p.key_row(b, j);
    gpu::cp_async16(keys.chunk(row, c), counts ? p.key[segment][at] + column + c * 8 : p.key[0].data, counts);
    gpu::cp_async16(values.chunk(row, c), counts ? p.value[segment][at] + column + c * 8 : p.value[0].data, counts);
    if (c == 0) kept[row] = counts;
  }
}

/// The warp's 16 rows as left operand.
template <class T> GPU_FN void load_left(uint32_t (&a)[kSteps][1][4], Tile<T>& tile, int warp, int lane) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) gpu::ldmatrix4(a[k][0], tile.chunk(16 * warp + lane % 16, 2 * k + lane / 16));
}

/// out (16 rows of the warp, 64 columns) += left · rowsᵀ: column j belongs to row j of the tile.
template <class T>
GPU_FN void multiply_rows(float (&out)[1][kColumnTiles][4], const uint32_t (&left)[kSteps][1][4], Tile<T>& rows, int lane) {
#pragma unroll
  for (int k = 0; k < kSteps; ++k) {
    uint32_t b[kColumnTiles][2];
#pragma unroll
    for (int j = 0; j < kColumnTiles; j += 2) {
      uint32_t r[4];
      gpu::ldmatrix4(r, rows.chunk(8 * j + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
      b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
    }
    gpu::mma<T>(out, left[k], b);
  }
}

/// out (16 rows, 64 columns of a head) += weights (16 rows, 64) · rows. The registers of the weights, two column tiles at
/// a time, are a left operand as they lie.
template <class T>
GPU_FN void multiply_weights(float (&out)[1][kColumnTiles][4], const float (&weights)[1][kColumnTiles][4], Tile<T>& rows,
                             int lane) {
#pragma unroll
  for (int k = 0; k < kRows / 16; ++k) {
    const float(&w0)[4] = weights[0][2 * k], (&w1)[4] = weights[0][2 * k + 1];
    const uint32_t a[1][4] = {{gpu::pack2<T>(w0[0], w0[1]), gpu::pack2<T>(w0[2], w0[3]), gpu::pack2<T>(w1[0], w1[1]),
                               gpu::pack2<T>(w1[2], w1[3])}};
    uint32_t b[kColumnTiles][2];
#pragma unroll
    for (int j = 0; j < kColumnTiles; j += 2) {
      uint32_t r[4];
      gpu::ldmatrix4_transposed(r, rows.chunk(16 * k + lane % 16, j + lane / 16));
      b[j][0] = r[0], b[j][1] = r[1], b[j + 1][0] = r[2], b[j + 1][1] = r[3];
    }
    gpu::mma<T>(out, a, b);
  }
}

/// Value r of column tile j of a thread lies in row `row(r)` of the warp's 16 and in column `column(j, r)`.
struct Fragment {
  int lane;
  GPU_FN int row(int r) const { return lane / 4 + r / 2 * 8; }
  GPU_FN int column(int j, int r) const { return 8 * j + lane % 4 * 2 + r % 2; }
};

/// Products become scores times `factor`, a multiple of log₂e: with a bias they are all there is and the factor is 1;
/// without, they are left as they are and the factor does it. Keys that do not count: -infinity. Row r of the fragment
/// is query q0 + row; `all`: every key of the tile counts.
template <class T>
GPU_FN void finish_scores(float (&score)[1][kColumnTiles][4], const AttentionProblem<T>& p, const uint8_t (&kept)[kRows],
                          Fragment at, int h, int q0, int k0, bool all) {
  if (p.bias.data) {
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j)
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int i = q0 + at.row(r), key = k0 + at.column(j, r);
        if (i < p.queries && key < p.tokens)
          score[0][j][r] = kLog2E * (score[0][j][r] * p.scale + p.bias[int64_t(h) * p.queries + i][key]);
      }
  }
  if (all) return;
#pragma unroll
  for (int j = 0; j < kColumnTiles; ++j)
#pragma unroll
    for (int r = 0; r < 4; ++r)
      if (!kept[at.column(j, r)]) score[0][j][r] = -INFINITY;
}
template <class T> GPU_FN float score_factor(const AttentionProblem<T>& p) { return p.bias.data ? 1 : p.scale * kLog2E; }

/// Sums and maxima of a row, which lies in the four lanes of a quad.
GPU_FN float quad_max(float v) {
  v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
  return fmaxf(v, __shfl_xor_sync(~0u, v, 2));
}
GPU_FN float quad_sum(float v) {
  v += __shfl_xor_sync(~0u, v, 1);
  return v + __shfl_xor_sync(~0u, v, 2);
}

/// Softmax of the two rows of a thread (half 0: values 0 and 1, half 1: 2 and 3).
struct OnlineSoftmax {
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};  // sum: of this lane's columns
  /// Scores become weights relative to the largest so far. Returns what earlier weights are multiplied by.
  GPU_FN float update(float (&score)[1][kColumnTiles][4], int half, float factor) {
    float m = largest[half];
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j) m = fmaxf(m, fmaxf(score[0][j][2 * half], score[0][j][2 * half + 1]));
    m = quad_max(m);
    const float base = m == -INFINITY ? 0 : m * factor;
    const float shrink = exp2f(largest[half] * factor - base);
    largest[half] = m, sum[half] *= shrink;
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; ++e) sum[half] += score[0][j][e] = exp2f(score[0][j][e] * factor - base);
    return shrink;
  }
};

}  // namespace attention_mma_tiles
}  // namespace df::IF_CUDA_NAMESPACE
