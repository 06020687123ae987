// Backward of attention. The formulas: cpu/reference/attention_backward.cpp. Three passes compute the scores again, each
// sum by one thread in one order: statistics of the queries; dK and dV per tile of keys; dQ per tile of queries.
#include "cuda/attention_mma.h"
#include "cuda/cuda_backend.h"
#include "cuda/gpu/reduce.cuh"
#include "cuda/gradient.h"

namespace df::IF_CUDA_NAMESPACE {
namespace {

using namespace attention;

constexpr int kBiasThreads = 256;

// Of a query: weight = exp(score - largest) * inverse; delta = Σ weight * dweight.
struct Statistics {
  float largest, inverse, delta;
};

template <class T> struct BackwardProblem {
  AttentionProblem<T> forward;
  Rows<const T> dy;
  Statistics* statistics;  // (batch, heads, queries)
  GPU_FN int64_t query(int b, int h, int i) const { return (int64_t(b) * forward.heads + h) * forward.queries + i; }
};

struct Shared {
  Tile q, dy, k, v;
  Scores weights, dscores;
  Statistics statistics[kTile];
};

// A tile of queries and one of keys, and the products of their rows.
struct Tiles {
  int b, h, q0, k0, queries, keys;
  float product[4][2], dweight[4][2];  // q·k and dy·v
};

// The columns of chunk `last` come last and stay in the tiles. `queries_stay`, `keys_stay`: these tiles are loaded
// already, if there is but one chunk.
template <class T>
GPU_FN void multiply(Shared& s, Place at, const BackwardProblem<T>& g, Tiles& t, int last, bool queries_stay,
                     bool keys_stay) {
  const AttentionProblem<T>& p = g.forward;
  const int chunks = (p.width + kColumns - 1) / kColumns;
  const int64_t row = int64_t(t.b) * p.queries + t.q0;
#pragma unroll
  for (int i = 0; i < 4; ++i) t.product[i][0] = t.product[i][1] = t.dweight[i][0] = t.dweight[i][1] = 0;
  for (int n = 1; n <= chunks; ++n) {
    const int d0 = (last + n) % chunks * kColumns, columns = min(kColumns, p.width - d0);
    const int64_t column = int64_t(t.h) * p.width + d0;
    __syncthreads();  // all have finished with the tiles
    if (!queries_stay || chunks > 1) {
      load_rows(s.q, at, p.q, row, t.queries, column, columns);
      load_rows(s.dy, at, g.dy, row, t.queries, column, columns);
      if (n == 1 && int(threadIdx.x) < t.queries)
        s.statistics[threadIdx.x] = g.statistics[g.query(t.b, t.h, t.q0 + int(threadIdx.x))];
    }
    if (!keys_stay || chunks > 1) {
      load_keys(s.k, at, p, p.key, t.b, t.k0, column, columns);
      load_keys(s.v, at, p, p.value, t.b, t.k0, column, columns);
    }
    __syncthreads();
    add_row_products(t.product, at, s.q, s.k, columns);
    add_row_products(t.dweight, at, s.dy, s.v, columns);
  }
}

// grid: (query tiles, heads, batch).
template <class T>
__global__ void __launch_bounds__(kThreads, 3) statistics_kernel(BackwardProblem<T> g) {
  GPU_SHARED(Shared, s);
  const AttentionProblem<T>& p = g.forward;
  const Place at;
  const int tid = int(threadIdx.x);
  Tiles t;
  t.b = int(blockIdx.z), t.h = int(blockIdx.y), t.q0 = int(blockIdx.x) * kTile, t.queries = min(kTile, p.queries - t.q0);
  Softmax softmax;  // of row tid
  float delta = 0;
  for (t.k0 = 0; t.k0 < p.tokens; t.k0 += kTile) {
    t.keys = min(kTile, p.tokens - t.k0);
    multiply(s, at, g, t, 0, t.k0 > 0, false);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int row = at.row(i), column = at.column(j);
        s.weights[row][column] = p.score(t.product[i][j], t.b, t.h, t.q0 + row, t.k0 + column);
        s.dscores[row][column] = t.dweight[i][j];
      }
    __syncthreads();
    if (tid < t.queries) {
      delta *= softmax.update(s.weights[tid], t.keys);
      for (int k = 0; k < t.keys; ++k) delta += s.weights[tid][k] * s.dscores[tid][k];
    }
  }
  if (tid < t.queries)
    g.statistics[g.query(t.b, t.h, t.q0 + tid)] = {softmax.largest == -INFINITY ? 0 : softmax.largest, 1 / softmax.sum,
                                                   delta / softmax.sum};
}

// Weights and their scores' gradients of a tile into shared memory; exactly 0 where a key or query does not count.
template <class T>
GPU_FN void weigh(Shared& s, Place at, const BackwardProblem<T>& g, const Tiles& t) {
  const AttentionProblem<T>& p = g.forward;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      const int row = at.row(i), column = at.column(j), key = t.k0 + column;
      float weight = 0, dscore = 0;
      if (row < t.queries && p.kept(t.b, key)) {
        const Statistics st = s.statistics[row];
        weight = expf(p.score(t.product[i][j], t.b, t.h, t.q0 + row, key) - st.largest) * st.inverse;
        dscore = weight * (t.dweight[i][j] - st.delta);
      }
      s.weights[row][column] = weight, s.dscores[row][column] = dscore;
    }
}

