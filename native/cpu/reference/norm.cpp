#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"

namespace df {

void ReferenceBackend::group_norm(Tensor& y, const Tensor& x, const GroupNormParams& p) {
  const int64_t items = x.dim(0), channels = x.dim(-1), pixels = x.rows() / items, size = channels / p.groups;
  const auto xs = reference::load(x), gamma = reference::load(p.gamma), beta = reference::load(p.beta),
             scale = reference::load(p.scale), shift = reference::load(p.shift);
  std::vector<double> mean(size_t(items * p.groups)), inverse(mean.size());
  parallel_for(items * p.groups, [&](int64_t item, int) {
    const double* first = xs.data() + item / p.groups * pixels * channels + item % p.groups * size;
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < pixels; i++)
      for (int64_t c = 0; c < size; c++) sum += first[i * channels + c];
    const double m = sum / double(pixels * size);
    for (int64_t i = 0; i < pixels; i++)
      for (int64_t c = 0; c < size; c++) squares += (first[i * channels + c] - m) * (first[i * channels + c] - m);
    mean[size_t(item)] = m;
    inverse[size_t(item)] = 1 / std::sqrt(squares / double(pixels * size) + p.eps);
  });
  parallel_for(x.rows(), [&](int64_t row, int) {
    const int64_t n = row / pixels;
    std::vector<double> out(static_cast<size_t>(channels));
    for (int64_t c = 0; c < channels; c++) {
      const size_t group = size_t(n * p.groups + c / size);
      double v = (xs[size_t(row * channels + c)] - mean[group]) * inverse[group] * gamma[size_t(c)] + beta[size_t(c)];
      if (!scale.empty()) v = v * (1 + scale[size_t(n * channels + c)]) + shift[size_t(n * channels + c)];
      out[size_t(c)] = reference::activate(v, p.activation);
    }
    reference::store_row(y, row, out.data());
  });
}

// Ba et al. 2016, eq. 4.
void ReferenceBackend::layer_norm(Tensor& y, const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps) {
  const int64_t channels = x.dim(-1);
  const auto xs = reference::load(x), g = reference::load(gamma), b = reference::load(beta);
  parallel_for(x.rows(), [&](int64_t row, int) {
    const double* v = xs.data() + row * channels;
    std::vector<double> out(static_cast<size_t>(channels));
    double sum = 0, squares = 0;
    for (int64_t c = 0; c < channels; c++) sum += v[c];
    const double mean = sum / double(channels);
    for (int64_t c = 0; c < channels; c++) squares += (v[c] - mean) * (v[c] - mean);
    const double inverse = 1 / std::sqrt(squares / double(channels) + eps);
    for (int64_t c = 0; c < channels; c++) out[size_t(c)] = (v[c] - mean) * inverse * g[size_t(c)] + b[size_t(c)];
    reference::store_row(y, row, out.data());
  });
}

// Zhang & Sennrich 2019, eq. 4.
void ReferenceBackend::rms_norm(Tensor& y, const Tensor& x, const Tensor& gamma, float eps) {
  const int64_t channels = x.dim(-1);
  const auto xs = reference::load(x), g = reference::load(gamma);
  parallel_for(x.rows(), [&](int64_t row, int) {
    const double* v = xs.data() + row * channels;
    std::vector<double> out(static_cast<size_t>(channels));
    double squares = 0;
    for (int64_t c = 0; c < channels; c++) squares += v[c] * v[c];
    const double inverse = 1 / std::sqrt(squares / double(channels) + eps);
    for (int64_t c = 0; c < channels; c++) out[size_t(c)] = v[c] * inverse * g[size_t(c)];
    reference::store_row(y, row, out.data());
  });
}

}  // namespace df
