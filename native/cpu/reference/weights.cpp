#include "cpu/quantize.h"
#include "cpu/reference/reference_backend.h"
#include "cpu/reference/values.h"

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

Weight ReferenceBackend::pack_int8(const Tensor& plain, DType dtype) {
  Weight w;
  w.out = plain.dim(0);
  w.in = plain.dim(1);
  w.dtype = dtype;
  w.data = Tensor::empty({w.out, w.in}, DType::U8, plain.device());
  w.scales = Tensor::empty({w.out}, DType::F32, plain.device());
  const auto values = reference::load(plain);
  const std::vector<float> exact(values.begin(), values.end());
  auto* q = reinterpret_cast<int8_t*>(w.data.data<uint8_t>());
  for (int64_t o = 0; o < w.out; o++)
    w.scales.data<float>()[o] = quantize_row(q + o * w.in, exact.data() + o * w.in, w.in);
  return w;
}

void ReferenceBackend::unpack(Tensor& plain, const Weight& weight) {
  if (!weight.int8()) return ReferenceBackend::copy(plain, weight.data);
  const auto values = reference::load(weight);
  for (int64_t o = 0; o < weight.out; o++) reference::store_row(plain, o, values.data() + o * weight.in);
}

size_t ReferenceBackend::packed_bytes(int64_t out, int64_t kernel_h, int64_t kernel_w, int64_t in, DType dtype) {
  return size_t(out * kernel_h * kernel_w * in) * dtype_size(dtype);
}

}  // namespace df
