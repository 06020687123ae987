// Attention with mma.sync: 64 queries of one head per block, four warps of 16; keys and values in tiles of 64, one tile
// ahead. (Dao 2023, "FlashAttention-2".)
#include "cuda/attention_mma.h"

#include <algorithm>

namespace df::IF_CUDA_NAMESPACE {
namespace {

using namespace attention_mma_tiles;

template <class T> struct Shared {
  Tile<T> q, k[2], v[2];
  uint8_t kept[2][kRows];
};

// grid: (query tiles, heads, batch).
template <class T>
__global__ void __launch_bounds__(kThreads, 3) attention_mma_kernel(Rows<T> y, AttentionProblem<T> p) {
  auto& s = gpu::dynamic_shared<Shared<T>>();
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32;
  const int q0 = int(blockIdx.x) * kRows, h = int(blockIdx.y), b = int(blockIdx.z), tiles = (p.tokens + kRows - 1) / kRows;
  const int64_t first = int64_t(b) * p.queries + q0, column = int64_t(h) * kWidth;
  const Fragment at{lane};
  copy_rows(s.q, p.q, first, p.queries - q0, column);
  copy_keys(s.k[0], s.v[0], s.kept[0], p, b, 0, column);
  gpu::cp_async_commit();

  uint32_t q[kSteps][1][4];
  float out[1][kColumnTiles][4] = {};
  OnlineSoftmax softmax;
  const float factor = score_factor(p);
  for (int tile = 0; tile < tiles; ++tile) {
    const int stage = tile % 2, k0 = tile * kRows;
    gpu::cp_async_wait<0>();
    __syncthreads();  // this tile has come for all, and all have finished with the other stage
    if (tile + 1 < tiles) copy_keys(s.k[stage ^ 1], s.v[stage ^ 1], s.kept[stage ^ 1], p, b, k0 + kRows, column);
    gpu::cp_async_commit();
    if (tile == 0) load_left(q, s.q, warp, lane);
    float score[1][kColumnTiles][4] = {};
    multiply_rows(score, q, s.k[stage], lane);
    finish_scores(score, p, s.kept[stage], at, h, q0 + 16 * warp, k0, !p.mask.data && k0 + kRows <= p.tokens);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float shrink = softmax.update(score, half, factor);
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) out[0][j][2 * half] *= shrink, out[0][j][2 * half + 1] *= shrink;
    }
    multiply_weights(out, score, s.v[stage], lane);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float inverse = 1 / quad_sum(softmax.sum[half]);
    const int row = 16 * warp + at.row(2 * half);
    if (q0 + row >= p.queries) continue;
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j)
      *reinterpret_cast<uint32_t*>(y[first + row] + column + at.column(j, 0)) =
          gpu::pack2<T>(out[0][j][2 * half] * inverse, out[0][j][2 * half + 1] * inverse);
  }
}

}  // namespace

bool attention_mma_fits(const Tensor& q, const AttentionParams& p, const std::vector<Tensor>& also) {
  return q.dim(2) == int64_t(p.heads) * kWidth && p.scale > 0 && has_vectors(q) &&
         std::all_of(also.begin(), also.end(), has_vectors) &&
         std::all_of(p.segments.begin(), p.segments.end(),
                     [](const KeyValue& s) { return has_vectors(s.key) && has_vectors(s.value); });
}

void attention_mma(Tensor& y, const Tensor& q, const AttentionParams& p) {
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const AttentionProblem<T> problem(q, p);
    gpu::launch(attention_mma_kernel<T>,
                dim3(blocks_for(problem.queries, kRows), unsigned(p.heads), unsigned(q.dim(0))), dim3(kThreads),
                sizeof(Shared<T>), stream(q.device()), rows<T>(y), problem);
  };
  if (q.dtype() == DType::BF16) run(gpu::bf16{});
  else run(gpu::f16{});
}

}  // namespace df::IF_CUDA_NAMESPACE
