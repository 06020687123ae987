#include <algorithm>
#include <vector>

#include "core/parallel.h"
#include "cpu/cpu_backend.h"
#include "cpu/cpu_norm.h"
#include "cpu/reference/values.h"
#include "cpu/scratch.h"

namespace df {
namespace {

// Values of one work item: two threads share even 8×8 pixels of 768 channels.
constexpr int64_t kItemValues = 16384;
// The kernel's chunk of pixels.
constexpr int64_t kSlabUnit = 32;

}  // namespace

// With x̂ = (x - m) * inverse, f = 1 + scale, g the gradient before the activation and d = g * gamma * f:
//   dx = inverse * (d - mean(d) - x̂ * mean(d * x̂)), means over the group,
//   dshift = Σg, dscale = Σ g * (gamma * x̂ + beta), dgamma = Σ g * f * x̂, dbeta = Σ g * f.
// All follow from Σg and Σ g * (x - mean) per channel; dx is one multiply-add of g and one of x - mean.
void CpuBackend::group_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, Gradient dscale, Gradient dshift,
                                     const Tensor& dy, const Tensor& x, const GroupNormParams& p) {
  const int type = int(x.dtype());
  const PixelSlabs cut(x, kItemValues, kSlabUnit);
  const int64_t channels = cut.channels, pixels = cut.pixels, size = channels / p.groups;
  const int64_t item_sums = cut.slabs * 2 * channels, item_factors = 5 * channels;
  const GroupStatistics s = group_statistics(x, p, cut, 5);

  parallel_for(cut.items * cut.slabs, [&](int64_t item, int) {
    const int64_t first = item % cut.slabs * cut.slab, n = item / cut.slabs, row = n * pixels + first;
    const float* f = s.coefficients + n * item_factors;
    double* sums = s.sums + item * 2 * channels;
    kernels_.norm_backward.gradient_moments[type](
        row_at(dy, row), dy.row_stride(), row_at(x, row), x.row_stride(), std::min(cut.slab, pixels - first), channels,
        f, f + channels, f + 2 * channels, int(p.activation), sums, sums + channels);
  });

  // the sums of an item: Σ g * f and Σ g * f * x̂ take the place of its first slab
  parallel_for(cut.items, [&](int64_t n, int) {
    double *sum = s.sums + n * item_sums, *product = sum + channels;
    float *mean = s.coefficients + n * item_factors, *slope = mean + 3 * channels, *offset = slope + channels;
    std::vector<double> scale_row(static_cast<size_t>(channels));
    const std::vector<double> scales =
        p.scale.defined() ? reference::load(p.scale.slice_first(n, 1)) : std::vector<double>();
    for (int64_t c = 0; c < channels; c++) {
      for (int64_t i = 1; i < cut.slabs; i++) {
        sum[c] += sum[i * 2 * channels + c];
        product[c] += product[i * 2 * channels + c];
      }
      const GroupMoments& m = s.moments[n * p.groups + c / size];
      product[c] = m.inverse * (product[c] - (m.mean - double(mean[c])) * sum[c]);
      scale_row[size_t(c)] = p.gamma.data<float>()[c] * product[c] + p.beta.data<float>()[c] * sum[c];
    }
    reference::store_gradient_row(dscale, n, scale_row.data());
    reference::store_gradient_row(dshift, n, sum);
    for (int64_t first = 0; first < channels; first += size) {
      double total = 0, products = 0;
      for (int64_t c = first; c < first + size; c++) {
        const double f = scales.empty() ? 1 : 1 + scales[size_t(c)];
        sum[c] *= f;
        product[c] *= f;
        total += p.gamma.data<float>()[c] * sum[c];
        products += p.gamma.data<float>()[c] * product[c];
      }
      const GroupMoments& m = s.moments[n * p.groups + first / size];
      const double count = double(pixels * size), k = m.inverse * m.inverse * products / count;
      for (int64_t c = first; c < first + size; c++) {
        slope[c] = float(k);
        offset[c] = float(m.inverse * total / count - k * (m.mean - double(mean[c])));
      }
    }
  });
  reference::add_parameter_gradient(dgamma, cut.items, [&](int64_t n, int64_t c) {
    return s.sums[n * item_sums + channels + c];
  });
  reference::add_parameter_gradient(dbeta, cut.items, [&](int64_t n, int64_t c) { return s.sums[n * item_sums + c]; });

  if (!dx.wanted()) return;
  const int64_t grain = std::max<int64_t>(kItemValues / channels, 1), ranges = ceil_div(pixels, grain);
  parallel_for(cut.items * ranges, [&](int64_t item, int) {
    const int64_t n = item / ranges, first = item % ranges * grain, row = n * pixels + first;
    kernels_.norm_backward.normalize_backward[type](
        row_at(dx.into, row), dx.into.row_stride(), dx.add, row_at(dy, row), dy.row_stride(), row_at(x, row),
        x.row_stride(), std::min(grain, pixels - first), channels, s.coefficients + n * item_factors,
        int(p.activation));
  });
}

