// Group norm with 16-byte accesses, for bf16 and f16: a thread owns eight neighbouring channels, a warp 256 of one pixel,
// the warps of a block take pixels in turn.
#include "cuda/gpu/math.cuh"
#include "cuda/norm.h"

namespace df::IF_CUDA_NAMESPACE {
namespace {

constexpr int kWarps = 8, kThreads = kWarps * 32, kBlockChannels = 256;
constexpr int kBlockPixels = 64;  // of kernels that write pixels

template <class T> GPU_FN gpu::Vec8<T> load(const T* from) { return *reinterpret_cast<const gpu::Vec8<T>*>(from); }

struct Place {
  int warp, channel;  // the first of eight; may lie past the last one
  GPU_FN Place() : warp(int(threadIdx.x) / 32), channel(int(blockIdx.z) * kBlockChannels + int(threadIdx.x) % 32 * 8) {}
};

// The coefficients of a thread's channels.
struct Channels {
  float mean[8], slope[8], offset[8];
  GPU_FN Channels(const NormConstants& p, int64_t n, int channel) {
    const float* f = p.coefficients + n * 3 * p.channels + channel;
#pragma unroll
    for (int i = 0; i < 8; ++i) mean[i] = f[i], slope[i] = f[p.channels + i], offset[i] = f[2 * p.channels + i];
  }
};

// grid: (slabs, items, channels / 256). One read: distances from the slab's first pixel, so that a large mean does not
// cancel.
template <class T>
__global__ void __launch_bounds__(kThreads, 4)
moments_kernel(float2* moments, Rows<const T> x, int pixels, int slab, int channels) {
  GPU_SHARED(float2[kWarps][kBlockChannels], partial);
  const Place at;
  const int first = int(blockIdx.x) * slab, count = min(slab, pixels - first), local = int(threadIdx.x) % 32 * 8;
  const int64_t row = int64_t(blockIdx.y) * pixels + first;
  if (at.channel < channels) {
    float base[8], sum[8] = {}, square[8] = {};
    const gpu::Vec8<T> b = load(x[row] + at.channel);
#pragma unroll
    for (int i = 0; i < 8; ++i) base[i] = gpu::to_float(b.v[i]);
#pragma unroll 2
    for (int q = at.warp; q < count; q += kWarps) {
      const gpu::Vec8<T> v = load(x[row + q] + at.channel);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float d = gpu::to_float(v.v[i]) - base[i];
        sum[i] += d, square[i] += d * d;
      }
    }
    const float n = float((count - at.warp + kWarps - 1) / kWarps);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float mean = n > 0 ? sum[i] / n : 0;
      partial[at.warp][local + i] = make_float2(base[i] + mean, square[i] - sum[i] * mean);
    }
  }
  __syncthreads();
  const int tid = int(threadIdx.x), c = int(blockIdx.z) * kBlockChannels + tid;
  if (c >= channels) return;
  Moments m{0, 0, 0};
  for (int w = 0; w < kWarps && w < count; ++w)
    m = merge(m, {float((count - w + kWarps - 1) / kWarps), partial[w][tid].x, partial[w][tid].y});
  moments[(int64_t(blockIdx.y) * gridDim.x + blockIdx.x) * channels + c] = make_float2(m.mean, m.m2);
}

// grid: (pixels / 64, items, channels / 256).
template <class T>
__global__ void __launch_bounds__(kThreads, 3) normalize_kernel(Rows<T> y, Rows<const T> x, NormConstants p) {
  const Place at;
  if (at.channel >= p.channels) return;
  const int first = int(blockIdx.x) * kBlockPixels, end = min(first + kBlockPixels, p.pixels);
  const int64_t n = blockIdx.y;
  const Channels f(p, n, at.channel);
#pragma unroll 2
  for (int q = first + at.warp; q < end; q += kWarps) {
    const int64_t row = n * p.pixels + q;
    gpu::Vec8<T> v = load(x[row] + at.channel);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      v.v[i] = gpu::from_float<T>(gpu::activate((gpu::to_float(v.v[i]) - f.mean[i]) * f.slope[i] + f.offset[i], p.kind));
    *reinterpret_cast<gpu::Vec8<T>*>(y[row] + at.channel) = v;
  }
}

