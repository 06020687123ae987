#include <cmath>
#include <functional>
#include <vector>

#include "core/parallel.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"

namespace df {
namespace {

// y = f(row-major index) for every element.
void fill(Tensor& y, const std::function<double(size_t)>& f) {
  const int64_t columns = y.dim(-1);
  parallel_for(y.rows(), [&](int64_t row, int) {
    std::vector<double> out(static_cast<size_t>(columns));
    for (int64_t c = 0; c < columns; c++) out[size_t(c)] = f(size_t(row * columns + c));
    reference::store_row(y, row, out.data());
  });
}

}  // namespace

void ReferenceBackend::activation(Tensor& y, const Tensor& x, Activation kind) {
  const auto xs = reference::load(x);
  fill(y, [&](size_t i) { return reference::activate(xs[i], kind); });
}

void ReferenceBackend::gated_activation(Tensor& y, const Tensor& gate, const Tensor& up, Activation kind) {
  const auto gs = reference::load(gate), us = reference::load(up);
  fill(y, [&](size_t i) { return reference::activate(gs[i], kind) * us[i]; });
}

void ReferenceBackend::axpby(Tensor& y, float a, const Tensor& x, float b, const Tensor& z) {
  const auto xs = reference::load(x), zs = reference::load(z);
  fill(y, [&](size_t i) { return a * xs[i] + b * zs[i]; });
}

void ReferenceBackend::copy(Tensor& y, const Tensor& x) {
  const auto xs = reference::load(x);
  fill(y, [&](size_t i) { return xs[i]; });
}

bool ReferenceBackend::all_finite(const Tensor& x) {
  for (double v : reference::load(x))
    if (!std::isfinite(v)) return false;
  return true;
}

}  // namespace df