// grid: (key tiles * column chunks, heads, batch).
template <class T>
__global__ void __launch_bounds__(kThreads, 3)
keys_kernel(BackwardProblem<T> g, Into<T> dkey0, Into<T> dvalue0, Into<T> dkey1, Into<T> dvalue1) {
  GPU_SHARED(Shared, s);
  const AttentionProblem<T>& p = g.forward;
  const Place at;
  const int chunks = (p.width + kColumns - 1) / kColumns, chunk = int(blockIdx.x) % chunks;
  const int own = min(kColumns, p.width - chunk * kColumns);
  Tiles t;
  t.b = int(blockIdx.z), t.h = int(blockIdx.y), t.k0 = int(blockIdx.x) / chunks * kTile;
  t.keys = min(kTile, p.tokens - t.k0);
  float dk[4][4] = {}, dv[4][4] = {};
  for (t.q0 = 0; t.q0 < p.queries; t.q0 += kTile) {
    t.queries = min(kTile, p.queries - t.q0);
    multiply(s, at, g, t, chunk, false, t.q0 > 0);
    weigh(s, at, g, t);
    __syncthreads();
    add_weighted<true>(dv, at, s.weights, s.dy, t.queries);
    add_weighted<true>(dk, at, s.dscores, s.q, t.queries);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int j = t.k0 + at.row(i);
    if (j >= p.tokens) continue;
    const bool kept = p.kept(t.b, j), first = j < p.run[0];
    const Into<T> dkey = first ? dkey0 : dkey1, dvalue = first ? dvalue0 : dvalue1;
    const int64_t row = p.key_row(t.b, j), column = int64_t(t.h) * p.width + chunk * kColumns;
#pragma unroll
    for (int c = 0; c < 4; ++c) {
      if (at.column(c) >= own) continue;
      if (dkey.wanted()) dkey.store(row, column + at.column(c), kept ? p.scale * dk[i][c] : 0);
      if (dvalue.wanted()) dvalue.store(row, column + at.column(c), kept ? dv[i][c] : 0);
    }
  }
}

// grid: (query tiles * column chunks, heads, batch). dscores (batch, heads, queries, tokens) may be null.
template <class T>
__global__ void __launch_bounds__(kThreads, 3) queries_kernel(BackwardProblem<T> g, Into<T> dq, float* dscores) {
  GPU_SHARED(Shared, s);
  const AttentionProblem<T>& p = g.forward;
  const Place at;
  const int chunks = (p.width + kColumns - 1) / kColumns, chunk = int(blockIdx.x) % chunks;
  const int own = min(kColumns, p.width - chunk * kColumns);
  Tiles t;
  t.b = int(blockIdx.z), t.h = int(blockIdx.y), t.q0 = int(blockIdx.x) / chunks * kTile;
  t.queries = min(kTile, p.queries - t.q0);
  float out[4][4] = {};
  for (t.k0 = 0; t.k0 < p.tokens; t.k0 += kTile) {
    t.keys = min(kTile, p.tokens - t.k0);
    multiply(s, at, g, t, chunk, t.k0 > 0, false);
    weigh(s, at, g, t);
    __syncthreads();
    add_weighted<false>(out, at, s.dscores, s.k, t.keys);
    if (!dscores || chunk) continue;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j)
        if (at.row(i) < t.queries && at.column(j) < t.keys)
          dscores[g.query(t.b, t.h, t.q0 + at.row(i)) * p.tokens + t.k0 + at.column(j)] = s.dscores[at.row(i)][at.column(j)];
  }
  if (!dq.wanted()) return;
  const int64_t column = int64_t(t.h) * p.width + chunk * kColumns;
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (at.row(i) < t.queries && at.column(j) < own)
        dq.store(int64_t(t.b) * p.queries + t.q0 + at.row(i), column + at.column(j), p.scale * out[i][j]);
}

