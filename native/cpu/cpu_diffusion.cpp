// ddpm_step: what the reference does, without its copies, the quantile by selection instead of sorting, cut into items.
#include <algorithm>
#include <cmath>

#include "core/parallel.h"
#include "cpu/cpu_backend.h"
#include "cpu/scratch.h"

namespace df {
namespace {

// Pixels of one work item.
constexpr int64_t kGrain = 4096;

double clamp(double v, double limit) { return v < -limit ? -limit : v > limit ? limit : v; }  // NaN stays

/// The limit s of dynamic thresholding (Saharia et al. 2022, section 2.3) of `n` values; NaN when one of them is.
/// `magnitude` is working memory for n values.
double dynamic_limit(const float* x0, int64_t n, float* magnitude, const DdpmStep& p) {
  for (int64_t i = 0; i < n; i++) {
    if (std::isnan(x0[i])) return NAN;
    magnitude[i] = std::abs(x0[i]);
  }
  const double position = double(p.ratio) * double(n - 1);  // torch.quantile, interpolation="linear"
  float *low = magnitude + int64_t(position), *end = magnitude + n;
  std::nth_element(magnitude, low, end);
  const double high = low + 1 < end ? *std::min_element(low + 1, end) : *low;
  const double s = *low + (position - std::floor(position)) * (high - *low);
  return std::min(std::max(s, 1.0), double(p.max_value));
}

double deviation(double v, const DdpmStep& p) {
  switch (p.variance) {
    case DdpmStep::Variance::Fixed: return p.sigma;
    case DdpmStep::Variance::Learned: return std::sqrt(v);
    case DdpmStep::Variance::LearnedRange: break;
  }
  const double f = (v + 1) / 2;
  return std::exp(0.5 * (f * p.max_log + (1 - f) * p.min_log));
}

// T is the type of the model's output.
template <class T>
void step(Tensor& prev, Tensor& x0, const Tensor& x, const Tensor& model, const Tensor& noise, const DdpmStep& p) {
  const int64_t batch = x.dim(0), channels = x.dim(-1), pixels = x.rows() / batch, n = pixels * channels;
  const bool guided = model.dim(0) == 2 * batch, learned = p.variance != DdpmStep::Variance::Fixed;
  const auto output = [&](int64_t half, int64_t row) {
    return model.data<T>() + (half * batch * pixels + row) * model.row_stride();
  };
  // the values of x0, and as much again for the selection
  float* start = static_cast<float*>(scratch(Scratch::Rows, size_t(2 * batch * n) * sizeof(float)));
  double* limits = static_cast<double*>(scratch(Scratch::Statistics, size_t(batch) * sizeof(double)));
  parallel_ranges(batch * pixels, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const T *first = output(0, row), *second = guided ? output(1, row) : first;
      const float* in = x.data<float>() + row * x.row_stride();
      for (int64_t c = 0; c < channels; c++) {
        double m = to_float(first[c]);
        if (guided) m += p.guidance * (to_float(second[c]) - m);
        const double v = double(p.sample_scale) * in[c] + double(p.output_scale) * m;
        start[row * channels + c] = float(p.threshold == DdpmStep::Threshold::Clip ? clamp(v, p.clip_range) : v);
      }
    }
  });
  const bool dynamic = p.threshold == DdpmStep::Threshold::Dynamic;
  if (dynamic) {
    parallel_for(batch, [&](int64_t b, int) {
      limits[b] = dynamic_limit(start + b * n, n, start + (batch + b) * n, p);
    });
  }
  parallel_ranges(batch * pixels, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; row++) {
      const T* variance = output(guided ? 1 : 0, row) + channels;
      const float* in = x.data<float>() + row * x.row_stride();
      for (int64_t c = 0; c < channels; c++) {
        double s = start[row * channels + c];
        if (dynamic) s = clamp(s, limits[row / pixels]) / limits[row / pixels];
        double v = double(p.x0_coef) * s + double(p.x_coef) * in[c];
        if (p.add_noise)
          v += deviation(learned ? to_float(variance[c]) : 0, p) * noise.data<float>()[row * noise.row_stride() + c];
        prev.data<float>()[row * prev.row_stride() + c] = float(v);
        if (x0.defined()) x0.data<float>()[row * x0.row_stride() + c] = float(s);
      }
    }
  });
}

}  // namespace

void CpuBackend::ddpm_step(Tensor& prev, Tensor& x0, const Tensor& x, const Tensor& model, const Tensor& noise,
                           const DdpmStep& p) {
  if (model.dtype() == DType::F32) step<float>(prev, x0, x, model, noise, p);
  else step<BFloat16>(prev, x0, x, model, noise, p);
}

}  // namespace df
