// Attention with wgmma and TMA (sm_90a): 128 queries of one head per block. Warpgroup 0 loads (one thread of it), 1 and 2
// multiply 64 queries each; the products with the values of one tile run while the weights of the next are computed
// (Shah et al. 2024, "FlashAttention-3", section 3.2). A tile is 128 keys of one segment.
#include "cuda/attention_wgmma.h"
#include "cuda/gpu/hopper.cuh"

namespace df::IF_CUDA_NAMESPACE {
namespace {

constexpr int kWidth = 64, kQueries = 128, kKeys = 128, kStages = 2, kThreads = 384, kConsumerWarps = 8;
constexpr float kLog2E = 1.44269504088896341f;

struct Problem {
  int queries, run[2], tiles[2];
  float factor;  // scale * log2(e)
};

template <class T> struct Shared {
  alignas(1024) T q[kQueries * kWidth];
  alignas(1024) T k[kStages][kKeys * kWidth];
  alignas(1024) T v[kStages][kKeys * kWidth];
  uint64_t queries, keys[kStages], values[kStages], keys_free[kStages], values_free[kStages];
};

// Of the two rows of a thread: the largest score and this lane's share of the sum of weights relative to it.
struct Softmax {
  float largest[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0}, shrink[2];

  // Scores of `count` keys become weights; shrink: what earlier weights are multiplied by. A segment has at least one key
  // and none is ignored, so the largest score is -infinity only if all are.
  GPU_FN void update(float (&score)[kKeys / 2], int count, float factor, int lane) {
    if (count < kKeys) {
#pragma unroll
      for (int i = 0; i < kKeys / 2; ++i)
        if (i / 4 * 8 + lane % 4 * 2 + i % 2 >= count) score[i] = -INFINITY;
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float m = largest[half];
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j) m = fmaxf(m, fmaxf(score[4 * j + 2 * half], score[4 * j + 2 * half + 1]));
      m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
      m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
      const float base = m == -INFINITY ? 0 : m * factor;
      shrink[half] = exp2f(largest[half] * factor - base);
      largest[half] = m, sum[half] *= shrink[half];
#pragma unroll
      for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
        for (int e = 4 * j + 2 * half; e < 4 * j + 2 * half + 2; ++e)
          sum[half] += score[e] = exp2f(score[e] * factor - base);
    }
  }
};

// grid: (query tiles, heads, batch). Maps: (width, heads, tokens, batch) in boxes of one head.
template <class T>
__global__ void __launch_bounds__(kThreads, 1)
attention_kernel(const __grid_constant__ gpu::TensorMap q_map, const __grid_constant__ gpu::TensorMap k0_map,
                 const __grid_constant__ gpu::TensorMap v0_map, const __grid_constant__ gpu::TensorMap k1_map,
                 const __grid_constant__ gpu::TensorMap v1_map, Rows<T> y, Problem p) {
  auto& s = gpu::dynamic_shared<Shared<T>>();
  const int tid = int(threadIdx.x), group = tid / 128, tiles = p.tiles[0] + p.tiles[1];
  const int q0 = int(blockIdx.x) * kQueries, h = int(blockIdx.y), b = int(blockIdx.z);
  if (tid == 0) {
    gpu::mbarrier_init(&s.queries, 1);
    for (int i = 0; i < kStages; ++i) {
      gpu::mbarrier_init(&s.keys[i], 1), gpu::mbarrier_init(&s.values[i], 1);
      gpu::mbarrier_init(&s.keys_free[i], kConsumerWarps), gpu::mbarrier_init(&s.values_free[i], kConsumerWarps);
    }
    gpu::fence_mbarrier_init();
  }
  __syncthreads();
  if (group == 0) {
    gpu::give_registers<40>();
    if (tid != 0) return;
    gpu::mbarrier_arrive_expect(&s.queries, sizeof(s.q));
    gpu::tma_load_4d(s.q, &q_map, &s.queries, 0, h, q0, b);
    for (int tile = 0; tile < tiles; ++tile) {
      const int stage = tile % kStages, parity = tile / kStages % 2;
      const bool first = tile < p.tiles[0];
      const int key = (first ? tile : tile - p.tiles[0]) * kKeys;
      gpu::mbarrier_wait(&s.keys_free[stage], parity ^ 1);
      gpu::mbarrier_arrive_expect(&s.keys[stage], sizeof(s.k[0]));
      gpu::tma_load_4d(s.k[stage], first ? &k0_map : &k1_map, &s.keys[stage], 0, h, key, b);
      gpu::mbarrier_wait(&s.values_free[stage], parity ^ 1);
      gpu::mbarrier_arrive_expect(&s.values[stage], sizeof(s.v[0]));
      gpu::tma_load_4d(s.v[stage], first ? &v0_map : &v1_map, &s.values[stage], 0, h, key, b);
    }
    return;
  }
  gpu::take_registers<232>();
  const int row0 = (group - 1) * 64, warp = tid / 32 % 4, lane = tid % 32;
  float score[kKeys / 2], out[kWidth / 2];
  uint32_t weights[kKeys / 16][4];
  Softmax softmax;
  const auto multiply_keys = [&](int tile) {
    const int stage = tile % kStages;
    gpu::mbarrier_wait(&s.keys[stage], tile / kStages % 2);
    gpu::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kWidth / 16; ++k)
      gpu::wgmma<T, kKeys, false, false>(score, gpu::wgmma_descriptor(&s.q[row0 * kWidth + 16 * k], 16, 1024),
                                         gpu::wgmma_descriptor(&s.k[stage][16 * k], 16, 1024), k > 0);
    gpu::wgmma_commit();
  };
  // The weights' registers, two column tiles at a time, are a left operand as they lie.
  const auto weigh = [&](int tile) {
    const int key = (tile < p.tiles[0] ? tile : tile - p.tiles[0]) * kKeys;
    softmax.update(score, (tile < p.tiles[0] ? p.run[0] : p.run[1]) - key, p.factor, lane);
  };
  const auto pack = [&] {
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) weights[k][i] = gpu::pack2<T>(score[8 * k + 2 * i], score[8 * k + 2 * i + 1]);
  };

  gpu::mbarrier_wait(&s.queries, 0);
  multiply_keys(0);
  gpu::wgmma_wait<0>();
  if (lane == 0) gpu::mbarrier_arrive(&s.keys_free[0]);
  weigh(0);
  pack();
  const auto multiply_values = [&](int tile) {
    const int stage = tile % kStages;
    gpu::mbarrier_wait(&s.values[stage], tile / kStages % 2);
    gpu::wgmma_fence();
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k)
      gpu::wgmma<T, kWidth, true>(out, weights[k], gpu::wgmma_descriptor(&s.v[stage][16 * k * kWidth], 1024, 1024),
                                  tile > 0 || k > 0);
    gpu::wgmma_commit();
  };
  for (int tile = 0; tile + 1 < tiles; ++tile) {
    multiply_keys(tile + 1);
    multiply_values(tile);
    gpu::wgmma_wait<1>();  // the scores of the next tile
    if (lane == 0) gpu::mbarrier_arrive(&s.keys_free[(tile + 1) % kStages]);
    weigh(tile + 1);
    gpu::wgmma_wait<0>();
    if (lane == 0) gpu::mbarrier_arrive(&s.values_free[tile % kStages]);
#pragma unroll
    for (int i = 0; i < kWidth / 2; ++i) out[i] *= softmax.shrink[i / 2 % 2];
    pack();
  }
  multiply_values(tiles - 1);
  gpu::wgmma_wait<0>();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float sum = softmax.sum[half];
    sum += __shfl_xor_sync(~0u, sum, 1);
    sum += __shfl_xor_sync(~0u, sum, 2);
    const float inverse = 1 / sum;
    const int i = q0 + row0 + 16 * warp + 8 * half + lane / 4;
    if (i >= p.queries) continue;
    T* const to = y[int64_t(b) * p.queries + i] + int64_t(h) * kWidth + lane % 4 * 2;
