#include "cpu/cpu_backend.h"
#include "cpu/pieces.h"

namespace df {

void CpuBackend::activation_backward(Gradient dx, const Tensor& dy, const Tensor& x, Activation kind) {
  if (!dx.wanted()) return;
  const Tensor& y = dx.into;
  const auto kernel = kernels_.elementwise_backward.activation[int(y.dtype())];
  for_pieces(y, y.contiguous() && dy.contiguous() && x.contiguous(), [&](int64_t row, int64_t column, int64_t n) {
    kernel(row_at(y, row, column), dx.add, row_at(dy, row, column), row_at(x, row, column), n, int(kind));
  });
}

void CpuBackend::gated_activation_backward(Gradient dgate, Gradient dup, const Tensor& dy, const Tensor& gate,
                                           const Tensor& up, Activation kind) {
  if (!dgate.wanted() && !dup.wanted()) return;
  const auto kernel = kernels_.elementwise_backward.gated_activation[int(dy.dtype())];
  bool dense = dy.contiguous() && gate.contiguous() && up.contiguous();
  for (const Gradient* g : {&dgate, &dup}) dense = dense && (!g->wanted() || g->into.contiguous());
  const auto at = [](const Gradient& g, int64_t row, int64_t column) {
    return g.wanted() ? row_at(g.into, row, column) : nullptr;
  };
  for_pieces(dy, dense, [&](int64_t row, int64_t column, int64_t n) {
    kernel(at(dgate, row, column), dgate.add, at(dup, row, column), dup.add, row_at(dy, row, column),
           row_at(gate, row, column), row_at(up, row, column), n, int(kind));
  });
}

void CpuBackend::scale_backward(Gradient dx, float a, const Tensor& dy) {
  if (!dx.wanted()) return;
  const Tensor& y = dx.into;
  const auto kernel = kernels_.elementwise_backward.scale[int(y.dtype())][int(dy.dtype())];
  for_pieces(y, y.contiguous() && dy.contiguous(), [&](int64_t row, int64_t column, int64_t n) {
    kernel(row_at(y, row, column), dx.add, a, row_at(dy, row, column), n);
  });
}

void CpuBackend::resample_backward(Gradient dx, const Tensor& dy, Resample mode) {
  if (!dx.wanted()) return;
  const Tensor& y = dx.into;
  const bool up = mode == Resample::NearestUp2;
  const int64_t height = y.dim(1), width = y.dim(2), channels = y.dim(3), dy_width = dy.dim(2);
  const auto& kernels = kernels_.elementwise_backward;
  const auto sum = kernels.sum4[int(y.dtype())];
  const auto scale = kernels.scale[int(y.dtype())][int(dy.dtype())];
  parallel_for(y.dim(0) * height, [&](int64_t line, int) {
    const int64_t from = (up ? 2 * line : line / height * (height / 2) + line % height / 2) * dy_width;
    for (int64_t j = 0; j < width; j++) {
      char* to = row_at(y, line * width + j);
      if (up) {
        const int64_t p = from + 2 * j;
        const void* four[4] = {row_at(dy, p), row_at(dy, p + 1), row_at(dy, p + dy_width), row_at(dy, p + dy_width + 1)};
        sum(to, dx.add, four, channels);
      } else {
        scale(to, dx.add, 0.25f, row_at(dy, from + j / 2), channels);
      }
    }
  });
}

}  // namespace df