__global__ void __launch_bounds__(kBiasThreads, 4) bias_kernel(float* dbias, const float* dscores, int items, int64_t n) {
  const int64_t i = int64_t(blockIdx.x) * kBiasThreads + threadIdx.x;
  if (i < n) dbias[i] += gpu::item_sum(items, [&](int b) { return dscores[b * n + i]; });
}

}  // namespace

void add_bias_gradient(const Tensor& dbias, const Tensor& dscores, int64_t items) {
  const int64_t n = dbias.numel();
  gpu::launch(bias_kernel, dim3(blocks_for(n, kBiasThreads)), dim3(kBiasThreads), 0, stream(dbias.device()),
              dbias.data<float>(), dscores.data<float>(), int(items), n);
}

// y is not read: rounded, it would not give Σ weight * dweight.
void CudaBackend::attention_backward(Gradient dq, const std::vector<Gradient>& dkey, const std::vector<Gradient>& dvalue,
                                     Tensor dbias, const Tensor& dy, const Tensor&, const Tensor& q,
                                     const AttentionParams& p) {
  std::vector<Tensor> all = {dq.into, dy};
  for (const auto* gradients : {&dkey, &dvalue})
    for (const Gradient& g : *gradients) all.push_back(g.into);
  if (kernels_ != Kernels::Plain && attention_mma_fits(q, p, all))
    return attention_backward_mma(dq, dkey, dvalue, dbias, dy, q, p);
  const int64_t batch = q.dim(0);
  const gpu::Stream s = stream(q.device());
  with_type(q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const AttentionProblem<T> forward(q, p);
    const int64_t per_item = int64_t(forward.heads) * forward.queries, scores = per_item * forward.tokens;
    const Tensor statistics = Tensor::empty({batch, per_item, 3}, DType::F32, q.device());
    const BackwardProblem<T> problem{forward, rows<const T>(dy), static_cast<Statistics*>(statistics.raw())};
    const unsigned chunks = blocks_for(forward.width, kColumns), query_tiles = blocks_for(forward.queries, kTile);
    const unsigned key_tiles = blocks_for(forward.tokens, kTile), heads = unsigned(p.heads), items = unsigned(batch);
    gpu::launch(statistics_kernel<T>, dim3(query_tiles, heads, items), dim3(kThreads), 0, s, problem);

    const Gradient none;
    const bool two = dkey.size() > 1;
    const Gradient &dkey1 = two ? dkey[1] : none, &dvalue1 = two ? dvalue[1] : none;
    if (dkey[0].wanted() || dvalue[0].wanted() || dkey1.wanted() || dvalue1.wanted())
      gpu::launch(keys_kernel<T>, dim3(key_tiles * chunks, heads, items), dim3(kThreads), 0, s, problem,
                  Into<T>(dkey[0]), Into<T>(dvalue[0]), Into<T>(dkey1), Into<T>(dvalue1));

    Tensor dscores;
    if (dbias.defined()) dscores = Tensor::empty({batch, scores}, DType::F32, q.device());
    float* const ds = dbias.defined() ? dscores.data<float>() : nullptr;
    if (dq.wanted() || ds)
      gpu::launch(queries_kernel<T>, dim3(query_tiles * chunks, heads, items), dim3(kThreads), 0, s, problem,
                  Into<T>(dq), ds);
    if (ds) add_bias_gradient(dbias, dscores, batch);
  });
}

}  // namespace df::IF_CUDA_NAMESPACE
