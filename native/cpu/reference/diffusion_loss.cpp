#include "cpu/reference/diffusion_loss.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/parallel.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"

namespace df {
namespace {

double sigmoid(double z) { return 1 / (1 + std::exp(-z)); }
double softplus(double z) { return std::max(z, 0.0) + std::log1p(std::exp(-std::abs(z))); }

// Φ(a) = sigmoid(z(a)); derivative of z by the log variance, a being proportional to exp(-log_variance / 2).
struct Edge {
  explicit Edge(double a)
      : z(2 * std::sqrt(2 / M_PI) * (a + 0.044715 * a * a * a)),
        by_log_variance(-std::sqrt(2 / M_PI) * a * (1 + 3 * 0.044715 * a * a)) {}
  double z, by_log_variance;
};

// KL(N(mean + difference, exp(true_log)) ‖ N(mean, exp(log_variance))).
reference::VariationalTerm divergence(double difference, double true_log, double log_variance) {
  const double ratio = std::exp(true_log - log_variance), square = difference * difference * std::exp(-log_variance);
  return {0.5 * (log_variance - true_log - 1 + ratio + square), 0.5 * (1 - ratio - square)};
}

}  // namespace

reference::VariationalTerm reference::decoder_likelihood(double x0, double mean, double log_variance) {
  const double inverse = std::exp(-0.5 * log_variance), half_bin = 1.0 / 255;
  const Edge upper(inverse * (x0 - mean + half_bin)), lower(inverse * (x0 - mean - half_bin));
  double log_p, derivative;
  if (x0 < -0.999) {
    log_p = -softplus(-upper.z);
    derivative = sigmoid(-upper.z) * upper.by_log_variance;
  } else if (x0 > 0.999) {
    log_p = -softplus(lower.z);
    derivative = -sigmoid(lower.z) * lower.by_log_variance;
  } else {  // σ(a) - σ(b) = σ(a) σ(-b) (1 - exp(b - a)), which does not cancel in the tails
    const double width = upper.z - lower.z, rest = 1 / std::expm1(width);
    log_p = -softplus(-upper.z) - softplus(lower.z) + std::log(-std::expm1(-width));
    derivative = (sigmoid(-upper.z) + rest) * upper.by_log_variance - (sigmoid(lower.z) + rest) * lower.by_log_variance;
  }
  const double least = std::log(1e-12);
  if (log_p < least) return {-least, 0};
  return {-log_p, -derivative};
}

void ReferenceBackend::blend(Tensor& y, const std::vector<float>& a, const Tensor& x, const std::vector<float>& b,
                             const Tensor& z) {
  const auto xs = reference::load(x), zs = reference::load(z);
  const int64_t columns = y.dim(-1), rows = y.rows() / y.dim(0);  // of one item
  parallel_for(y.rows(), [&](int64_t row, int) {
    std::vector<double> out(static_cast<size_t>(columns));
    const double s = a[size_t(row / rows)], t = b[size_t(row / rows)];
    for (int64_t c = 0; c < columns; c++) out[size_t(c)] = s * xs[size_t(row * columns + c)] + t * zs[size_t(row * columns + c)];
    reference::store_row(y, row, out.data());
  });
}

void ReferenceBackend::diffusion_loss(Tensor& terms, Tensor& dmodel, const Tensor& model, const Tensor& x0,
                                      const Tensor& xt, const Tensor& noise, const DiffusionLoss& p) {
  const int64_t items = x0.dim(0), channels = x0.dim(-1), pixels = x0.rows() / items, outputs = model.dim(-1);
  const auto ms = reference::load(model), x0s = reference::load(x0), xts = reference::load(xt),
             noises = reference::load(noise);
  parallel_for(items, [&](int64_t n, int) {
    const LossSample& s = p.samples[size_t(n)];
    const double mean = 1 / double(pixels * channels), bits = s.variational_weight / M_LN2;
    const bool learned = outputs == 2 * channels && s.variational_weight != 0;
    double sums[2] = {0, 0};
    for (int64_t row = n * pixels; row < (n + 1) * pixels; row++) {
      std::vector<double> d(size_t(outputs), 0.0);
      for (int64_t c = 0; c < channels; c++) {
        const size_t i = size_t(row * channels + c);
        const double m = ms[size_t(row * outputs + c)];
        const double e = m - (s.target_x0 * x0s[i] + s.target_noise * noises[i]), delta = p.huber_delta;
        if (p.main == DiffusionLoss::Main::Mse) {
          sums[0] += s.weight * e * e;
          d[size_t(c)] = s.weight * 2 * e;
        } else {
          sums[0] += s.weight * (std::abs(e) <= delta ? 0.5 * e * e : delta * (std::abs(e) - 0.5 * delta));
          d[size_t(c)] = s.weight * (e < -delta ? -delta : e > delta ? delta : e);
        }
        if (!learned) continue;
        const double f = (ms[size_t(row * outputs + channels + c)] + 1) / 2;
        const double log_variance = f * s.max_log + (1 - f) * s.min_log;
        const double predicted = s.sample_scale * xts[i] + s.output_scale * m;
        const reference::VariationalTerm term =
            s.last ? reference::decoder_likelihood(x0s[i], s.x0_coef * predicted + s.x_coef * xts[i], log_variance)
                   : divergence(s.x0_coef * (x0s[i] - predicted), s.true_log, log_variance);
        sums[1] += bits * term.value;
        d[size_t(channels + c)] = bits * term.by_log_variance * 0.5 * (double(s.max_log) - s.min_log);
      }
      for (double& v : d) v *= p.gradient_scale * mean;
      if (dmodel.defined()) reference::store_row(dmodel, row, d.data());
    }
    for (double& v : sums) v *= mean;
    reference::store_row(terms, n, sums);
  });
}

}  // namespace df
