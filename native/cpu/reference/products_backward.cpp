#include <vector>

#include "core/parallel.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"

namespace df {
namespace {

// A row of partial sums; those of a pair of items are rounded to float32 before they meet others (ops/types.h).
struct PartialSums {
  std::vector<float> values;
};
PartialSums operator+(PartialSums a, const PartialSums& b) {
  for (size_t i = 0; i < a.values.size(); i++) a.values[i] += b.values[i];
  return a;
}

// into[0 … columns) += the tree sum over pairs of items of scale * Σ; `add(item, sums)` adds one item to a pair's sums.
template <class Add> void add_over_items(float* into, int64_t columns, int64_t items, float scale, const Add& add) {
  const auto pair = [&](int64_t p) {
    std::vector<double> sums(size_t(columns), 0.0);
    for (int64_t n = 2 * p; n < items && n < 2 * p + 2; n++) add(n, sums.data());
    PartialSums rounded{std::vector<float>(sums.size())};
    for (size_t i = 0; i < sums.size(); i++) rounded.values[i] = float(sums[i] * scale);
    return rounded;
  };
  const PartialSums total = tree_sum<PartialSums>(0, (items + 1) / 2, pair);
  for (int64_t i = 0; i < columns; i++) into[i] += total.values[size_t(i)];
}

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
  const bool convolution = dw.shape().rank() == 4;
  const int64_t in = dw.dim(-1), out = dw.dim(0), items = items_of(x);
  const int64_t kernel_h = convolution ? dw.dim(1) : 1, kernel_w = convolution ? dw.dim(2) : 1;
  // a linear layer is a 1×1 convolution of images of one column
  const int64_t height = convolution ? x.dim(1) : x.rows() / items, width = convolution ? x.dim(2) : 1;
  const int64_t out_height = convolution ? dy.dim(1) : height, out_width = convolution ? dy.dim(2) : 1;
  const int64_t padding = convolution ? p.padding : 0;
  const auto xs = reference::load(x), dys = reference::load(dy);
  parallel_for(out * kernel_h * kernel_w, [&](int64_t row, int) {  // row: one tap of one output channel
    const int64_t s = row % kernel_w, r = row / kernel_w % kernel_h, o = row / (kernel_w * kernel_h);
    add_over_items(dw.data<float>() + row * in, in, items, scale, [&](int64_t n, double* sums) {
      for (int64_t oh = 0; oh < out_height; oh++)
        for (int64_t ow = 0; ow < out_width; ow++) {
          const int64_t ih = oh - padding + r, iw = ow - padding + s;
          if (ih < 0 || ih >= height || iw < 0 || iw >= width) continue;
          const double g = dys[size_t(((n * out_height + oh) * out_width + ow) * out + o)];
          const double* a = xs.data() + ((n * height + ih) * width + iw) * in;
          for (int64_t i = 0; i < in; i++) sums[i] += g * a[i];
        }
    });
  });
}

void ReferenceBackend::bias_gradient(Tensor& db, const Tensor& dy, float scale) {
  const int64_t channels = dy.dim(-1), items = items_of(dy), rows = dy.rows() / items;
  const auto dys = reference::load(dy);
  add_over_items(db.data<float>(), channels, items, scale, [&](int64_t n, double* sums) {
    for (int64_t r = n * rows; r < (n + 1) * rows; r++)
      for (int64_t c = 0; c < channels; c++) sums[c] += dys[size_t(r * channels + c)];
  });
}

}  // namespace df
