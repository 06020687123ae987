// Embeddings and tokens.
#include <algorithm>
#include <cmath>

#include "cuda/cuda_backend.h"
#include "cuda/gpu/ptx.cuh"
#include "cuda/gpu/reduce.cuh"
#include "cuda/map.h"

namespace df::IF_CUDA_NAMESPACE {
namespace {

// int32 ids in rows of any stride, counted through.
struct Ids {
  const int32_t* data;
  int64_t columns, stride;
  explicit Ids(const Tensor& ids)
      : data(ids.data<int32_t>()), columns(ids.shape().rank() ? ids.dim(-1) : 1), stride(ids.row_stride()) {}
  GPU_FN int operator[](int64_t i) const { return data[i / columns * stride + i % columns]; }
};

struct Lookup {
  Values y, table;
  Ids ids;
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    float v[V];
    table.load(ids[row], column, v);
    y.store(row, column, v);
  }
};

// Row r of the first token that has an id sums over all tokens that have it; the others do nothing.
struct LookupBackward {
  float* dtable;
  Values dy;
  Ids ids;
  int items, tokens;
  int64_t channels;
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    const int id = ids[row];
    for (int64_t earlier = 0; earlier < row; ++earlier)
      if (ids[earlier] == id) return;
    // an item without this id adds zero, which changes nothing
    const float sum = gpu::item_sum(items, [&](int item) {
      float s = 0;
      for (int64_t i = int64_t(item) * tokens; i < int64_t(item + 1) * tokens; ++i)
        if (ids[i] == id) s += dy.at(i, column);
      return s;
    });
    dtable[id * channels + column] += sum;
  }
};

struct Sinusoid {
  Rows<float> y;
  Rows<const float> t;
  int half;
  bool flip;
  float slope, divisor;  // of the exponent
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    if (column >= 2 * half) {
      y[row][column] = 0;
      return;
    }
    const bool second = column >= half;
    const float angle = t.data[row] * expf(slope * float(second ? column - half : column) / divisor);
    y[row][column] = second == flip ? sinf(angle) : cosf(angle);
  }
};

struct PrependMean {
  Values y, x;
  const float* position;
  int tokens;
  template <int V> GPU_FN void run(int64_t item, int64_t column) const {
    float sum[V] = {};
    for (int i = 0; i < tokens; ++i) {
      float v[V];
      x.load(item * tokens + i, column, v);
      y.store(item * (tokens + 1) + i + 1, column, v);
#pragma unroll
      for (int j = 0; j < V; ++j) sum[j] += v[j];
    }
#pragma unroll
    for (int j = 0; j < V; ++j) sum[j] = sum[j] / float(tokens) + position[column + j];
    y.store(item * (tokens + 1), column, sum);
  }
};

struct PrependMeanBackward {
  Values dx, dy;
  int tokens;
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    const int64_t mean = row / tokens * (tokens + 1);
    float m[V], v[V];
    dy.load(mean, column, m);
    dy.load(mean + 1 + row % tokens, column, v);
#pragma unroll
    for (int i = 0; i < V; ++i) v[i] += m[i] / float(tokens);
    dx.store(row, column, v);
  }
};

struct PositionBackward {
  float* dposition;
  Values dy;
  int items, tokens;
  template <int V> GPU_FN void run(int64_t, int64_t column) const {
    dposition[column] += gpu::item_sum(items, [&](int item) { return dy.at(int64_t(item) * (tokens + 1), column); });
  }
};

// T5's buckets of distances (Raffel et al. 2020, section 2.1) by where they begin. The logarithm of transformers is taken
// in float32: what lies on a boundary must fall on its side, so that it is taken on the host.
struct Buckets {
  static constexpr int kMost = 256;  // of one direction
  int half;
  int first[kMost + 1];  // the smallest distance of a bucket; one past the largest distance at the end
  Buckets(int64_t buckets, int max_distance, int64_t tokens) : half(int(buckets / 2)) {
    DF_CHECK(half >= 2 && half <= kMost, "relative_position_bias: cuda has kernels for 4 to %d buckets, got %lld",
             2 * kMost, static_cast<long long>(buckets));
    const int exact = half / 2;
    int bucket = 0;
    for (int64_t distance = 0; distance < tokens; ++distance) {
      int64_t b = distance;
      if (distance >= exact) {
        const float octaves = std::log(float(distance) / float(exact)) /
                              float(std::log(double(max_distance) / double(exact)));
        b = std::min<int64_t>(half - 1, exact + int64_t(octaves * float(half - exact)));
      }
      for (; bucket <= b; ++bucket) first[bucket] = int(distance);
    }
    for (; bucket <= half; ++bucket) first[bucket] = int(tokens);
    first[half] = int(tokens);
  }
  GPU_FN int of(int key_minus_query) const {
    const int distance = key_minus_query < 0 ? -key_minus_query : key_minus_query;
    int low = 0, high = half;  // first[low] <= distance < first[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (first[middle] <= distance) low = middle;
      else high = middle;
    }
    return low + (key_minus_query > 0 ? half : 0);
  }
};

