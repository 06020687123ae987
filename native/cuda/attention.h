// What the plain kernels of attention and its backward pass share: tiles of 32 queries and 32 keys in float32, 64
// columns of a head at a time.
#pragma once
#include "cuda/gpu/host.cuh"
#include "ops/types.h"

namespace df::IF_CUDA_NAMESPACE {

/// AttentionParams and the queries as a kernel sees them.
template <class T> struct AttentionProblem {
  Rows<const T> q, key[2], value[2];
  int run[2];  // keys of the segments
  int heads, queries, tokens, width;
  float scale;
  Rows<const float> bias;    // row h * queries + i, or null
  Rows<const int32_t> mask;  // row b, or null

  AttentionProblem(const Tensor& queries_tensor, const AttentionParams& p)
      : q(rows<const T>(queries_tensor)), run{0, 0}, heads(p.heads), queries(int(queries_tensor.dim(1))), tokens(0),
        width(int(queries_tensor.dim(2) / p.heads)), scale(p.scale), bias(rows<const float>(p.bias)),
        mask(rows<const int32_t>(p.mask)) {
    for (size_t i = 0; i < p.segments.size(); ++i) {
      key[i] = rows<const T>(p.segments[i].key), value[i] = rows<const T>(p.segments[i].value);
      run[i] = int(p.segments[i].key.dim(1));
      tokens += run[i];
    }
  }

  /// Row of key j of item b in segment j >= run[0].
  GPU_FN int64_t key_row(int b, int j) const {
    return j < run[0] ? int64_t(b) * run[0] + j : int64_t(b) * run[1] + (j - run[0]);
  }
  GPU_FN bool kept(int b, int j) const { return j < tokens && (!mask.data || mask[b][j] != 0); }
  /// -infinity for a key that does not count.
  GPU_FN float score(float product, int b, int h, int i, int j) const {
    if (!kept(b, j)) return -INFINITY;
    const float s = product * scale;
    return bias.data && i < queries ? s + bias[int64_t(h) * queries + i][j] : s;
  }
};

/// dbias += the sum over the items, in the order of parameter gradients. dscores: an item's size times `items`.
void add_bias_gradient(const Tensor& dbias, const Tensor& dscores, int64_t items);

namespace attention {

constexpr int kTile = 32, kColumns = 64, kThreads = 128;

using Tile = float[kTile][kColumns + 1];
using Scores = float[kTile][kTile + 1];

/// Of a thread: rows y, y + 8, … and columns x, x + 16, … of a tile.
struct Place {
  int y, x;
  GPU_FN Place() : y(int(threadIdx.x) / 16), x(int(threadIdx.x) % 16) {}
  GPU_FN int row(int i) const { return y + 8 * i; }
  GPU_FN int column(int j) const { return x + 16 * j; }
};

/// Rows of queries; those past `count` are zero.
template <class T>
GPU_FN void load_rows(Tile& tile, Place at, Rows<const T> rows, int64_t first, int count, int64_t column, int columns) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    for (int d = at.x; d < columns; d += 16)
      tile[at.row(i)][d] = at.row(i) < count ? gpu::to_float(rows[first + at.row(i)][column + d]) : 0;
}

/// Keys or values from key `first` on; those that do not count are zero.
template <class T>
GPU_FN void load_keys(Tile& tile, Place at, const AttentionProblem<T>& p, const Rows<const T> (&of)[2], int b, int first,
                      int64_t column, int columns) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int j = first + at.row(i);
    const bool kept = p.kept(b, j);
    const T* from = kept ? (j < p.run[0] ? of[0] : of[1])[p.key_row(b, j)] + column : nullptr;
    for (int d = at.x; d < columns; d += 16) tile[at.row(i)][d] = kept ? gpu::to_float(from[d]) : 0;
  }
}

/// sum[i][j] += a[row i] · b[row of column j].
GPU_FN void add_row_products(float (&sum)[4][2], Place at, const Tile& a, const Tile& b, int columns) {
  for (int d = 0; d < columns; ++d) {
    const float b0 = b[at.column(0)][d], b1 = b[at.column(1)][d];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float v = a[at.row(i)][d];
      sum[i][0] += v * b0, sum[i][1] += v * b1;
    }
  }
}

/// out (row i, column j) += Σ_k weights[row][k] * values[k][column], or with the weights transposed.
template <bool Transposed>
GPU_FN void add_weighted(float (&out)[4][4], Place at, const Scores& weights, const Tile& values, int count) {
  for (int k = 0; k < count; ++k) {
    float w[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) w[i] = Transposed ? weights[k][at.row(i)] : weights[at.row(i)][k];
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const float v = values[k][at.column(j)];
#pragma unroll
      for (int i = 0; i < 4; ++i) out[i][j] += w[i] * v;
    }
  }
}

/// The largest score so far and the sum of weights relative to it (Milakov & Gimelshein 2018, algorithm 3).
struct Softmax {
  float largest = -INFINITY, sum = 0;
  /// Takes in row scores[0 … count), which become weights; returns what earlier weights are multiplied by.
  GPU_FN float update(float* scores, int count) {
    float m = largest;
    for (int k = 0; k < count; ++k) m = fmaxf(m, scores[k]);
    const float base = m == -INFINITY ? 0 : m, shrink = expf(largest - base);
    sum *= shrink;
    for (int k = 0; k < count; ++k) sum += scores[k] = expf(scores[k] - base);
    largest = m;
    return shrink;
  }
};

}  // namespace attention
}  // namespace df::IF_CUDA_NAMESPACE