// grid: (slabs, items, channels / 256).
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
gradients_kernel(float2* sums, Rows<const T> dy, Rows<const T> x, NormConstants p, int slab) {
  GPU_SHARED(float2[kWarps][kBlockChannels], partial);
  const Place at;
  const int first = int(blockIdx.x) * slab, count = min(slab, p.pixels - first), local = int(threadIdx.x) % 32 * 8;
  const int64_t n = blockIdx.y;
  if (at.channel < p.channels) {
    const Channels f(p, n, at.channel);
    float sum[8] = {}, product[8] = {};
    for (int q = at.warp; q < count; q += kWarps) {
      const int64_t row = n * p.pixels + first + q;
      const gpu::Vec8<T> v = load(x[row] + at.channel), d = load(dy[row] + at.channel);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float distance = gpu::to_float(v.v[i]) - f.mean[i];
        const float g = gpu::to_float(d.v[i]) * gpu::activation_derivative(distance * f.slope[i] + f.offset[i], p.kind);
        sum[i] += g, product[i] += g * distance;
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) partial[at.warp][local + i] = make_float2(sum[i], product[i]);
  }
  __syncthreads();
  const int tid = int(threadIdx.x), c = int(blockIdx.z) * kBlockChannels + tid;
  if (c >= p.channels) return;
  float2 total = partial[0][tid];
  for (int w = 1; w < kWarps; ++w) total.x += partial[w][tid].x, total.y += partial[w][tid].y;
  sums[(n * gridDim.x + blockIdx.x) * p.channels + c] = total;
}

// grid: (pixels / 64, items, channels / 256).
template <class T>
__global__ void __launch_bounds__(kThreads, 2)
backward_kernel(Into<T> dx, Rows<const T> dy, Rows<const T> x, const float2* group_means, NormConstants p) {
  const Place at;
  if (at.channel >= p.channels) return;
  const int first = int(blockIdx.x) * kBlockPixels, end = min(first + kBlockPixels, p.pixels);
  const int64_t n = blockIdx.y;
  const Channels f(p, n, at.channel);
  const int size = p.channels / p.groups;
  float2 mean[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) mean[i] = group_means[n * p.groups + (at.channel + i) / size];
  for (int q = first + at.warp; q < end; q += kWarps) {
    const int64_t row = n * p.pixels + q;
    const gpu::Vec8<T> v = load(x[row] + at.channel), d = load(dy[row] + at.channel);
    gpu::Vec8<T>& to = *reinterpret_cast<gpu::Vec8<T>*>(dx.rows[row] + at.channel);
    gpu::Vec8<T> out;
    if (dx.add) out = to;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float distance = gpu::to_float(v.v[i]) - f.mean[i];
      const float g = gpu::to_float(d.v[i]) * gpu::activation_derivative(distance * f.slope[i] + f.offset[i], p.kind);
      const float gradient = f.slope[i] * g - mean[i].y * distance - mean[i].x;
      out.v[i] = gpu::from_float<T>(dx.add ? gpu::to_float(out.v[i]) + gradient : gradient);
    }
    to = out;
  }
}

// Calls f with a value of a 16-bit type.
template <class F> void with_vector_type(const Tensor& t, F&& f) {
  if (t.dtype() == DType::BF16) f(gpu::bf16{});
  else f(gpu::f16{});
}

dim3 pixel_grid(const NormConstants& p, int items) {
  return {blocks_for(p.pixels, kBlockPixels), unsigned(items), blocks_for(p.channels, kBlockChannels)};
}
dim3 slab_grid(const PixelSlabs& cut) {
  return {unsigned(cut.slabs), unsigned(cut.items), blocks_for(cut.channels, kBlockChannels)};
}

}  // namespace

void vector_slab_moments(float2* moments, const Tensor& x, const PixelSlabs& cut) {
  with_vector_type(x, [&](auto zero) {
    using T = decltype(zero);
    gpu::launch(moments_kernel<T>, slab_grid(cut), dim3(kThreads), 0, stream(x.device()), moments, rows<const T>(x),
                cut.pixels, cut.slab, cut.channels);
  });
}

void vector_normalize(const Tensor& y, const Tensor& x, const NormConstants& p, int items) {
  with_vector_type(x, [&](auto zero) {
    using T = decltype(zero);
    gpu::launch(normalize_kernel<T>, pixel_grid(p, items), dim3(kThreads), 0, stream(x.device()), rows<T>(y),
                rows<const T>(x), p);
  });
}

void vector_slab_gradients(float2* sums, const Tensor& dy, const Tensor& x, const NormConstants& p,
                           const PixelSlabs& cut) {
  with_vector_type(x, [&](auto zero) {
    using T = decltype(zero);
    gpu::launch(gradients_kernel<T>, slab_grid(cut), dim3(kThreads), 0, stream(x.device()), sums, rows<const T>(dy),
                rows<const T>(x), p, cut.slab);
  });
}

void vector_normalize_backward(const Gradient& dx, const Tensor& dy, const Tensor& x, const float2* group_means,
                               const NormConstants& p, int items) {
  with_vector_type(x, [&](auto zero) {
    using T = decltype(zero);
    gpu::launch(backward_kernel<T>, pixel_grid(p, items), dim3(kThreads), 0, stream(x.device()), Into<T>(dx),
                rows<const T>(dy), rows<const T>(x), group_means, p);
  });
}

}  // namespace df::IF_CUDA_NAMESPACE
