#include <algorithm>
#include <atomic>

#include "core/parallel.h"
#include "cpu/cpu_backend.h"

namespace df {
namespace {

// Values of one work item.
constexpr int64_t kGrain = 16384;

/// Calls body(row, column, n) for pieces of rows; a tensor without gaps (`dense`) is one long row.
template <class F> void for_pieces(const Tensor& shape, bool dense, const F& body) {
  const int64_t columns = shape.shape().rank() ? shape.dim(-1) : 1, rows = shape.rows();
  if (dense) {
    parallel_ranges(shape.numel(), kGrain, [&](int64_t begin, int64_t end) { body(0, begin, end - begin); });
  } else {
    const int64_t grain = std::max<int64_t>(kGrain / std::max<int64_t>(columns, 1), 1);
    parallel_ranges(rows, grain, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; r++) body(r, 0, columns);
    });
  }
}

}  // namespace

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
