#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"

namespace df {
namespace {

/// With x̂ = (x - mean) * inverse and d = dL/dx̂: dL/dx = inverse * (d - mean(d) - x̂ * mean(d * x̂)); a norm that does
/// not subtract the mean lacks mean(d). dx takes the place of d.
void through_statistics(std::vector<double>& d, const std::vector<double>& xhat, double inverse, bool centred) {
  const size_t n = d.size();
  double sum = 0, product = 0;
  for (size_t i = 0; i < n; i++) sum += d[i], product += d[i] * xhat[i];
  const double m = centred ? sum / double(n) : 0, k = product / double(n);
  for (size_t i = 0; i < n; i++) d[i] = inverse * (d[i] - m - xhat[i] * k);
}

/// layer_norm (centred) and rms_norm.
void row_norm_backward(const Gradient& dx, const Tensor& dgamma, const Tensor& dbeta, const Tensor& dy,
                       const Tensor& x, const Tensor& gamma, float eps, bool centred) {
  const int64_t channels = x.dim(-1), items = x.shape().rank() > 1 ? x.dim(0) : 1;
  const auto xs = reference::load(x), g = reference::load(gamma), dys = reference::load(dy);
  std::vector<double> xhat(xs.size());
  parallel_for(x.rows(), [&](int64_t row, int) {
    const double *v = xs.data() + row * channels, *d = dys.data() + row * channels;
    double sum = 0, squares = 0;
    for (int64_t c = 0; c < channels && centred; c++) sum += v[c];
    const double mean = sum / double(channels);
    for (int64_t c = 0; c < channels; c++) squares += (v[c] - mean) * (v[c] - mean);
    const double inverse = 1 / std::sqrt(squares / double(channels) + eps);
    std::vector<double> own(static_cast<size_t>(channels)), out(own.size());
    for (int64_t c = 0; c < channels; c++) {
      own[size_t(c)] = xhat[size_t(row * channels + c)] = (v[c] - mean) * inverse;
      out[size_t(c)] = d[c] * g[size_t(c)];
    }
    through_statistics(out, own, inverse, centred);
    reference::store_gradient_row(dx, row, out.data());
  });
  const int64_t rows = items ? x.rows() / items : 0;
  const auto sum_of = [&](int64_t n, int64_t c, bool times_xhat) {
    double sum = 0;
    for (size_t i = size_t(n * rows * channels + c); i < size_t((n + 1) * rows * channels); i += size_t(channels))
      sum += dys[i] * (times_xhat ? xhat[i] : 1);
    return sum;
  };
  reference::add_parameter_gradient(dgamma, items, [&](int64_t n, int64_t c) { return sum_of(n, c, true); });
  reference::add_parameter_gradient(dbeta, items, [&](int64_t n, int64_t c) { return sum_of(n, c, false); });
}

}  // namespace

// y = f(v), v = u * (1 + scale) + shift, u = x̂ * gamma + beta; derivatives by the chain rule.
void ReferenceBackend::group_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, Gradient dscale, Gradient dshift,
                                           const Tensor& dy, const Tensor& x, const GroupNormParams& p) {
  const int64_t items = x.dim(0), channels = x.dim(-1), pixels = items ? x.rows() / items : 0,
                size = channels / p.groups;
  const auto xs = reference::load(x), dys = reference::load(dy), gamma = reference::load(p.gamma),
             beta = reference::load(p.beta), scale = reference::load(p.scale), shift = reference::load(p.shift);
  // per (item, channel): Σ dL/dv and Σ dL/dv * x̂
  std::vector<double> sums(size_t(items * channels)), products(sums.size()), dxs(xs.size());
  parallel_for(items * p.groups, [&](int64_t group, int) {
    const int64_t n = group / p.groups, first = group % p.groups * size;
    std::vector<size_t> at;  // of the group's values
    for (int64_t i = 0; i < pixels; i++)
      for (int64_t c = first; c < first + size; c++) at.push_back(size_t((n * pixels + i) * channels + c));
    double sum = 0, squares = 0;
    for (size_t i : at) sum += xs[i];
    const double mean = sum / double(at.size());
    for (size_t i : at) squares += (xs[i] - mean) * (xs[i] - mean);
    const double inverse = 1 / std::sqrt(squares / double(at.size()) + p.eps);
    std::vector<double> xhat(at.size()), d(at.size());
    for (size_t i = 0; i < at.size(); i++) {
      const size_t c = at[i] % size_t(channels), nc = size_t(n * channels) + c;
      xhat[i] = (xs[at[i]] - mean) * inverse;
      const double factor = scale.empty() ? 1 : 1 + scale[nc];
      const double v = (xhat[i] * gamma[c] + beta[c]) * factor + (shift.empty() ? 0 : shift[nc]);
      const double g = dys[at[i]] * reference::activation_derivative(v, p.activation);
      sums[nc] += g;
      products[nc] += g * xhat[i];
      d[i] = g * factor * gamma[c];
    }
    through_statistics(d, xhat, inverse, true);
    for (size_t i = 0; i < at.size(); i++) dxs[at[i]] = d[i];
  });
  parallel_for(x.rows(), [&](int64_t row, int) {
    reference::store_gradient_row(dx, row, dxs.data() + row * channels);
  });
  for (int64_t n = 0; n < items; n++) {
    const double *s = sums.data() + n * channels, *product = products.data() + n * channels;
    std::vector<double> out(static_cast<size_t>(channels));
    for (size_t c = 0; c < out.size(); c++) out[c] = product[c] * gamma[c] + s[c] * beta[c];
    reference::store_gradient_row(dscale, n, out.data());
    reference::store_gradient_row(dshift, n, s);
  }
  const auto factor = [&](int64_t i) { return scale.empty() ? 1 : 1 + scale[size_t(i)]; };
  reference::add_parameter_gradient(dgamma, items, [&](int64_t n, int64_t c) {
    return products[size_t(n * channels + c)] * factor(n * channels + c);
  });
  reference::add_parameter_gradient(dbeta, items, [&](int64_t n, int64_t c) {
    return sums[size_t(n * channels + c)] * factor(n * channels + c);
  });
}

void ReferenceBackend::layer_norm_backward(Gradient dx, Tensor dgamma, Tensor dbeta, const Tensor& dy, const Tensor& x,
                                           const Tensor& gamma, float eps) {
  row_norm_backward(dx, dgamma, dbeta, dy, x, gamma, eps, true);
}

void ReferenceBackend::rms_norm_backward(Gradient dx, Tensor dgamma, const Tensor& dy, const Tensor& x,
                                         const Tensor& gamma, float eps) {
  row_norm_backward(dx, dgamma, Tensor(), dy, x, gamma, eps, false);
}

}  // namespace df
