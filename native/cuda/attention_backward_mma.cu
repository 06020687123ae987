// Backward of attention with mma.sync, as in attention_backward.cu but in tiles of 64 queries and 64 keys: four warps of 16
// queries, or of 16 keys for dK and dV. The other side's tiles come one ahead.
#include "cuda/attention_mma.h"
#include "cuda/gpu/reduce.cuh"
#include "cuda/gradient.h"

namespace df::IF_CUDA_NAMESPACE {
namespace {

using namespace attention_mma_tiles;

// Of a query: weight = exp2(score * factor - base) * inverse; delta = Σ weight * dweight.
struct Statistics {
  float base, inverse, delta;
};

template <class T> struct BackwardProblem {
  AttentionProblem<T> forward;
  Rows<const T> dy;
  Statistics* statistics;  // (batch, heads, queries)
  GPU_FN int64_t query(int b, int h, int i) const { return (int64_t(b) * forward.heads + h) * forward.queries + i; }
  /// Of a query that is none: weight 0.
  GPU_FN Statistics of(int b, int h, int i) const {
    return i < forward.queries ? statistics[query(b, h, i)] : Statistics{0, 0, 0};
  }
};

// Two neighbouring values at once; the row is aligned for that.
template <class T> GPU_FN void store_pair(const Into<T>& into, int64_t row, int64_t column, float v0, float v1) {
  uint32_t* const to = reinterpret_cast<uint32_t*>(into.rows[row] + column);
  if (into.add) {
    const float2 old = gpu::unpack2<T>(*to);
    v0 += old.x, v1 += old.y;
  }
  *to = gpu::pack2<T>(v0, v1);
}

template <class T> struct QueriesShared {
  Tile<T> q, dy, k[2], v[2];
  uint8_t kept[2][kRows];
};

// Of a block that owns 64 queries: their rows as left operands, and the loop over the tiles of keys.
// tile_of_keys(score, dweight, k0, kept, all counted?, k tile): products of the 16 rows of a warp with 64 keys.
template <class T, class F>
GPU_FN void for_each_key_tile(QueriesShared<T>& s, const BackwardProblem<T>& g, int q0, F&& tile_of_keys) {
  const AttentionProblem<T>& p = g.forward;
  const int warp = int(threadIdx.x) / 32, lane = int(threadIdx.x) % 32, h = int(blockIdx.y), b = int(blockIdx.z);
  const int tiles = (p.tokens + kRows - 1) / kRows;
  const int64_t first = int64_t(b) * p.queries + q0, column = int64_t(h) * kWidth;
  copy_rows(s.q, p.q, first, p.queries - q0, column);
  copy_rows(s.dy, g.dy, first, p.queries - q0, column);
  copy_keys(s.k[0], s.v[0], s.kept[0], p, b, 0, column);
  gpu::cp_async_commit();
  uint32_t q[kSteps][1][4], dy[kSteps][1][4];
  for (int tile = 0; tile < tiles; ++tile) {
    const int stage = tile % 2, k0 = tile * kRows;
    gpu::cp_async_wait<0>();
    __syncthreads();  // this tile has come for all, and all have finished with the other stage
    if (tile + 1 < tiles) copy_keys(s.k[stage ^ 1], s.v[stage ^ 1], s.kept[stage ^ 1], p, b, k0 + kRows, column);
    gpu::cp_async_commit();
    if (tile == 0) load_left(q, s.q, warp, lane), load_left(dy, s.dy, warp, lane);
    float score[1][kColumnTiles][4] = {}, dweight[1][kColumnTiles][4] = {};
    multiply_rows(score, q, s.k[stage], lane);
    multiply_rows(dweight, dy, s.v[stage], lane);
    const bool all = !p.mask.data && k0 + kRows <= p.tokens;
    finish_scores(score, p, s.kept[stage], Fragment{lane}, h, q0 + 16 * warp, k0, all);
    tile_of_keys(score, dweight, k0, s.kept[stage], all, s.k[stage]);
  }
}

// grid: (query tiles, heads, batch).
template <class T>
__global__ void __launch_bounds__(kThreads, 2) statistics_mma_kernel(BackwardProblem<T> g) {
  auto& s = gpu::dynamic_shared<QueriesShared<T>>();
  const int lane = int(threadIdx.x) % 32, q0 = int(blockIdx.x) * kRows;
  const float factor = score_factor(g.forward);
  OnlineSoftmax softmax;
  float delta[2] = {0, 0};
  for_each_key_tile(s, g, q0, [&](auto& score, auto& dweight, int, auto&, bool, auto&) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      delta[half] *= softmax.update(score, half, factor);
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) delta[half] += score[0][j][e] * dweight[0][j][e];
    }
  });
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float sum = quad_sum(softmax.sum[half]), total = quad_sum(delta[half]), m = softmax.largest[half];
    const int i = q0 + int(threadIdx.x) / 32 * 16 + Fragment{lane}.row(2 * half);
    if (lane % 4 == 0 && i < g.forward.queries)
      g.statistics[g.query(int(blockIdx.z), int(blockIdx.y), i)] = {m == -INFINITY ? 0 : m * factor, 1 / sum, total / sum};
  }
}

