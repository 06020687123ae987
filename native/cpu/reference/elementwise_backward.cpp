#include <functional>
#include <vector>

#include "core/parallel.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"

namespace df {
namespace {

// dx = f(row-major index) for every element.
void fill(const Gradient& dx, const std::function<double(size_t)>& f) {
  if (!dx.wanted()) return;
  const int64_t columns = dx.into.dim(-1);
  parallel_for(dx.into.rows(), [&](int64_t row, int) {
    std::vector<double> out(static_cast<size_t>(columns));
    for (int64_t c = 0; c < columns; c++) out[size_t(c)] = f(size_t(row * columns + c));
    reference::store_gradient_row(dx, row, out.data());
  });
}

}  // namespace

void ReferenceBackend::activation_backward(Gradient dx, const Tensor& dy, const Tensor& x, Activation kind) {
  const auto dys = reference::load(dy), xs = reference::load(x);
  fill(dx, [&](size_t i) { return dys[i] * reference::activation_derivative(xs[i], kind); });
}

void ReferenceBackend::gated_activation_backward(Gradient dgate, Gradient dup, const Tensor& dy, const Tensor& gate,
                                                 const Tensor& up, Activation kind) {
  const auto dys = reference::load(dy), gs = reference::load(gate), us = reference::load(up);
  fill(dgate, [&](size_t i) { return dys[i] * us[i] * reference::activation_derivative(gs[i], kind); });
  fill(dup, [&](size_t i) { return dys[i] * reference::activate(gs[i], kind); });
}

void ReferenceBackend::scale_backward(Gradient dx, float a, const Tensor& dy) {
  const auto dys = reference::load(dy);
  fill(dx, [&](size_t i) { return a * dys[i]; });
}

// The adjoints: of a pixel that was copied to four, their sum; of one of four that were averaged, a quarter.
void ReferenceBackend::resample_backward(Gradient dx, const Tensor& dy, Resample mode) {
  if (!dx.wanted()) return;
  const auto dys = reference::load(dy);
  const size_t height = size_t(dx.into.dim(1)), width = size_t(dx.into.dim(2)), channels = size_t(dx.into.dim(3));
  fill(dx, [&](size_t e) {
    const size_t c = e % channels, w = e / channels % width, h = e / (channels * width) % height,
                 n = e / (channels * width * height);
    if (mode == Resample::AverageDown2)
      return dys[((n * (height / 2) + h / 2) * (width / 2) + w / 2) * channels + c] / 4;
    const double* four = dys.data() + ((n * 2 * height + 2 * h) * 2 * width + 2 * w) * channels + c;
    return (four[0] + four[channels]) + (four[2 * width * channels] + four[(2 * width + 1) * channels]);
  });
}

}  // namespace df
