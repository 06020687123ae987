// Attention: softmax over one or two runs of keys without a matrix of scores (Dao et al. 2022, "FlashAttention").
#include "cuda/attention_mma.h"
#include "cuda/attention_wgmma.h"
#include "cuda/cuda_backend.h"

namespace df::IF_CUDA_NAMESPACE {
namespace {

using namespace attention;

// grid: (query tiles * column chunks, heads, batch). Any width; a block makes 64 columns of the result.
template <class T>
__global__ void __launch_bounds__(kThreads, 4) attention_kernel(Rows<T> y, AttentionProblem<T> p) {
  struct Shared {
    Tile q, k, v;
    Scores weights;
    float factor[kTile];
  };
  GPU_SHARED(Shared, s);
  const Place at;
  const int tid = int(threadIdx.x), chunks = (p.width + kColumns - 1) / kColumns, chunk = int(blockIdx.x) % chunks;
  const int q0 = int(blockIdx.x) / chunks * kTile, h = int(blockIdx.y), b = int(blockIdx.z);
  const int queries = min(kTile, p.queries - q0), own = min(kColumns, p.width - chunk * kColumns);
  const int64_t head = int64_t(h) * p.width, column = head + chunk * kColumns;
  Softmax softmax;  // of row tid
  float out[4][4] = {};
  for (int k0 = 0; k0 < p.tokens; k0 += kTile) {
    const int keys = min(kTile, p.tokens - k0);
    float sum[4][2] = {};
    for (int d0 = 0; d0 < p.width; d0 += kColumns) {
      const int columns = min(kColumns, p.width - d0);
      __syncthreads();  // all have finished with the tiles
      if (k0 == 0 || chunks > 1) load_rows(s.q, at, p.q, int64_t(b) * p.queries + q0, queries, head + d0, columns);
      load_keys(s.k, at, p, p.key, b, k0, head + d0, columns);
      if (d0 == 0) load_keys(s.v, at, p, p.value, b, k0, column, own);
      __syncthreads();
      add_row_products(sum, at, s.q, s.k, columns);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 2; ++j)
        s.weights[at.row(i)][at.column(j)] = p.score(sum[i][j], b, h, q0 + at.row(i), k0 + at.column(j));
    __syncthreads();
    if (tid < queries) s.factor[tid] = softmax.update(s.weights[tid], keys);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 4; ++j) out[i][j] *= s.factor[at.row(i)];
    add_weighted<false>(out, at, s.weights, s.v, keys);
  }
  __syncthreads();
  if (tid < queries) s.factor[tid] = 1 / softmax.sum;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (at.row(i) < queries && at.column(j) < own)
        y[int64_t(b) * p.queries + q0 + at.row(i)][column + at.column(j)] =
            gpu::from_float<T>(out[i][j] * s.factor[at.row(i)]);
}

}  // namespace

void CudaBackend::attention(Tensor& y, const Tensor& q, const AttentionParams& p) {
  if (kernels_ != Kernels::Plain && attention_mma_fits(q, p, {y})) {
    const bool wgmma = kernels_ == Kernels::Wgmma && !p.bias.defined() && !p.mask.defined() && has_wgmma(q.device());
    return wgmma ? attention_wgmma(y, q, p) : attention_mma(y, q, p);
  }
  with_type(q.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const AttentionProblem<T> problem(q, p);
    const unsigned chunks = blocks_for(problem.width, kColumns);
    gpu::launch(attention_kernel<T>,
                dim3(blocks_for(problem.queries, kTile) * chunks, unsigned(p.heads), unsigned(q.dim(0))), dim3(kThreads),
                0, stream(q.device()), rows<T>(y), problem);
  });
}

}  // namespace df::IF_CUDA_NAMESPACE
