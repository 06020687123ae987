#include <atomic>

#include "cpu/cpu_backend.h"
#include "cpu/pieces.h"

namespace df {

void CpuBackend::activation(Tensor& y, const Tensor& x, Activation kind) {
  for_pieces(y, y.contiguous() && x.contiguous(), [&](int64_t row, int64_t column, int64_t n) {
    kernels_.activation[int(y.dtype())](row_at(y, row, column), row_at(x, row, column), n, int(kind));
  });
}

void CpuBackend::gated_activation(Tensor& y, const Tensor& gate, const Tensor& up, Activation kind) {
  const bool dense = y.contiguous() && gate.contiguous() && up.contiguous();
  for_pieces(y, dense, [&](int64_t row, int64_t column, int64_t n) {
    kernels_.gated_activation[int(y.dtype())](row_at(y, row, column), row_at(gate, row, column),
                                              row_at(up, row, column), n, int(kind));
  });
}

void CpuBackend::axpby(Tensor& y, float a, const Tensor& x, float b, const Tensor& z) {
  const auto kernel = kernels_.axpby[int(y.dtype())][int(x.dtype())][int(z.dtype())];
  for_pieces(y, y.contiguous() && x.contiguous() && z.contiguous(), [&](int64_t row, int64_t column, int64_t n) {
    kernel(row_at(y, row, column), a, row_at(x, row, column), b, row_at(z, row, column), n);
  });
}

void CpuBackend::copy(Tensor& y, const Tensor& x) {
  const auto kernel = kernels_.convert[int(y.dtype())][int(x.dtype())];
  for_pieces(y, y.contiguous() && x.contiguous(), [&](int64_t row, int64_t column, int64_t n) {
    kernel(row_at(y, row, column), row_at(x, row, column), n);
  });
}

bool CpuBackend::all_finite(const Tensor& x) {
  std::atomic<bool> finite{true};
  for_pieces(x, x.contiguous(), [&](int64_t row, int64_t column, int64_t n) {
    if (!kernels_.all_finite[int(x.dtype())](row_at(x, row, column), n)) finite.store(false, std::memory_order_relaxed);
  });
  return finite.load();
}

}  // namespace df