struct PositionBias {
  Rows<float> y;
  Rows<const float> table;
  int tokens;
  Buckets buckets;
  template <int V> GPU_FN void run(int64_t row, int64_t key) const {
    const int head = int(row) / tokens, query = int(row) % tokens;
    y[row][key] = table[buckets.of(int(key) - query)][head];
  }
};

constexpr int kBiasThreads = 128;

// One block per bucket and head: a bucket's distances are a band of diagonals.
__global__ void __launch_bounds__(kBiasThreads, 4)
position_bias_backward_kernel(float* dtable, Rows<const float> dy, int tokens, int heads, Buckets buckets) {
  GPU_SHARED(float[kBiasThreads / 32], partial);
  const int bucket = int(blockIdx.x), head = int(blockIdx.y), side = bucket / buckets.half, b = bucket % buckets.half;
  const int begin = side ? max(buckets.first[b], 1) : buckets.first[b], end = buckets.first[b + 1];
  float sum = 0;
  for (int distance = begin; distance < end; ++distance)
    for (int i = int(threadIdx.x); i < tokens - distance; i += kBiasThreads) {
      const int query = side ? i : i + distance, key = side ? i + distance : i;
      sum += dy[int64_t(head) * tokens + query][key];
    }
  sum = gpu::warp_sum(sum);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) dtable[bucket * heads + head] += (partial[0] + partial[1]) + (partial[2] + partial[3]);
}

}  // namespace

void CudaBackend::embedding(Tensor& y, const Tensor& ids, const Tensor& table) {
  map(y.device(), plane_of_rows(ids.numel(), table.dim(1), {&y, &table}), Lookup{y, table, Ids(ids)});
}

void CudaBackend::embedding_backward(Tensor& dtable, const Tensor& dy, const Tensor& ids) {
  const int64_t items = ids.shape().rank() ? ids.dim(0) : 1, tokens = items ? ids.numel() / items : 0;
  map_single(dy.device(), ids.numel(), dtable.dim(1),
             LookupBackward{dtable.data<float>(), dy, Ids(ids), int(items), int(tokens), dtable.dim(1)});
}

void CudaBackend::timestep_embedding(Tensor& y, const Tensor& t, bool flip_sin_to_cos, float freq_shift) {
  const int64_t half = y.dim(1) / 2;
  map_single(y.device(), y.dim(0), y.dim(1),
             Sinusoid{rows<float>(y), rows<const float>(t), int(half), flip_sin_to_cos, float(-std::log(10000.0)),
                      float(double(half) - freq_shift)});
}

void CudaBackend::prepend_mean_token(Tensor& y, const Tensor& x, const Tensor& position) {
  map(x.device(), plane_of_rows(x.dim(0), x.dim(2), {&y, &x}),
      PrependMean{y, x, position.data<float>(), int(x.dim(1))});
}

void CudaBackend::prepend_mean_token_backward(Gradient dx, Tensor dposition, const Tensor& dy) {
  const int items = int(dy.dim(0)), tokens = int(dy.dim(1)) - 1;
  if (dx.wanted())
    map(dy.device(), plane_of_rows(int64_t(items) * tokens, dy.dim(2), {&dx.into, &dy}),
        PrependMeanBackward{dx, dy, tokens});
  if (dposition.defined() && items)
    map_single(dy.device(), 1, dy.dim(2), PositionBackward{dposition.data<float>(), dy, items, tokens});
}

void CudaBackend::relative_position_bias(Tensor& y, const Tensor& table, int max_distance) {
  map_single(y.device(), y.dim(0) * y.dim(1), y.dim(2),
             PositionBias{rows<float>(y), rows<const float>(table), int(y.dim(1)),
                          Buckets(table.dim(0), max_distance, y.dim(1))});
}

void CudaBackend::relative_position_bias_backward(Tensor& dtable, const Tensor& dy, int max_distance) {
  const int64_t buckets = dtable.dim(0), heads = dtable.dim(1), tokens = dy.dim(1);
  gpu::launch(position_bias_backward_kernel, dim3(unsigned(buckets / 2 * 2), unsigned(heads)), dim3(kBiasThreads), 0,
              stream(dy.device()), dtable.data<float>(), rows<const float>(dy), int(tokens), int(heads),
              Buckets(buckets, max_distance, tokens));
}

}  // namespace df::IF_CUDA_NAMESPACE
