// int8 weights: packed row by row, multiplied by kernels/gemm.h (gemm_int8).
#include <cstring>

#include "core/parallel.h"
#include "cpu/cpu_backend.h"
#include "cpu/quantize.h"
#include "cpu/scratch.h"

namespace df {
namespace {

// Rows (`stride` bytes apart, k contiguous) ↔ a panel [k / unit][width][unit]: F moves `unit` bytes at a row's address
// and a panel's address. A cache line of every row at a time.
template <class F> void for_units(int64_t width, int64_t unit, int64_t k, int64_t stride, const F& move) {
  constexpr int64_t kLine = 64;
  for (int64_t first = 0; first < k; first += kLine)
    for (int64_t row = 0; row < width; row++)
      for (int64_t i = first; i < k && i < first + kLine; i += unit) move(row * stride + i, i * width + row * unit);
}

}  // namespace

Weight CpuBackend::pack_int8(const Tensor& plain, DType dtype) {
  Weight w;
  w.out = plain.dim(0);
  w.in = plain.dim(1);
  w.dtype = dtype;
  w.layout = layout(dtype);
  const int64_t width = kernels_.panel, unit = kernels_.unit[int(dtype)], in = padded(w.in, dtype);
  w.data = Tensor::empty({panels(w.out) * width * in}, DType::U8, plain.device());
  w.scales = Tensor::empty({w.out}, DType::F32, plain.device());
  parallel_for(panels(w.out), [&](int64_t panel, int) {
    auto* row = static_cast<float*>(scratch(Scratch::Rows, size_t(w.in) * sizeof(float)));
    auto* rows = static_cast<int8_t*>(scratch(Scratch::Packed, size_t(width * in)));
    std::memset(rows, 0, size_t(width * in));
    const int64_t first = panel * width;
    for (int64_t j = 0; j < width && first + j < w.out; j++) {
      kernels_.convert[0][int(plain.dtype())](row, row_at(plain, first + j), w.in);
      w.scales.data<float>()[first + j] = quantize_row(rows + j * in, row, w.in);
    }
    auto* packed = static_cast<int8_t*>(w.data.raw()) + first * in;
    if (unit == 1) for_units(width, 1, in, in, [&](int64_t from, int64_t to) { packed[to] = rows[from]; });
    else for_units(width, 2, in, in, [&](int64_t from, int64_t to) { std::memcpy(packed + to, rows + from, 2); });
  });
  return w;
}

void CpuBackend::unpack_int8(Tensor& plain, const Weight& w) const {
  const int64_t width = kernels_.panel, unit = kernels_.unit[int(w.dtype)], in = padded(w.in, w.dtype);
  parallel_for(w.out, [&](int64_t o, int) {
    auto* row = static_cast<float*>(scratch(Scratch::Rows, size_t(w.in) * sizeof(float)));
    const auto* panel = static_cast<const int8_t*>(w.data.raw()) + o / width * width * in;
    const float scale = w.scales.data<float>()[o];
    for (int64_t k = 0; k < w.in; k++) row[k] = scale * float(panel[(k / unit * width + o % width) * unit + k % unit]);
    kernels_.convert[int(plain.dtype())][0](row_at(plain, o), row, w.in);
  });
}

}  // namespace df
