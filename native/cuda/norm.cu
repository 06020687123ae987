// Group, layer and RMS norm.
#include "cuda/norm.h"

#include <algorithm>

#include "cuda/cuda_backend.h"
#include "cuda/gpu/math.cuh"
#include "cuda/gpu/ptx.cuh"

namespace df::IF_CUDA_NAMESPACE {
namespace {

constexpr int kChannelThreads = 128;             // one channel each
constexpr int kMergeThreads = 64;                // of a group
constexpr int kThreads = 256, kPerThread = 8;    // of elementwise kernels
constexpr int kRowWarps = 4;                     // one row each
constexpr int kSmallestSlab = 32, kMostSlabs = 64;

// grid: (slabs, items, channels / threads). Mean and m2 of every channel in every slab.
template <class T>
__global__ void __launch_bounds__(kChannelThreads, 4)
slab_moments_kernel(float2* moments, Rows<const T> x, int pixels, int slab, int channels) {
  const int c = int(blockIdx.z) * kChannelThreads + int(threadIdx.x);
  if (c >= channels) return;
  const int first = int(blockIdx.x) * slab, count = min(slab, pixels - first);
  const int64_t row = int64_t(blockIdx.y) * pixels + first;
  float sum = 0, m2 = 0;
  for (int i = 0; i < count; ++i) sum += gpu::to_float(x[row + i][c]);
  const float mean = sum / float(count);
  for (int i = 0; i < count; ++i) {
    const float d = gpu::to_float(x[row + i][c]) - mean;
    m2 += d * d;
  }
  moments[(int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * channels + c] = make_float2(mean, m2);
}

// grid: (groups, items). The moments of a group from those of its channels in the slabs, and what follows from them.
template <class T>
__global__ void __launch_bounds__(kMergeThreads, 8)
group_coefficients_kernel(float* coefficients, float* inverses, const float2* moments, int pixels, int slab, int slabs,
                          int channels, const float* gamma, const float* beta, Rows<const T> scale,
                          Rows<const T> shift, float eps) {
  GPU_SHARED(Moments[kMergeThreads], partial);
  const int tid = int(threadIdx.x), size = channels / int(gridDim.x), first = int(blockIdx.x) * size;
  const int64_t n = blockIdx.y;
  Moments m{0, 0, 0};
  for (int i = tid; i < slabs * size; i += kMergeThreads) {
    const int s = i / size;
    const float2 one = moments[(n * slabs + s) * channels + first + i % size];
    m = merge(m, {float(min(slab, pixels - s * slab)), one.x, one.y});
  }
  partial[tid] = m;
  for (int half = kMergeThreads / 2; half; half /= 2) {
    __syncthreads();
    if (tid < half) partial[tid] = merge(partial[tid], partial[tid + half]);
  }
  __syncthreads();
  const float mean = partial[0].mean, inverse = 1 / sqrtf(partial[0].m2 / partial[0].count + eps);
  if (tid == 0) inverses[n * gridDim.x + blockIdx.x] = inverse;
  float* row = coefficients + n * 3 * channels;
  for (int c = first + tid; c < first + size; c += kMergeThreads) {
    float slope = inverse * gamma[c], offset = beta[c];
    if (scale.data) {
      const float factor = 1 + gpu::to_float(scale[n][c]);
      slope *= factor, offset = offset * factor + gpu::to_float(shift[n][c]);
    }
    row[c] = mean, row[channels + c] = slope, row[2 * channels + c] = offset;
  }
}

// grid: (values of an item / (threads * per thread), items).
template <class T>
__global__ void __launch_bounds__(kThreads, 4)
normalize_kernel(Rows<T> y, Rows<const T> x, NormConstants p) {
  const int64_t n = blockIdx.y;
  const float* f = p.coefficients + n * 3 * p.channels;
  const unsigned channels = unsigned(p.channels);
  const unsigned first = blockIdx.x * unsigned(kThreads * kPerThread) + threadIdx.x;
  for (int k = 0; k < kPerThread; ++k) {
    const unsigned i = first + unsigned(k * kThreads), pixel = i / channels, c = i % channels;
    if (pixel >= unsigned(p.pixels)) return;
    const int64_t row = n * p.pixels + pixel;
    const float v = (gpu::to_float(x[row][c]) - f[c]) * f[channels + c] + f[2 * channels + c];
    y[row][c] = gpu::from_float<T>(gpu::activate(v, p.kind));
  }
}

// One warp per row. Without beta: RMS norm.
template <class T>
__global__ void __launch_bounds__(kRowWarps * 32, 8)
row_norm_kernel(Rows<T> y, Rows<const T> x, int64_t rows, int channels, const float* gamma, const float* beta,
                float eps) {
  const int lane = int(threadIdx.x) % 32;
  const int64_t r = int64_t(blockIdx.x) * kRowWarps + threadIdx.x / 32;
  if (r >= rows) return;
  const T* in = x[r];
  float mean = 0, squares = 0;
  if (beta) {
    for (int c = lane; c < channels; c += 32) mean += gpu::to_float(in[c]);
    mean = gpu::warp_sum(mean) / float(channels);
  }
  for (int c = lane; c < channels; c += 32) {
    const float d = gpu::to_float(in[c]) - mean;
    squares += d * d;
  }
  const float inverse = 1 / sqrtf(gpu::warp_sum(squares) / float(channels) + eps);
  for (int c = lane; c < channels; c += 32)
    y[r][c] = gpu::from_float<T>((gpu::to_float(in[c]) - mean) * inverse * gamma[c] + (beta ? beta[c] : 0));
}

void row_norm(Tensor& y, const Tensor& x, const Tensor& gamma, const float* beta, float eps) {
  with_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    gpu::launch(row_norm_kernel<T>, dim3(blocks_for(x.rows(), kRowWarps)), dim3(kRowWarps * 32), 0, stream(x.device()),
                rows<T>(y), rows<const T>(x), x.rows(), int(x.dim(-1)), gamma.data<float>(), beta, eps);
  });
}

}  // namespace

