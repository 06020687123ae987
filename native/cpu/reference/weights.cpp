#include "cpu/reference/reference_backend.h"

namespace df {

const char* ReferenceBackend::name() const { return "reference"; }

Backend& reference_backend() {
  static ReferenceBackend backend;
  return backend;
}

Weight ReferenceBackend::pack(const Tensor& plain, DType dtype) {
  const bool convolution = plain.shape().rank() == 4;
  Weight w;
  w.out = plain.dim(0);
  w.kernel_h = convolution ? plain.dim(1) : 1;
  w.kernel_w = convolution ? plain.dim(2) : 1;
  w.in = plain.dim(-1);
  w.dtype = dtype;
  w.data = Tensor::empty({w.out, w.kernel_h, w.kernel_w, w.in}, dtype, plain.device());
  ReferenceBackend::copy(w.data, plain);
  return w;
}

void ReferenceBackend::unpack(Tensor& plain, const Weight& weight) { ReferenceBackend::copy(plain, weight.data); }

size_t ReferenceBackend::packed_bytes(int64_t out, int64_t kernel_h, int64_t kernel_w, int64_t in, DType dtype) {
  return size_t(out * kernel_h * kernel_w * in) * dtype_size(dtype);
}

}  // namespace df
