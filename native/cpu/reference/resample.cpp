#include <vector>

#include "core/parallel.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"

namespace df {

void ReferenceBackend::resample(Tensor& y, const Tensor& x, Resample mode) {
  const auto xs = reference::load(x);
  const int64_t height = x.dim(1), width = x.dim(2), channels = x.dim(3), out_height = y.dim(1), out_width = y.dim(2);
  parallel_for(y.rows(), [&](int64_t row, int) {
    const int64_t n = row / (out_height * out_width), i = row / out_width % out_height, j = row % out_width;
    const auto pixel = [&](int64_t h, int64_t w) { return xs.data() + ((n * height + h) * width + w) * channels; };
    std::vector<double> out(static_cast<size_t>(channels));
    for (int64_t c = 0; c < channels; c++)
      out[size_t(c)] = mode == Resample::NearestUp2
                           ? pixel(i / 2, j / 2)[c]
                           : (pixel(2 * i, 2 * j)[c] + pixel(2 * i, 2 * j + 1)[c] + pixel(2 * i + 1, 2 * j)[c] +
                              pixel(2 * i + 1, 2 * j + 1)[c]) / 4;
    reference::store_row(y, row, out.data());
  });
}

void ReferenceBackend::bilinear(Tensor& y, const Tensor& x) {
  const auto xs = reference::load(x);
  const int64_t height = x.dim(1), width = x.dim(2), channels = x.dim(3), out_height = y.dim(1), out_width = y.dim(2);
  // first and last pixels of both grids coincide; a single output pixel reads the first input pixel
  const auto position = [](int64_t i, int64_t in, int64_t out) {
    return out > 1 ? double(i) * double(in - 1) / double(out - 1) : 0.0;
  };
  parallel_for(y.rows(), [&](int64_t row, int) {
    const int64_t n = row / (out_height * out_width);
    const double v = position(row / out_width % out_height, height, out_height),
                 u = position(row % out_width, width, out_width);
    const int64_t h0 = int64_t(v), w0 = int64_t(u), h1 = h0 + 1 < height ? h0 + 1 : h0,
                  w1 = w0 + 1 < width ? w0 + 1 : w0;
    const double fh = v - double(h0), fw = u - double(w0);
    const auto pixel = [&](int64_t h, int64_t w) { return xs.data() + ((n * height + h) * width + w) * channels; };
    std::vector<double> out(static_cast<size_t>(channels));
    for (int64_t c = 0; c < channels; c++)
      out[size_t(c)] = (1 - fh) * ((1 - fw) * pixel(h0, w0)[c] + fw * pixel(h0, w1)[c]) +
                       fh * ((1 - fw) * pixel(h1, w0)[c] + fw * pixel(h1, w1)[c]);
    reference::store_row(y, row, out.data());
  });
}

void ReferenceBackend::nchw_to_nhwc(Tensor& y, const Tensor& x) {
  const auto xs = reference::load(x);
  const int64_t channels = y.dim(3), pixels = y.dim(1) * y.dim(2);
  parallel_for(y.rows(), [&](int64_t row, int) {
    const int64_t n = row / pixels, i = row % pixels;
    std::vector<double> out(static_cast<size_t>(channels));
    for (int64_t c = 0; c < channels; c++) out[size_t(c)] = xs[size_t((n * channels + c) * pixels + i)];
    reference::store_row(y, row, out.data());
  });
}

void ReferenceBackend::nhwc_to_nchw(Tensor& y, const Tensor& x) {
  const auto xs = reference::load(x);
  const int64_t channels = y.dim(1), height = y.dim(2), width = y.dim(3);
  parallel_for(y.rows(), [&](int64_t row, int) {  // row: (n, c, h)
    const int64_t n = row / (channels * height), c = row / height % channels, h = row % height;
    std::vector<double> out(static_cast<size_t>(width));
    for (int64_t w = 0; w < width; w++) out[size_t(w)] = xs[size_t(((n * height + h) * width + w) * channels + c)];
    reference::store_row(y, row, out.data());
  });
}

}  // namespace df
