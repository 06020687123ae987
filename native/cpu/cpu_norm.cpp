#include "cpu/cpu_norm.h"

#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "cpu/cpu_backend.h"
#include "cpu/scratch.h"

namespace df {
namespace {

// Values of one work item: a few microseconds, and small enough for 64 threads to share a picture.
constexpr int64_t kItemValues = 32768;
// A multiple of the kernel's chunk of 64 pixels.
constexpr int64_t kSlabUnit = 64, kMostSlabs = 64;

float value_at(const Tensor& t, int64_t row, int64_t column) {
  const int64_t i = row * t.row_stride() + column;
  return t.dtype() == DType::F32 ? t.data<float>()[i] : to_float(t.data<BFloat16>()[i]);
}

// The moments of a group, channels [first, last) of one item, from the sums of all slabs.
GroupMoments group_moments(const PixelSlabs& cut, const double* sums, int64_t first, int64_t last, double eps) {
  double sum = 0, squares = 0;
  for (int64_t s = 0; s < cut.slabs; s++)
    for (int64_t c = first; c < last; c++) {
      sum += sums[s * 2 * cut.channels + c];
      squares += sums[(s * 2 + 1) * cut.channels + c];
    }
  const double count = double(cut.pixels * (last - first)), mean = sum / count, variance = squares / count - mean * mean;
  return {mean, 1 / std::sqrt((variance < 0 ? 0 : variance) + eps)};  // NaN stays
}

}  // namespace

PixelSlabs::PixelSlabs(const Tensor& x, int64_t values, int64_t unit)
    : items(x.dim(0)), channels(x.dim(-1)), pixels(x.rows() / std::max<int64_t>(items, 1)) {
  slab = ceil_div(std::max(values / channels, ceil_div(pixels, kMostSlabs)), unit) * unit;
  slabs = ceil_div(pixels, slab);
}

GroupStatistics CpuBackend::group_statistics(const Tensor& x, const GroupNormParams& p, const PixelSlabs& cut,
                                             int64_t coefficient_rows) const {
  const int64_t channels = cut.channels, item_sums = cut.slabs * 2 * channels, size = channels / p.groups;
  const size_t sum_bytes = size_t(cut.items * item_sums) * sizeof(double);
  const size_t moment_bytes = size_t(cut.items * p.groups) * sizeof(GroupMoments);
  GroupStatistics s;
  s.sums = static_cast<double*>(scratch(Scratch::Statistics, sum_bytes + moment_bytes));
  s.moments = reinterpret_cast<GroupMoments*>(s.sums + cut.items * item_sums);
  s.coefficients = static_cast<float*>(
      scratch(Scratch::Coefficients, size_t(cut.items * coefficient_rows * channels) * sizeof(float)));
  parallel_for(cut.items * cut.slabs, [&](int64_t item, int) {
    const int64_t first = item % cut.slabs * cut.slab, n = item / cut.slabs;
    double* sums = s.sums + item * 2 * channels;
    kernels_.channel_moments[int(x.dtype())](row_at(x, n * cut.pixels + first), x.row_stride(),
                                             std::min(cut.slab, cut.pixels - first), channels, sums, sums + channels);
  });
  parallel_for(cut.items, [&](int64_t n, int) {
    float *mean = s.coefficients + n * coefficient_rows * channels, *a = mean + channels, *b = a + channels;
    for (int64_t c = 0; c < channels; c++) {
      const GroupMoments& m = s.moments[n * p.groups + c / size];
      if (c % size == 0)
        s.moments[n * p.groups + c / size] = group_moments(cut, s.sums + n * item_sums, c, c + size, double(p.eps));
      double scale = m.inverse * p.gamma.data<float>()[c], shift = p.beta.data<float>()[c];
      if (p.scale.defined()) {
        const double factor = 1.0 + value_at(p.scale, n, c);
        scale *= factor;
        shift = shift * factor + value_at(p.shift, n, c);
      }
      mean[c] = float(m.mean);
      a[c] = float(scale);
      b[c] = float(shift - (m.mean - double(mean[c])) * scale);
    }
  });
  return s;
}

// Wu & He 2018, eq. 1 and 6, with the scale-shift norm of Dhariwal & Nichol 2021 (section 3, adaptive group
// normalisation) folded into one multiply-add per value.
void CpuBackend::group_norm(Tensor& y, const Tensor& x, const GroupNormParams& p) {
  const PixelSlabs cut(x, kItemValues, kSlabUnit);
  const int64_t channels = cut.channels, pixels = cut.pixels;
  const float* coefficients = group_statistics(x, p, cut, 3).coefficients;
  const int64_t grain = std::max<int64_t>(kItemValues / channels, 1), ranges = ceil_div(pixels, grain);
  parallel_for(cut.items * ranges, [&](int64_t item, int) {
    const int64_t n = item / ranges, first = item % ranges * grain, row = n * pixels + first;
    const float* f = coefficients + n * 3 * channels;
    kernels_.normalize[int(x.dtype())](row_at(y, row), y.row_stride(), row_at(x, row), x.row_stride(),
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