// Rows are cut into slabs within the pairs of items whose sums are rounded together (see ops/backend.h).
void CpuBackend::row_norm_backward(const Gradient& dx, const Tensor& dgamma, const Tensor& dbeta, const Tensor& dy,
                                   const Tensor& x, const Tensor& gamma, float eps,
                                   void (*kernel)(const RowNormBackward*)) const {
  const int64_t channels = x.dim(-1), items = x.shape().rank() > 1 ? x.dim(0) : 1;
  const int64_t pairs = (items + 1) / 2, pair_rows = items ? 2 * (x.rows() / items) : 0;
  const int64_t slab = std::max<int64_t>(kItemValues / channels, 1), slabs = ceil_div(pair_rows, slab);
  double* sums =
      static_cast<double*>(scratch(Scratch::Statistics, size_t(pairs * slabs * 2 * channels) * sizeof(double)));
  parallel_for(pairs * slabs, [&](int64_t item, int) {
    const int64_t row = item / slabs * pair_rows + item % slabs * slab;
    const int64_t end = std::min((item / slabs + 1) * pair_rows, x.rows());
    RowNormBackward g = {};
    if (dx.wanted()) g.dx = row_at(dx.into, row), g.dx_stride = dx.into.row_stride(), g.add = dx.add;
    g.dy = row_at(dy, row);
    g.dy_stride = dy.row_stride();
    g.x = row_at(x, row);
    g.x_stride = x.row_stride();
    g.rows = std::clamp<int64_t>(end - row, 0, slab);
    g.channels = channels;
    g.gamma = gamma.data<float>();
    g.eps = eps;
    if (dgamma.defined()) g.dgamma = sums + item * 2 * channels;
    if (dbeta.defined()) g.dbeta = sums + (item * 2 + 1) * channels;
    g.sums = static_cast<float*>(scratch(Scratch::Partial, size_t(2 * channels) * sizeof(float)));
    kernel(&g);
  });
  const auto add = [&](const Tensor& gradient, int64_t which) {
    if (!gradient.defined()) return;
    const auto slab_sums = [&](int64_t pair, int64_t i) { return sums + ((pair * slabs + i) * 2 + which) * channels; };
    parallel_for(pairs, [&](int64_t pair, int) {
      double* total = slab_sums(pair, 0);
      for (int64_t i = 1; i < slabs; i++)
        for (int64_t c = 0; c < channels; c++) total[c] += slab_sums(pair, i)[c];
    });
    // a pair's sum counts as that of its first item
    reference::add_parameter_gradient(gradient, items, [&](int64_t n, int64_t c) {
      return n % 2 == 0 ? slab_sums(n / 2, 0)[c] : 0.0;
    });
  };
  add(dgamma, 0);
  add(dbeta, 1);
}

void CpuBackend::layer_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, const Tensor& dy, const Tensor& x,
                                     const Tensor& gamma, float eps) {
  row_norm_backward(dx, dgamma, dbeta, dy, x, gamma, eps, kernels_.norm_backward.layer_norm_backward[int(x.dtype())]);
}

void CpuBackend::rms_norm_backward(Gradient dx, Tensor dgamma, const Tensor& dy, const Tensor& x, const Tensor& gamma,
                                   float eps) {
  row_norm_backward(dx, dgamma, Tensor(), dy, x, gamma, eps, kernels_.norm_backward.rms_norm_backward[int(x.dtype())]);
}

}  // namespace df