PixelSlabs::PixelSlabs(const Tensor& x) : items(int(x.dim(0))), channels(int(x.dim(-1))) {
  const int64_t all = x.rows() / x.dim(0);
  // elementwise kernels count the values of an item in 32 bits
  DF_CHECK(all * channels < (int64_t(1) << 31) - kThreads * kPerThread, "group_norm: an item of %s is too large for a GPU",
           x.shape().str().c_str());
  pixels = int(all);
  slab = std::max(kSmallestSlab, (pixels + kMostSlabs - 1) / kMostSlabs);
  slabs = (pixels + slab - 1) / slab;
}

GroupStatistics group_statistics(const Tensor& x, const GroupNormParams& p, const PixelSlabs& cut, bool vectors) {
  const gpu::Stream s = stream(x.device());
  const Tensor moments = Tensor::empty({cut.items, cut.slabs, cut.channels, 2}, DType::F32, x.device());
  float2* const m = static_cast<float2*>(moments.raw());
  GroupStatistics out{Tensor::empty({cut.items, 3, cut.channels}, DType::F32, x.device()),
                      Tensor::empty({cut.items, p.groups}, DType::F32, x.device())};
  with_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    if (vectors) vector_slab_moments(m, x, cut);
    else
      gpu::launch(slab_moments_kernel<T>,
                  dim3(unsigned(cut.slabs), unsigned(cut.items), blocks_for(cut.channels, kChannelThreads)),
                  dim3(kChannelThreads), 0, s, m, rows<const T>(x), cut.pixels, cut.slab, cut.channels);
    gpu::launch(group_coefficients_kernel<T>, dim3(unsigned(p.groups), unsigned(cut.items)), dim3(kMergeThreads), 0, s,
                out.coefficients.data<float>(), out.inverse.data<float>(), m, cut.pixels, cut.slab, cut.slabs,
                cut.channels, p.gamma.data<float>(), p.beta.data<float>(), rows<const T>(p.scale),
                rows<const T>(p.shift), p.eps);
  });
  return out;
}

// Wu & He 2018, eq. 1 and 6, with the scale-shift norm of Dhariwal & Nichol 2021 folded into slope and offset.
void CudaBackend::group_norm(Tensor& y, const Tensor& x, const GroupNormParams& p) {
  const PixelSlabs cut(x);
  const bool vectors = kernels_ != Kernels::Plain && has_vectors(x);
  const GroupStatistics statistics = group_statistics(x, p, cut, vectors);
  const NormConstants constants(statistics, cut, p);
  if (vectors && has_vectors(y)) return vector_normalize(y, x, constants, cut.items);
  with_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    gpu::launch(normalize_kernel<T>,
                dim3(blocks_for(int64_t(cut.pixels) * cut.channels, kThreads * kPerThread), unsigned(cut.items)),
                dim3(kThreads), 0, stream(x.device()), rows<T>(y), rows<const T>(x), constants);
  });
}

void CudaBackend::layer_norm(Tensor& y, const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps) {
  row_norm(y, x, gamma, beta.data<float>(), eps);
}

void CudaBackend::rms_norm(Tensor& y, const Tensor& x, const Tensor& gamma, float eps) {
  row_norm(y, x, gamma, nullptr, eps);
}

}  // namespace df::IF_CUDA_NAMESPACE
