// Backward of the norms. With x̂ = (x - mean) * inverse, f = 1 + scale, g the gradient before the activation and
// d = g * gamma * f:  dx = inverse * (d - mean(d) - x̂ * mean(d * x̂)), means over the group,
// dshift = Σg, dscale = Σ g * (gamma * x̂ + beta), dgamma = Σ g * f * x̂, dbeta = Σ g * f.
#include "cuda/cuda_backend.h"
#include "cuda/gpu/math.cuh"
#include "cuda/gpu/ptx.cuh"
#include "cuda/gpu/reduce.cuh"
#include "cuda/norm.h"

namespace df::IF_CUDA_NAMESPACE {
namespace {

constexpr int kChannelThreads = 128;           // one channel each
constexpr int kMergeThreads = 64;              // of a group
constexpr int kThreads = 256, kPerThread = 8;  // of elementwise kernels
constexpr int kRowWarps = 4;                   // one row each
constexpr int kRowSlab = 32;                   // rows summed by one block

// grid: (slabs, items, channels / threads). Σg and Σ g * (x - mean) of every channel in every slab.
template <class T>
__global__ void __launch_bounds__(kChannelThreads, 4)
slab_gradients_kernel(float2* sums, Rows<const T> dy, Rows<const T> x, NormConstants p, int slab) {
  const int c = int(blockIdx.z) * kChannelThreads + int(threadIdx.x);
  if (c >= p.channels) return;
  const int64_t n = blockIdx.y;
  const float* f = p.coefficients + n * 3 * p.channels;
  const float mean = f[c], slope = f[p.channels + c], offset = f[2 * p.channels + c];
  const int first = int(blockIdx.x) * slab, count = min(slab, p.pixels - first);
  float sum = 0, product = 0;
  for (int64_t row = n * p.pixels + first, end = row + count; row < end; ++row) {
    const float distance = gpu::to_float(x[row][c]) - mean;
    const float g = gpu::to_float(dy[row][c]) * gpu::activation_derivative(distance * slope + offset, p.kind);
    sum += g, product += g * distance;
  }
  sums[(n * gridDim.x + blockIdx.x) * p.channels + c] = make_float2(sum, product);
}

// grid: (groups, items). Adds the slabs; channel_sums (items, channels): Σ g f and Σ g f x̂; group_means (items, groups):
// mean(d) * inverse and mean(d * x̂) * inverse².
template <class T>
__global__ void __launch_bounds__(kMergeThreads, 8)
group_gradients_kernel(float2* channel_sums, float2* group_means, Into<T> dscale, Into<T> dshift, const float2* sums,
                       int slabs, NormConstants p, const float* gamma, const float* beta, Rows<const T> scale) {
  GPU_SHARED(float2[kMergeThreads], partial);
  const int tid = int(threadIdx.x), size = p.channels / int(gridDim.x), first = int(blockIdx.x) * size;
  const int64_t n = blockIdx.y, group = n * gridDim.x + blockIdx.x;
  const float inverse = p.inverse[group];
  float total = 0, products = 0;
  for (int c = first + tid; c < first + size; c += kMergeThreads) {
    float sum = 0, product = 0;
    for (int s = 0; s < slabs; ++s) {
      const float2 one = sums[(n * slabs + s) * p.channels + c];
      sum += one.x, product += one.y;
    }
    product *= inverse;
    if (dscale.wanted()) dscale.store(n, c, gamma[c] * product + beta[c] * sum);
    if (dshift.wanted()) dshift.store(n, c, sum);
    const float factor = scale.data ? 1 + gpu::to_float(scale[n][c]) : 1;
    sum *= factor, product *= factor;
    channel_sums[n * p.channels + c] = make_float2(sum, product);
    total += gamma[c] * sum, products += gamma[c] * product;
  }
  partial[tid] = make_float2(total, products);
  for (int half = kMergeThreads / 2; half; half /= 2) {
    __syncthreads();
    if (tid < half) partial[tid].x += partial[tid + half].x, partial[tid].y += partial[tid + half].y;
  }
  if (tid) return;
  const float count = float(p.pixels) * float(size);
  group_means[group] = make_float2(inverse * partial[0].x / count, inverse * inverse * partial[0].y / count);
}

// One thread per channel; dgamma or dbeta may be null.
__global__ void __launch_bounds__(kChannelThreads, 4)
group_parameters_kernel(float* dgamma, float* dbeta, const float2* channel_sums, int items, int channels) {
  const int c = int(blockIdx.x) * kChannelThreads + int(threadIdx.x);
  if (c >= channels) return;
  const auto at = [&](int n) { return channel_sums[int64_t(n) * channels + c]; };
  if (dgamma) dgamma[c] += gpu::item_sum(items, [&](int n) { return at(n).y; });
  if (dbeta) dbeta[c] += gpu::item_sum(items, [&](int n) { return at(n).x; });
}

// grid: (values of an item / (threads * per thread), items).
template <class T>
__global__ void __launch_bounds__(kThreads, 4)
normalize_backward_kernel(Into<T> dx, Rows<const T> dy, Rows<const T> x, const float2* group_means, NormConstants p) {
  const int64_t n = blockIdx.y;
  const float* f = p.coefficients + n * 3 * p.channels;
  const unsigned channels = unsigned(p.channels), size = channels / unsigned(p.groups);
  const unsigned first = blockIdx.x * unsigned(kThreads * kPerThread) + threadIdx.x;
  for (int k = 0; k < kPerThread; ++k) {
    const unsigned i = first + unsigned(k * kThreads), pixel = i / channels, c = i % channels;
    if (pixel >= unsigned(p.pixels)) return;
    const int64_t row = n * p.pixels + pixel;
    const float slope = f[channels + c], distance = gpu::to_float(x[row][c]) - f[c];
    const float2 mean = group_means[n * p.groups + c / size];
    const float v = distance * slope + f[2 * channels + c];
    const float g = gpu::to_float(dy[row][c]) * gpu::activation_derivative(v, p.kind);
    dx.store(row, c, slope * g - mean.y * distance - mean.x);
  }
}

// One warp per row. statistics (rows): mean and inverse. Not centred: RMS norm. dx may be unwanted.
template <class T>
__global__ void __launch_bounds__(kRowWarps * 32, 8)
row_norm_backward_kernel(Into<T> dx, float2* statistics, Rows<const T> dy, Rows<const T> x, int64_t rows, int channels,
                         const float* gamma, float eps, bool centred) {
  const int lane = int(threadIdx.x) % 32;
  const int64_t r = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  if (r >= rows) return;
  const T *in = x[r], *gradient = dy[r];
  float mean = 0, squares = 0;
  if (centred) {
    for (int c = lane; c < channels; c += 32) mean += gpu::to_float(in[c]);
    mean = gpu::warp_sum(mean) / float(channels);
  }
  for (int c = lane; c < channels; c += 32) {
    const float distance = gpu::to_float(in[c]) - mean;
    squares += distance * distance;
  }
  const float inverse = 1 / sqrtf(gpu::warp_sum(squares) / float(channels) + eps);
  if (lane == 0) statistics[r] = make_float2(mean, inverse);
  if (!dx.wanted()) return;
  float sum = 0, product = 0;
  for (int c = lane; c < channels; c += 32) {
    const float d = gpu::to_float(gradient[c]) * gamma[c];
    sum += d, product += d * ((gpu::to_float(in[c]) - mean) * inverse);
  }
  sum = centred ? gpu::warp_sum(sum) / float(channels) : 0;
  product = gpu::warp_sum(product) / float(channels);
  for (int c = lane; c < channels; c += 32) {
    const float d = gpu::to_float(gradient[c]) * gamma[c], xhat = (gpu::to_float(in[c]) - mean) * inverse;
    dx.store(r, c, inverse * (d - sum - xhat * product));
  }
}

// grid: (slabs, pairs of items, channels / threads). Σ dy * x̂ and Σ dy of the rows of a slab, for one channel per
// thread; a pair has pair_rows rows, the last one maybe half of them.
template <class T>
__global__ void __launch_bounds__(kChannelThreads, 4)
row_parameter_slabs_kernel(float2* sums, const float2* statistics, Rows<const T> dy, Rows<const T> x, int64_t rows,
                           int64_t pair_rows, int channels) {
  const int c = int(blockIdx.z) * kChannelThreads + int(threadIdx.x);
  if (c >= channels) return;
  const int64_t pair = blockIdx.y, first = pair * pair_rows + int64_t(blockIdx.x) * kRowSlab;
  const int64_t end = min(min(first + kRowSlab, (pair + 1) * pair_rows), rows);
  float gamma = 0, beta = 0;
  for (int64_t r = first; r < end; ++r) {
    const float d = gpu::to_float(dy[r][c]);
    gamma += d * ((gpu::to_float(x[r][c]) - statistics[r].x) * statistics[r].y), beta += d;
  }
  sums[(pair * gridDim.x + blockIdx.x) * channels + c] = make_float2(gamma, beta);
}

// One thread per channel: slabs in order, pairs by their tree.
__global__ void __launch_bounds__(kChannelThreads, 4)
row_parameters_kernel(float* dgamma, float* dbeta, const float2* sums, int pairs, int slabs, int channels) {
  const int c = int(blockIdx.x) * kChannelThreads + int(threadIdx.x);
  if (c >= channels) return;
  const auto add = [&](float* to, auto part) {
    if (!to) return;
    to[c] += gpu::tree_sum(pairs, [&](int pair) {
      float sum = 0;
      for (int s = 0; s < slabs; ++s) sum += part(sums[(int64_t(pair) * slabs + s) * channels + c]);
      return sum;
    });
  };
  add(dgamma, [](float2 v) { return v.x; });
  add(dbeta, [](float2 v) { return v.y; });
}

float* floats(const Tensor& t) { return t.defined() ? t.data<float>() : nullptr; }

void row_norm_backward(const Gradient& dx, const Tensor& dgamma, const Tensor& dbeta, const Tensor& dy, const Tensor& x,
                       const Tensor& gamma, float eps, bool centred) {
  const gpu::Stream s = stream(x.device());
  const int channels = int(x.dim(-1));
  const int64_t items = x.shape().rank() > 1 ? x.dim(0) : 1, pairs = (items + 1) / 2, pair_rows = 2 * (x.rows() / items);
  const unsigned slabs = blocks_for(pair_rows, kRowSlab), channel_blocks = blocks_for(channels, kChannelThreads);
  const Tensor statistics = Tensor::empty({x.rows(), 2}, DType::F32, x.device());
  const bool parameters = dgamma.defined() || dbeta.defined();
  const Tensor sums = parameters ? Tensor::empty({pairs, slabs, channels, 2}, DType::F32, x.device()) : Tensor();
  float2 *const st = static_cast<float2*>(statistics.raw()), *const sm = static_cast<float2*>(sums.raw());
  with_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    gpu::launch(row_norm_backward_kernel<T>, dim3(blocks_for(x.rows(), kRowWarps)), dim3(kRowWarps * 32), 0, s,
                Into<T>(dx), st, rows<const T>(dy), rows<const T>(x), x.rows(), channels, gamma.data<float>(), eps,
                centred);
    if (parameters)
      gpu::launch(row_parameter_slabs_kernel<T>, dim3(slabs, unsigned(pairs), channel_blocks), dim3(kChannelThreads), 0,
                  s, sm, st, rows<const T>(dy), rows<const T>(x), x.rows(), pair_rows, channels);
  });
  if (parameters)
    gpu::launch(row_parameters_kernel, dim3(channel_blocks), dim3(kChannelThreads), 0, s, floats(dgamma), floats(dbeta),
                sm, int(pairs), int(slabs), channels);
}

}  // namespace

