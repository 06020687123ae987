#include "cpu/reference/values.h"

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

}  // namespace df::reference
