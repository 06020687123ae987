#include <vector>

#include "core/parallel.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"

namespace df {
namespace {

// One image of the batch at a time may be read as (H, W, I); a linear layer is a 1×1 convolution of rows.
struct Geometry {
  int64_t height, width, out_height, out_width;
  Conv2dParams p;
};

void convolve(Tensor& y, const Tensor& x, const Weight& w, const Geometry& g, const Epilogue& e) {
  const auto xs = reference::load(x), ws = reference::load(w), bias = reference::load(e.bias),
             residual = reference::load(e.residual);
  parallel_for(y.rows(), [&](int64_t row, int) {  // row: one output pixel
    const int64_t ow = row % g.out_width, oh = row / g.out_width % g.out_height, n = row / (g.out_width * g.out_height);
    std::vector<double> out(size_t(w.out));
    for (int64_t o = 0; o < w.out; o++) {
      double sum = 0;
      for (int64_t r = 0; r < w.kernel_h; r++)
        for (int64_t s = 0; s < w.kernel_w; s++) {
          const int64_t ih = oh * g.p.stride - g.p.padding + r, iw = ow * g.p.stride - g.p.padding + s;
          if (ih < 0 || ih >= g.height || iw < 0 || iw >= g.width) continue;
          const double* a = xs.data() + ((n * g.height + ih) * g.width + iw) * w.in;
          const double* b = ws.data() + ((o * w.kernel_h + r) * w.kernel_w + s) * w.in;
          for (int64_t i = 0; i < w.in; i++) sum += a[i] * b[i];
        }
      if (!bias.empty()) sum += bias[size_t(o)];
      if (!residual.empty()) sum += residual[size_t(row * w.out + o)];
      out[size_t(o)] = sum * e.scale;
    }
    reference::store_row(y, row, out.data());
  });
}

}  // namespace

void ReferenceBackend::linear(Tensor& y, const Tensor& x, const Weight& w, const Epilogue& e) {
  convolve(y, x, w, {1, 1, 1, 1, {}}, e);
}

void ReferenceBackend::conv2d(Tensor& y, const Tensor& x, const Weight& w, const Conv2dParams& p, const Epilogue& e) {
  convolve(y, x, w, {x.dim(1), x.dim(2), y.dim(1), y.dim(2), p}, e);
}

}  // namespace df