void CudaBackend::group_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, Gradient dscale, Gradient dshift,
                                      const Tensor& dy, const Tensor& x, const GroupNormParams& p) {
  const gpu::Stream s = stream(x.device());
  const PixelSlabs cut(x);
  const bool vectors = kernels_ != Kernels::Plain && has_vectors(x) && has_vectors(dy);
  const GroupStatistics statistics = group_statistics(x, p, cut, vectors);
  const NormConstants constants(statistics, cut, p);
  const Tensor slab_sums = Tensor::empty({cut.items, cut.slabs, cut.channels, 2}, DType::F32, x.device());
  const Tensor channel_sums = Tensor::empty({cut.items, cut.channels, 2}, DType::F32, x.device());
  const Tensor group_means = Tensor::empty({cut.items, p.groups, 2}, DType::F32, x.device());
  const auto pairs = [](const Tensor& t) { return static_cast<float2*>(t.raw()); };
  const unsigned items = unsigned(cut.items), channel_blocks = blocks_for(cut.channels, kChannelThreads);
  with_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if (vectors) vector_slab_gradients(pairs(slab_sums), dy, x, constants, cut);
    else
      gpu::launch(slab_gradients_kernel<T>, dim3(unsigned(cut.slabs), items, channel_blocks), dim3(kChannelThreads), 0, s,
                  pairs(slab_sums), rows<const T>(dy), rows<const T>(x), constants, cut.slab);
    gpu::launch(group_gradients_kernel<T>, dim3(unsigned(p.groups), items), dim3(kMergeThreads), 0, s,
                pairs(channel_sums), pairs(group_means), Into<T>(dscale), Into<T>(dshift), pairs(slab_sums), cut.slabs,
                constants, p.gamma.data<float>(), p.beta.data<float>(), rows<const T>(p.scale));
    if (!dx.wanted()) return;
    if (vectors && has_vectors(dx.into))
      vector_normalize_backward(dx, dy, x, pairs(group_means), constants, cut.items);
    else
      gpu::launch(normalize_backward_kernel<T>,
                  dim3(blocks_for(int64_t(cut.pixels) * cut.channels, kThreads * kPerThread), items), dim3(kThreads), 0,
                  s, Into<T>(dx), rows<const T>(dy), rows<const T>(x), pairs(group_means), constants);
  });
  if (dgamma.defined() || dbeta.defined())
    gpu::launch(group_parameters_kernel, dim3(channel_blocks), dim3(kChannelThreads), 0, s, floats(dgamma),
                floats(dbeta), pairs(channel_sums), cut.items, cut.channels);
}

void CudaBackend::layer_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, const Tensor& dy, const Tensor& x,
                                      const Tensor& gamma, float eps) {
  row_norm_backward(dx, dgamma, dbeta, dy, x, gamma, eps, true);
}

void CudaBackend::rms_norm_backward(Gradient dx, Tensor dgamma, const Tensor& dy, const Tensor& x, const Tensor& gamma,
                                    float eps) {
  row_norm_backward(dx, dgamma, Tensor(), dy, x, gamma, eps, false);
}

}  // namespace df::IF_CUDA_NAMESPACE