#pragma unroll
    for (int j = 0; j < kWidth / 8; ++j)
      *reinterpret_cast<uint32_t*>(to + 8 * j) =
          gpu::pack2<T>(out[4 * j + 2 * half] * inverse, out[4 * j + 2 * half + 1] * inverse);
  }
}

// (width, heads, tokens, batch) of t (batch, tokens, heads * width), in boxes of `rows` tokens of one head.
gpu::TensorMap head_map(const Tensor& t, int heads, int rows) {
  const uint64_t stride = uint64_t(t.rows() > 1 ? t.row_stride() : t.dim(2)) * 2;
  const uint64_t extents[] = {kWidth, uint64_t(heads), uint64_t(t.dim(1)), uint64_t(t.dim(0))};
  const uint64_t strides[] = {2, kWidth * 2, stride, stride * uint64_t(t.dim(1))};
  const uint32_t box[] = {kWidth, 1, uint32_t(rows), 1};
  return gpu::make_tensor_map(t.raw(), 4, extents, strides, box, t.dtype() == DType::BF16);
}

template <class T> void run(Tensor& y, const Tensor& q, const AttentionParams& p) {
  Problem problem{int(q.dim(1)), {0, 0}, {0, 0}, p.scale * kLog2E};
  for (size_t i = 0; i < p.segments.size(); ++i) {
    problem.run[i] = int(p.segments[i].key.dim(1));
    problem.tiles[i] = (problem.run[i] + kKeys - 1) / kKeys;
  }
  const KeyValue &first = p.segments.front(), &last = p.segments.back();
  gpu::launch(attention_kernel<T>, dim3(blocks_for(problem.queries, kQueries), unsigned(p.heads), unsigned(q.dim(0))),
              dim3(kThreads), sizeof(Shared<T>), stream(q.device()), head_map(q, p.heads, kQueries),
              head_map(first.key, p.heads, kKeys), head_map(first.value, p.heads, kKeys),
              head_map(last.key, p.heads, kKeys), head_map(last.value, p.heads, kKeys), rows<T>(y), problem);
}

}  // namespace

void attention_wgmma(Tensor& y, const Tensor& q, const AttentionParams& p) {
  if (q.dtype() == DType::BF16) run<gpu::bf16>(y, q, p);
  else run<gpu::f16>(y, q, p);
}

}  // namespace df::IF_CUDA_NAMESPACE
