#include "core/execution.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/ops.h"
#include "ops/recording.h"

namespace df::ops {

Weight pack(const Tensor& plain, DType dtype) {
  check_tensor("pack", "plain", plain, 0, {DType::F32, DType::BF16, DType::F16});
  DF_CHECK(plain.shape().rank() == 2 || plain.shape().rank() == 4,
           "pack: plain must be (out, in) or (out, kernel_h, kernel_w, in), got %s", plain.shape().str().c_str());
  check_compute_dtype("pack", dtype, plain.device());
  begin_op();
  return backend_for(plain.device()).pack(plain, dtype);
}

Weight pack_transposed(const Tensor& plain, DType dtype) {
  check_tensor("pack_transposed", "plain", plain, 2, {DType::F32, DType::BF16, DType::F16});
  DF_CHECK(dtype == DType::F32 || dtype == DType::BF16, "pack_transposed: dtype must be f32 or bf16, got %s",
           dtype_name(dtype));
  begin_op();
  return backend_for(plain.device()).pack_transposed(plain, dtype);
}

Weight pack_int8(const Tensor& plain, DType dtype) {
  check_tensor("pack_int8", "plain", plain, 2, {DType::F32, DType::BF16, DType::F16});
  DF_CHECK(dtype == DType::F32 || dtype == DType::BF16, "pack_int8: dtype must be f32 or bf16, got %s",
           dtype_name(dtype));
  begin_op();
  return backend_for(plain.device()).pack_int8(plain, dtype);
}

Tensor unpack(const Weight& weight, DType dtype) {
  DF_CHECK(weight.data.defined(), "unpack: weight must be packed, got an undefined one");
  DF_CHECK(dtype == DType::F32 || dtype == DType::BF16 || dtype == DType::F16,
           "unpack: dtype must be f32 or bf16 or f16, got %s", dtype_name(dtype));
  begin_op();
  const Device device = weight.data.device();
  Tensor plain = Tensor::empty({weight.out, weight.kernel_h, weight.kernel_w, weight.in}, dtype, device);
  backend_for(device).unpack(plain, weight);
  return plain;
}

Tensor linear(const Tensor& x, const Weight& w, const Epilogue& e, Tensor into) {
  check_activations("linear", "x", x, 0);
  check_weight("linear", x, w);
  DF_CHECK(w.kernel_h == 1 && w.kernel_w == 1, "linear: weight must be 1×1, got %lld×%lld", ll(w.kernel_h),
           ll(w.kernel_w));
  const Shape shape = with_last(x.shape(), w.out);
  check_epilogue("linear", shape, x, e);
  Tensor y = result("linear", into, shape, x.dtype(), x.device());
  begin_op(2.0 * double(x.numel()) * double(w.out));
  backend_for(x.device()).linear(y, x, packed(w, x.dtype()), e);
  record_product(y, x, w, nullptr, e);
  return y;
}

}  // namespace df::ops
