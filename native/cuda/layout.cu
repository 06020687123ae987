// Layout and sampling of pixels.
#include <algorithm>

#include "cuda/cuda_backend.h"
#include "cuda/map.h"

namespace df::IF_CUDA_NAMESPACE {
namespace {

// An image tensor's pixels, which are its rows.
struct Pixel {
  unsigned item, h, w;
};
struct Grid {
  unsigned height, width;
  explicit Grid(const Tensor& nhwc) : height(unsigned(nhwc.dim(1))), width(unsigned(nhwc.dim(2))) {}
  GPU_FN Pixel pixel(int64_t row) const {
    const unsigned r = unsigned(row);
    return {r / (height * width), r / width % height, r % width};
  }
  GPU_FN int64_t row(unsigned item, unsigned h, unsigned w) const { return (int64_t(item) * height + h) * width + w; }
};

// Every pixel of y is one of x, times a factor: nearest, and the adjoint of the average.
struct Spread {
  Values y, x;
  Grid large, small;
  float factor;
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    const Pixel p = large.pixel(row);
    float v[V];
    x.load(small.row(p.item, p.h / 2, p.w / 2), column, v);
#pragma unroll
    for (float& e : v) e *= factor;
    y.store(row, column, v);
  }
};

// Every pixel of y is the sum of four of x, times a factor: the average, and the adjoint of nearest.
struct Gather {
  Values y, x;
  Grid small, large;
  float factor;
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    const Pixel p = small.pixel(row);
    const int64_t first = large.row(p.item, 2 * p.h, 2 * p.w), second = first + large.width;
    float a[V], b[V], c[V], d[V];
    x.load(first, column, a);
    x.load(first + 1, column, b);
    x.load(second, column, c);
    x.load(second + 1, column, d);
#pragma unroll
    for (int i = 0; i < V; ++i) a[i] = ((a[i] + b[i]) + (c[i] + d[i])) * factor;
    y.store(row, column, a);
  }
};

// The input pixels that one output coordinate lies between.
struct Between {
  unsigned low, high;
  float fraction;
};
// First and last pixels of both grids coincide; a single output pixel reads the first input pixel.
GPU_FN Between between(unsigned i, unsigned in, unsigned out) {
  const float position = out > 1 ? float(i) * float(in - 1) / float(out - 1) : 0.0f;
  const unsigned low = min(unsigned(position), in - 1);
  return {low, min(low + 1, in - 1), position - float(low)};
}

struct Bilinear {
  Values y, x;
  Grid out, in;
  template <int V> GPU_FN void run(int64_t row, int64_t column) const {
    const Pixel p = out.pixel(row);
    const Between h = between(p.h, in.height, out.height), w = between(p.w, in.width, out.width);
    const auto value = [&](unsigned i, unsigned j) { return x.at(in.row(p.item, i, j), column); };
    const float upper = (1 - w.fraction) * value(h.low, w.low) + w.fraction * value(h.low, w.high);
    const float lower = (1 - w.fraction) * value(h.high, w.low) + w.fraction * value(h.high, w.high);
    y.put(row, column, (1 - h.fraction) * upper + h.fraction * lower);
  }
};

struct ToNhwc {
  Values y;
  const float* x;
  unsigned pixels, channels;
  template <int V> GPU_FN void run(int64_t row, int64_t channel) const {
    const unsigned item = unsigned(row) / pixels, pixel = unsigned(row) % pixels;
    y.put(row, channel, x[(int64_t(item) * channels + channel) * pixels + pixel]);
  }
};

// A row of y is an item's channel.
struct ToNchw {
  float* y;
  Values x;
  unsigned pixels, channels;
  template <int V> GPU_FN void run(int64_t row, int64_t pixel) const {
    const unsigned item = unsigned(row) / channels, channel = unsigned(row) % channels;
    y[row * pixels + pixel] = x.at(int64_t(item) * pixels + pixel, channel);
  }
};

Plane pixels(const Tensor& y, const Tensor& x) {
  DF_CHECK(std::max(x.rows(), y.rows()) < int64_t(1) << 31, "cuda: images of 2^31 pixels or more");
  return plane_of_rows(y.rows(), y.dim(3), {&y, &x});
}

}  // namespace

void CudaBackend::resample(Tensor& y, const Tensor& x, Resample mode) {
  if (mode == Resample::NearestUp2) map(x.device(), pixels(y, x), Spread{y, x, Grid(y), Grid(x), 1});
  else map(x.device(), pixels(y, x), Gather{y, x, Grid(y), Grid(x), 0.25f});
}

void CudaBackend::resample_backward(Gradient dx, const Tensor& dy, Resample mode) {
  if (!dx.wanted()) return;
  const Plane p = pixels(dx.into, dy);
  if (mode == Resample::AverageDown2) map(dy.device(), p, Spread{dx, dy, Grid(dx.into), Grid(dy), 0.25f});
  else map(dy.device(), p, Gather{dx, dy, Grid(dx.into), Grid(dy), 1});
}

void CudaBackend::bilinear(Tensor& y, const Tensor& x) {
  const Plane p = pixels(y, x);
  map_single(x.device(), p.rows, p.columns, Bilinear{y, x, Grid(y), Grid(x)});
}

void CudaBackend::nchw_to_nhwc(Tensor& y, const Tensor& x) {
  const Plane p = pixels(y, y);
  map_single(x.device(), p.rows, p.columns,
             ToNhwc{y, x.data<float>(), unsigned(y.dim(1) * y.dim(2)), unsigned(y.dim(3))});
}

void CudaBackend::nhwc_to_nchw(Tensor& y, const Tensor& x) {
  const Plane p = pixels(x, x);
  map_single(x.device(), x.dim(0) * p.columns, p.rows / x.dim(0),
             ToNchw{y.data<float>(), x, unsigned(x.dim(1) * x.dim(2)), unsigned(x.dim(3))});
}

}  // namespace df::IF_CUDA_NAMESPACE
