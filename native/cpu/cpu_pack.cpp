#include "core/error.h"
#include "core/parallel.h"
#include "cpu/cpu_backend.h"

namespace df {

size_t CpuBackend::packed_bytes(int64_t out, int64_t kernel_h, int64_t kernel_w, int64_t in, DType dtype) {
  return size_t(panels(out) * kernels_.panel * kernel_h * kernel_w * padded(in, dtype)) * dtype_size(dtype);
}

void CpuBackend::check_layout(const char* op, const Weight& w) const {
  if (w.layout != layout(w.dtype))
    fail(ErrorCode::Internal, "%s: weight must be in layout %d of %s, got layout %d: pack it with this backend", op,
         layout(w.dtype), name_, w.layout);
}

Weight CpuBackend::pack(const Tensor& plain, DType dtype) {
  const bool convolution = plain.shape().rank() == 4;
  Weight w;
  w.out = plain.dim(0);
  w.kernel_h = convolution ? plain.dim(1) : 1;
  w.kernel_w = convolution ? plain.dim(2) : 1;
  w.in = plain.dim(-1);
  w.dtype = dtype;
  w.layout = layout(dtype);
  const size_t bytes = packed_bytes(w.out, w.kernel_h, w.kernel_w, w.in, dtype);
  w.data = Tensor::empty({int64_t(bytes / dtype_size(dtype))}, dtype, plain.device());
  const int64_t taps = w.kernel_h * w.kernel_w, count = panels(w.out), width = kernels_.panel;
  const size_t block = bytes / size_t(count * taps);
  parallel_for(count * taps, [&](int64_t item, int) {
    const int64_t first = item / taps * width, tap = item % taps;
    const int rows = int(first + width <= w.out ? width : w.out - first);
    kernels_.pack[int(dtype)](static_cast<char*>(w.data.raw()) + size_t(item) * block,
                              row_at(plain, first * taps + tap), int(plain.dtype()), taps * plain.row_stride(), rows,
                              w.in);
  });
  return w;
}

Weight CpuBackend::pack_transposed(const Tensor& plain, DType dtype) {
  return pack(ReferenceBackend::pack_transposed(plain, plain.dtype()).data, dtype);
}

void CpuBackend::unpack(Tensor& plain, const Weight& w) {
  check_layout("unpack", w);
  if (w.int8()) return unpack_int8(plain, w);
  const int64_t taps = w.kernel_h * w.kernel_w, count = panels(w.out), width = kernels_.panel;
  const size_t block = packed_bytes(w.out, w.kernel_h, w.kernel_w, w.in, w.dtype) / size_t(count * taps);
  parallel_for(count * taps, [&](int64_t item, int) {
    const int64_t first = item / taps * width, tap = item % taps;
    const int rows = int(first + width <= w.out ? width : w.out - first);
    kernels_.unpack[int(w.dtype)](row_at(plain, first * taps + tap), int(plain.dtype()), taps * plain.row_stride(),
                                  rows, w.in, static_cast<const char*>(w.data.raw()) + size_t(item) * block);
  });
}

}  // namespace df
