#include <algorithm>
#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"

namespace df {
namespace {

// torch.quantile, interpolation="linear": NaN when any value is NaN.
double quantile(std::vector<double> v, double ratio) {
  for (double x : v)
    if (std::isnan(x)) return x;
  std::sort(v.begin(), v.end());
  const double position = ratio * double(v.size() - 1);
  const size_t low = size_t(position), high = std::min(low + 1, v.size() - 1);
  return v[low] + (position - double(low)) * (v[high] - v[low]);
}

double clamp(double v, double limit) { return v < -limit ? -limit : v > limit ? limit : v; }  // NaN stays

void apply_threshold(double* x0, size_t n, const DdpmStep& p) {
  if (p.threshold == DdpmStep::Threshold::Clip)
    for (size_t i = 0; i < n; i++) x0[i] = clamp(x0[i], p.clip_range);
  if (p.threshold == DdpmStep::Threshold::Dynamic) {
    std::vector<double> magnitude(n);
    for (size_t i = 0; i < n; i++) magnitude[i] = std::abs(x0[i]);
    double s = quantile(magnitude, p.ratio);
    if (s < 1) s = 1;
    if (s > p.max_value) s = p.max_value;
    for (size_t i = 0; i < n; i++) x0[i] = clamp(x0[i], s) / s;
  }
}

// The learned output v becomes a standard deviation as in diffusers scheduling_ddpm.py (_get_variance, step): `Learned`
// takes it as the variance itself.
double deviation(double v, const DdpmStep& p) {
  switch (p.variance) {
    case DdpmStep::Variance::Fixed: return p.sigma;
    case DdpmStep::Variance::Learned: return std::sqrt(v);
    case DdpmStep::Variance::LearnedRange: break;
  }
  const double f = (v + 1) / 2;
  return std::exp(0.5 * (f * p.max_log + (1 - f) * p.min_log));
}

}  // namespace

void ReferenceBackend::ddpm_step(Tensor& prev, Tensor& x0, const Tensor& x, const Tensor& model, const Tensor& noise,
                                 const DdpmStep& p) {
  const auto xs = reference::load(x), ms = reference::load(model), zs = reference::load(noise);
  const int64_t batch = x.dim(0), channels = x.dim(-1), pixels = x.rows() / batch, outputs = model.dim(-1);
  const bool guided = model.dim(0) == 2 * batch;
  parallel_for(batch, [&](int64_t b, int) {
    // output c of pixel i, of the (unconditional or only) half 0 or the conditional half 1
    const auto output = [&](int half, int64_t i, int64_t c) {
      return ms[size_t(((half * batch + b) * pixels + i) * outputs + c)];
    };
    std::vector<double> start(size_t(pixels * channels)), row(static_cast<size_t>(channels));
    for (int64_t i = 0; i < pixels; i++)
      for (int64_t c = 0; c < channels; c++) {
        double m = output(0, i, c);
        if (guided) m += p.guidance * (output(1, i, c) - m);
        start[size_t(i * channels + c)] =
            p.sample_scale * xs[size_t((b * pixels + i) * channels + c)] + p.output_scale * m;
      }
    apply_threshold(start.data(), start.size(), p);
    for (int64_t i = 0; i < pixels; i++) {
      for (int64_t c = 0; c < channels; c++) {
        const size_t e = size_t((b * pixels + i) * channels + c);
        double v = p.x0_coef * start[size_t(i * channels + c)] + p.x_coef * xs[e];
        if (p.add_noise) {
          const bool learned = p.variance != DdpmStep::Variance::Fixed;
          v += deviation(learned ? output(guided ? 1 : 0, i, channels + c) : 0, p) * zs[e];
        }
        row[size_t(c)] = v;
      }
      reference::store_row(prev, b * pixels + i, row.data());
      if (x0.defined()) reference::store_row(x0, b * pixels + i, start.data() + i * channels);
    }
  });
}

}  // namespace df