// grid: (query tiles, heads, batch). dscores (batch, heads, queries, tokens) may be null.
template <class T>
__global__ void __launch_bounds__(kThreads, 2) queries_mma_kernel(BackwardProblem<T> g, Into<T> dq, float* dscores) {
  auto& s = gpu::dynamic_shared<QueriesShared<T>>();
  const AttentionProblem<T>& p = g.forward;
  const int lane = int(threadIdx.x) % 32, q0 = int(blockIdx.x) * kRows, own = q0 + int(threadIdx.x) / 32 * 16;
  const int h = int(blockIdx.y), b = int(blockIdx.z);
  const Fragment at{lane};
  const float factor = score_factor(p);
  const Statistics statistics[2] = {g.of(b, h, own + at.row(0)), g.of(b, h, own + at.row(2))};
  float out[1][kColumnTiles][4] = {};
  for_each_key_tile(s, g, q0, [&](auto& score, auto& dweight, int k0, auto& kept, bool all, auto& keys) {
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j)
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const Statistics& st = statistics[r / 2];
        const float weight = exp2f(score[0][j][r] * factor - st.base) * st.inverse;
        score[0][j][r] = all || kept[at.column(j, r)] ? weight * (dweight[0][j][r] - st.delta) : 0;
        const int i = own + at.row(r), key = k0 + at.column(j, r);
        if (dscores && i < p.queries && key < p.tokens) dscores[g.query(b, h, i) * p.tokens + key] = score[0][j][r];
      }
    multiply_weights(out, score, keys, lane);
  });
  if (!dq.wanted()) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int i = own + at.row(2 * half);
    if (i >= p.queries) continue;
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j)
      store_pair(dq, int64_t(b) * p.queries + i, int64_t(h) * kWidth + at.column(j, 0), p.scale * out[0][j][2 * half],
                 p.scale * out[0][j][2 * half + 1]);
  }
}

template <class T> struct KeysShared {
  Tile<T> k, v, q[2], dy[2];
  Statistics statistics[2][kRows];
  uint8_t kept[kRows];
};

