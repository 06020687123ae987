#include <vector>

#include "core/parallel.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"

namespace df {
namespace {

// A single row is one item.
int64_t items_of(const Tensor& t) { return t.shape().rank() > 1 ? t.dim(0) : 1; }

}  // namespace

Weight ReferenceBackend::pack_transposed(const Tensor& plain, DType dtype) {
  const bool convolution = plain.shape().rank() == 4;
  Weight w;
  w.out = plain.dim(-1);
  w.kernel_h = convolution ? plain.dim(1) : 1;
  w.kernel_w = convolution ? plain.dim(2) : 1;
  w.in = plain.dim(0);
  w.dtype = dtype;
  w.data = Tensor::empty({w.out, w.kernel_h, w.kernel_w, w.in}, dtype, plain.device());
  const auto values = reference::load(plain);
  const int64_t taps = w.kernel_h * w.kernel_w;
  std::vector<double> row(size_t(w.in));
  for (int64_t i = 0; i < w.out; i++)
    for (int64_t tap = 0; tap < taps; tap++) {
      for (int64_t o = 0; o < w.in; o++) row[size_t(o)] = values[size_t((o * taps + taps - 1 - tap) * w.out + i)];
      reference::store_row(w.data, i * taps + tap, row.data());
    }
  return w;
}

void ReferenceBackend::weight_gradient(Tensor& dw, const Tensor& x, const Tensor& dy, const Conv2dParams& p,
                                       float scale) {
  const bool convolution = dw.shape().rank() == 4 && x.shape().rank() == 4;
  const int64_t in = dw.dim(-1), out = dw.dim(0), items = items_of(x);
  const int64_t kernel_h = convolution ? dw.dim(1) : 1, kernel_w = convolution ? dw.dim(2) : 1;
  // a linear layer is a 1×1 convolution of images of one column
  const int64_t height = convolution ? x.dim(1) : x.rows() / items, width = convolution ? x.dim(2) : 1;
  const int64_t out_height = convolution ? dy.dim(1) : height, out_width = convolution ? dy.dim(2) : 1;
  const int64_t padding = convolution ? p.padding : 0;
  const auto xs = reference::load(x), dys = reference::load(dy);
  const Tensor rows = dw.reshape({out * kernel_h * kernel_w, in});
  parallel_for(rows.rows(), [&](int64_t row, int) {  // row: one tap of one output channel
    const int64_t s = row % kernel_w, r = row / kernel_w % kernel_h, o = row / (kernel_w * kernel_h);
    std::vector<double> sums(size_t(items * in));
    for (int64_t n = 0; n < items; n++)
      for (int64_t oh = 0; oh < out_height; oh++)
        for (int64_t ow = 0; ow < out_width; ow++) {
          const int64_t ih = oh - padding + r, iw = ow - padding + s;
          if (ih < 0 || ih >= height || iw < 0 || iw >= width) continue;
          const double g = dys[size_t(((n * out_height + oh) * out_width + ow) * out + o)];
          const double* a = xs.data() + ((n * height + ih) * width + iw) * in;
          for (int64_t i = 0; i < in; i++) sums[size_t(n * in + i)] += g * a[i];
        }
    reference::add_parameter_gradient(rows.slice_first(row, 1), items,
                                      [&](int64_t n, int64_t i) { return scale * sums[size_t(n * in + i)]; });
  });
}

void ReferenceBackend::bias_gradient(Tensor& db, const Tensor& dy, float scale) {
  const int64_t channels = dy.dim(-1), items = items_of(dy), rows = dy.rows() / items;
  const auto dys = reference::load(dy);
  reference::add_parameter_gradient(db, items, [&](int64_t n, int64_t c) {
    double sum = 0;
    for (int64_t r = n * rows; r < (n + 1) * rows; r++) sum += dys[size_t(r * channels + c)];
    return scale * sum;
  });
}

}  // namespace df
