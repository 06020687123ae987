#include "cpu/reference/values.h"

#include <algorithm>
#include <cmath>

namespace df::reference {

std::vector<double> load(const Tensor& x) {
  if (!x.defined()) return {};
  const int64_t columns = x.shape().rank() ? x.dim(-1) : 1;
  std::vector<double> v(size_t(x.numel()));
  with_float_type(x, [&](const auto* data) {
    for (int64_t r = 0; r < x.rows(); r++)
      for (int64_t c = 0; c < columns; c++) v[size_t(r * columns + c)] = to_float(data[r * x.row_stride() + c]);
  });
  return v;
}

std::vector<double> load(const Weight& w) {
  if (!w.int8()) return load(w.data);
  const auto scales = load(w.scales);
  const auto* q = reinterpret_cast<const int8_t*>(w.data.data<uint8_t>());
  std::vector<double> v(size_t(w.out * w.in));
  for (size_t i = 0; i < v.size(); i++) v[i] = q[i] * scales[i / size_t(w.in)];
  return v;
}

void store_row(const Tensor& y, int64_t row, const double* values) {
  with_float_type(y, [&](auto* data) {
    using T = std::remove_reference_t<decltype(*data)>;
    for (int64_t c = 0; c < y.dim(-1); c++) data[row * y.row_stride() + c] = from_float<T>(float(values[c]));
  });
}

double activate(double v, Activation kind) {
  switch (kind) {
    case Activation::None: return v;
    case Activation::Silu: return v / (1 + std::exp(-v));
    case Activation::Gelu: return 0.5 * v * (1 + std::erf(v * M_SQRT1_2));
    case Activation::GeluTanh:  // Hendrycks & Gimpel 2016, section 2
      return 0.5 * v * (1 + std::tanh(std::sqrt(2 / M_PI) * (v + 0.044715 * v * v * v)));
  }
  fail(ErrorCode::Internal, "reference: unknown activation");
}

double activation_derivative(double v, Activation kind) {
  if (std::isinf(v) && kind != Activation::None) return v > 0 ? 1 : 0;  // the limits
  switch (kind) {
    case Activation::None: return 1;
    case Activation::Silu: {
      const double s = 1 / (1 + std::exp(-v));
      return s + v * s * (1 - s);
    }
    case Activation::Gelu:
      return 0.5 * std::erfc(-v * M_SQRT1_2) + v * std::exp(-0.5 * v * v) / std::sqrt(2 * M_PI);
    case Activation::GeluTanh: {  // (1 + tanh u)/2 = 1/(1 + exp(-2u)), which does not cancel in the negative tail
      const double k = std::sqrt(2 / M_PI), z = 2 * k * (v + 0.044715 * v * v * v);
      const double s = 1 / (1 + std::exp(-z)), rest = 1 / (1 + std::exp(z));
      return s + v * 2 * k * (1 + 3 * 0.044715 * v * v) * s * rest;
    }
  }
  fail(ErrorCode::Internal, "reference: unknown activation");
}

std::vector<double> load_segments(const AttentionParams& p, Tensor KeyValue::*member) {
  int64_t total = 0, first = 0;
  for (const KeyValue& s : p.segments) total += s.key.dim(1);
  const int64_t batch = p.segments[0].key.dim(0), channels = p.segments[0].key.dim(2);
  std::vector<double> all(size_t(batch * total * channels));
  for (const KeyValue& s : p.segments) {
    const int64_t length = s.key.dim(1);
    const auto values = load(s.*member);
    for (int64_t b = 0; b < batch; b++)
      std::copy_n(values.begin() + b * length * channels, length * channels,
                  all.begin() + (b * total + first) * channels);
    first += length;
  }
  return all;
}

void store_gradient_row(const Gradient& g, int64_t row, const double* values) {
  if (!g.wanted()) return;
  std::vector<double> sum(values, values + g.into.dim(-1));
  if (g.add)
    with_float_type(g.into, [&](const auto* data) {
      for (size_t c = 0; c < sum.size(); c++) sum[c] += to_float(data[size_t(row * g.into.row_stride()) + c]);
    });
  store_row(g.into, row, sum.data());
}

}  // namespace df::reference