// grid: (key tiles, heads, batch). Rows of the products are keys here, columns are queries.
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
keys_mma_kernel(BackwardProblem<T> g, Into<T> dkey0, Into<T> dvalue0, Into<T> dkey1, Into<T> dvalue1) {
  auto& s = gpu::dynamic_shared<KeysShared<T>>();
  const AttentionProblem<T>& p = g.forward;
  const int tid = int(threadIdx.x), warp = tid / 32, lane = tid % 32;
  const int k0 = int(blockIdx.x) * kRows, h = int(blockIdx.y), b = int(blockIdx.z), tiles = (p.queries + kRows - 1) / kRows;
  const int64_t column = int64_t(h) * kWidth;
  const Fragment at{lane};
  const auto copy_queries = [&](int tile, int stage) {
    const int q0 = tile * kRows;
    copy_rows(s.q[stage], p.q, int64_t(b) * p.queries + q0, p.queries - q0, column);
    copy_rows(s.dy[stage], g.dy, int64_t(b) * p.queries + q0, p.queries - q0, column);
    if (tid < kRows) s.statistics[stage][tid] = g.of(b, h, q0 + tid);
  };
  copy_keys(s.k, s.v, s.kept, p, b, k0, column);
  copy_queries(0, 0);
  gpu::cp_async_commit();
  uint32_t k[kSteps][1][4], v[kSteps][1][4];
  float dk[1][kColumnTiles][4] = {}, dv[1][kColumnTiles][4] = {};
  const float factor = score_factor(p);
  for (int tile = 0; tile < tiles; ++tile) {
    const int stage = tile % 2, q0 = tile * kRows;
    gpu::cp_async_wait<0>();
    __syncthreads();  // this tile has come for all, and all have finished with the other stage
    if (tile + 1 < tiles) copy_queries(tile + 1, stage ^ 1);
    gpu::cp_async_commit();
    if (tile == 0) load_left(k, s.k, warp, lane), load_left(v, s.v, warp, lane);
    float score[1][kColumnTiles][4] = {}, dweight[1][kColumnTiles][4] = {};
    multiply_rows(score, k, s.q[stage], lane);
    multiply_rows(dweight, v, s.dy[stage], lane);
#pragma unroll
    for (int j = 0; j < kColumnTiles; ++j)
#pragma unroll
      for (int r = 0; r < 4; ++r) {
        const int row = 16 * warp + at.row(r), i = q0 + at.column(j, r);
        const Statistics& st = s.statistics[stage][at.column(j, r)];
        float weight = 0, dscore = 0;
        if (s.kept[row] && i < p.queries) {
          float logit = score[0][j][r];
          if (p.bias.data) logit = kLog2E * (logit * p.scale + p.bias[int64_t(h) * p.queries + i][k0 + row]);
          weight = exp2f(logit * factor - st.base) * st.inverse;
          dscore = weight * (dweight[0][j][r] - st.delta);
        }
        score[0][j][r] = weight, dweight[0][j][r] = dscore;
      }
    multiply_weights(dv, score, s.dy[stage], lane);
    multiply_weights(dk, dweight, s.q[stage], lane);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int own = 16 * warp + at.row(2 * half), j = k0 + own;
    if (j >= p.tokens) continue;
    const bool kept = s.kept[own], first = j < p.run[0];
    const Into<T> dkey = first ? dkey0 : dkey1, dvalue = first ? dvalue0 : dvalue1;
    const int64_t row = p.key_row(b, j);
#pragma unroll
    for (int c = 0; c < kColumnTiles; ++c) {
      const int64_t to = column + at.column(c, 0);
      if (dkey.wanted())  // 0 · NaN of a query must not reach a key that does not count
        store_pair(dkey, row, to, kept ? p.scale * dk[0][c][2 * half] : 0, kept ? p.scale * dk[0][c][2 * half + 1] : 0);
      if (dvalue.wanted()) store_pair(dvalue, row, to, kept ? dv[0][c][2 * half] : 0, kept ? dv[0][c][2 * half + 1] : 0);
    }
  }
}

}  // namespace

void attention_backward_mma(const Gradient& dq, const std::vector<Gradient>& dkey, const std::vector<Gradient>& dvalue,
                            const Tensor& dbias, const Tensor& dy, const Tensor& q, const AttentionParams& p) {
  const gpu::Stream s = stream(q.device());
  const int64_t batch = q.dim(0);
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    const AttentionProblem<T> forward(q, p);
    const int64_t per_item = int64_t(forward.heads) * forward.queries, scores = per_item * forward.tokens;
    const Tensor statistics = Tensor::empty({batch, per_item, 3}, DType::F32, q.device());
    const BackwardProblem<T> problem{forward, rows<const T>(dy), static_cast<Statistics*>(statistics.raw())};
    const dim3 queries(blocks_for(forward.queries, kRows), unsigned(p.heads), unsigned(batch));
    const dim3 keys(blocks_for(forward.tokens, kRows), unsigned(p.heads), unsigned(batch));
    gpu::launch(statistics_mma_kernel<T>, queries, dim3(kThreads), sizeof(QueriesShared<T>), s, problem);
    const Gradient none;
    const bool two = dkey.size() > 1;
    const Gradient &dkey1 = two ? dkey[1] : none, &dvalue1 = two ? dvalue[1] : none;
    if (dkey[0].wanted() || dvalue[0].wanted() || dkey1.wanted() || dvalue1.wanted())
      gpu::launch(keys_mma_kernel<T>, keys, dim3(kThreads), sizeof(KeysShared<T>), s, problem, Into<T>(dkey[0]),
                  Into<T>(dvalue[0]), Into<T>(dkey1), Into<T>(dvalue1));
    const Tensor dscores = dbias.defined() ? Tensor::empty({batch, scores}, DType::F32, q.device()) : Tensor();
    float* const ds = dbias.defined() ? dscores.data<float>() : nullptr;
    if (dq.wanted() || ds)
      gpu::launch(queries_mma_kernel<T>, queries, dim3(kThreads), sizeof(QueriesShared<T>), s, problem, Into<T>(dq), ds);
    if (ds) add_bias_gradient(dbias, dscores, batch);
  };
  if (q.dtype() == DType::BF16) run(gpu::bf16{});
  else run(gpu::f16{});
}

}  // namespace df::IF_CUDA_NAMESPACE
