#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "cpu/cpu_backend.h"
#include "cpu/scratch.h"

namespace df {
namespace {

// Values of one work item: a few microseconds, and small enough for 64 threads to share a picture.
constexpr int64_t kItemValues = 32768;
// Slabs of pixels with statistics of their own; a multiple of the kernel's chunk of 64 pixels.
constexpr int64_t kSlabUnit = 64, kMostSlabs = 64;

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

float value_at(const Tensor& t, int64_t row, int64_t column) {
  const int64_t i = row * t.row_stride() + column;
  return t.dtype() == DType::F32 ? t.data<float>()[i] : to_float(t.data<BFloat16>()[i]);
}

// mean, a and b of y = (x - mean) * a + b for the channels of item n, from the double sums of all slabs. `mean` is the
// float nearest to the group's mean (x - mean is then nearly exact); what it lacks goes into b.
void group_coefficients(const GroupNormParams& p, int64_t n, int64_t channels, int64_t pixels, int64_t slabs,
                        const double* sums, float* mean, float* a, float* b) {
  const int64_t size = channels / p.groups;
  for (int64_t first = 0; first < channels; first += size) {
    double sum = 0, squares = 0;
    for (int64_t s = 0; s < slabs; s++)
      for (int64_t c = first; c < first + size; c++) {
        sum += sums[s * 2 * channels + c];
        squares += sums[(s * 2 + 1) * channels + c];
      }
    const double count = double(pixels * size), m = sum / count, variance = squares / count - m * m;
    const double inverse = 1 / std::sqrt((variance < 0 ? 0 : variance) + double(p.eps));  // NaN stays
    for (int64_t c = first; c < first + size; c++) {
      double scale = inverse * p.gamma.data<float>()[c], shift = p.beta.data<float>()[c];
      if (p.scale.defined()) {
        const double factor = 1.0 + value_at(p.scale, n, c);
        scale *= factor;
        shift = shift * factor + value_at(p.shift, n, c);
      }
      mean[c] = float(m);
      a[c] = float(scale);
      b[c] = float(shift - (m - double(mean[c])) * scale);
    }
  }
}

}  // namespace

// Wu & He 2018, eq. 1 and 6, with the scale-shift norm of Dhariwal & Nichol 2021 (section 3, adaptive group
// normalisation) folded into one multiply-add per value.
void CpuBackend::group_norm(Tensor& y, const Tensor& x, const GroupNormParams& p) {
  const int type = int(x.dtype());
  const int64_t items = x.dim(0), channels = x.dim(-1), pixels = x.rows() / std::max<int64_t>(items, 1);
  const int64_t slab = ceil_div(std::max(kItemValues / channels, ceil_div(pixels, kMostSlabs)), kSlabUnit) * kSlabUnit;
  const int64_t slabs = ceil_div(pixels, slab);
  const size_t sum_bytes = size_t(items * slabs * 2 * channels) * sizeof(double);
  const size_t coefficient_bytes = size_t(items * 3 * channels) * sizeof(float);
  double* sums = static_cast<double*>(scratch(Scratch::Statistics, sum_bytes));
  float* coefficients = static_cast<float*>(scratch(Scratch::Coefficients, coefficient_bytes));
  parallel_for(items * slabs, [&](int64_t item, int) {
    const int64_t first = item % slabs * slab, n = item / slabs;
    double* s = sums + item * 2 * channels;
    kernels_.channel_moments[type](row_at(x, n * pixels + first), x.row_stride(), std::min(slab, pixels - first),
                                   channels, s, s + channels);
  });
  parallel_for(items, [&](int64_t n, int) {
    float* f = coefficients + n * 3 * channels;
    group_coefficients(p, n, channels, pixels, slabs, sums + n * slabs * 2 * channels, f, f + channels,
                       f + 2 * channels);
  });
  const int64_t grain = std::max<int64_t>(kItemValues / channels, 1), ranges = ceil_div(pixels, grain);
  parallel_for(items * ranges, [&](int64_t item, int) {
    const int64_t n = item / ranges, first = item % ranges * grain, row = n * pixels + first;
    const float* f = coefficients + n * 3 * channels;
    kernels_.normalize[type](row_at(y, row), y.row_stride(), row_at(x, row), x.row_stride(),
                             std::min(grain, pixels - first), channels, f, f + channels, f + 2 * channels,
                             int(p.activation));
  });
}

void CpuBackend::layer_norm(Tensor& y, const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps) {
  const int64_t channels = x.dim(-1);
  parallel_ranges(x.rows(), std::max<int64_t>(kItemValues / channels, 1), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      kernels_.layer_norm[int(x.dtype())](row_at(y, r), row_at(x, r), channels, gamma.data<float>(),
                                          beta.data<float>(), eps);
  });
}

void CpuBackend::rms_norm(Tensor& y, const Tensor& x, const Tensor& gamma, float eps) {
  const int64_t channels = x.dim(-1);
  parallel_ranges(x.rows(), std::max<int64_t>(kItemValues / channels, 1), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; r++)
      kernels_.rms_norm[int(x.dtype())](row_at(y, r), row_at(x, r), channels, gamma.data<float>(), eps);
  });
}

}  // namespace df
