#include "ops/check.h"

#include <algorithm>

#include "ops/backend.h"

namespace df::ops {

void check_tensor(const char* op, const char* parameter, const Tensor& t, int rank,
                  std::initializer_list<DType> dtypes) {
  DF_CHECK(t.defined(), "%s: %s must be a tensor, got an undefined one", op, parameter);
  if (std::find(dtypes.begin(), dtypes.end(), t.dtype()) == dtypes.end()) {
    std::string names;
    for (DType d : dtypes) names += (names.empty() ? "" : " or ") + std::string(dtype_name(d));
    fail(ErrorCode::InvalidArgument, "%s: %s must be %s, got %s", op, parameter, names.c_str(), dtype_name(t.dtype()));
  }
  if (rank)
    DF_CHECK(t.shape().rank() == rank, "%s: %s must have %d dimensions, got %s", op, parameter, rank,
             t.shape().str().c_str());
  else
    DF_CHECK(t.shape().rank() >= 1, "%s: %s must have at least one dimension, got a scalar", op, parameter);
  DF_CHECK(t.numel() > 0, "%s: %s must not be empty, got %s", op, parameter, t.shape().str().c_str());
}

void check_activations(const char* op, const char* parameter, const Tensor& t, int rank) {
  if (t.defined() && backend_for(t.device()).computes(DType::F16))
    check_tensor(op, parameter, t, rank, {DType::F32, DType::BF16, DType::F16});
  else
    check_tensor(op, parameter, t, rank, {DType::F32, DType::BF16});
}

void check_compute_dtype(const char* op, DType dtype, Device device) {
  const Backend& backend = backend_for(device);
  DF_CHECK(backend.computes(dtype), "%s: dtype must be f32 or bf16%s, got %s", op,
           backend.computes(DType::F16) ? " or f16" : "", dtype_name(dtype));
}

void check_like(const char* op, const char* parameter, const Tensor& t, const Shape& shape, DType dtype,
                Device device) {
  DF_CHECK(t.defined(), "%s: %s must be a tensor of %s, got an undefined one", op, parameter, shape.str().c_str());
  DF_CHECK(t.shape() == shape, "%s: %s must have shape %s, got %s", op, parameter, shape.str().c_str(),
           t.shape().str().c_str());
  DF_CHECK(t.dtype() == dtype, "%s: %s must be %s, got %s", op, parameter, dtype_name(dtype), dtype_name(t.dtype()));
  DF_CHECK(t.device() == device, "%s: %s must be on %s, got %s", op, parameter, device.str().c_str(),
           t.device().str().c_str());
}

void check_vector(const char* op, const char* parameter, const Tensor& t, int64_t size, Device device) {
  check_like(op, parameter, t, {size}, DType::F32, device);
}

void check_weight(const char* op, const Tensor& x, const Weight& w) {
  DF_CHECK(w.defined(), "%s: weight must be packed, got an undefined one", op);
  const Device device = w.master.defined() ? w.master.device() : w.data.device();
  DF_CHECK(device == x.device(), "%s: weight must be on %s, got %s", op, x.device().str().c_str(),
           device.str().c_str());
  DF_CHECK(w.dtype == x.dtype(), "%s: weight must be packed for %s, got %s", op, dtype_name(x.dtype()),
           dtype_name(w.dtype));
  DF_CHECK(x.dim(-1) == w.in, "%s: x must have %lld channels as its weight, got %s", op, ll(w.in),
           x.shape().str().c_str());
}

void check_epilogue(const char* op, const Shape& shape, const Tensor& x, const Epilogue& e) {
  if (e.bias.defined()) check_vector(op, "bias", e.bias, shape[-1], x.device());
  if (e.residual.defined()) check_like(op, "residual", e.residual, shape, x.dtype(), x.device());
}

Tensor result(const char* op, const Tensor& into, const Shape& shape, DType dtype, Device device) {
  if (!into.defined()) return Tensor::empty(shape, dtype, device);
  check_like(op, "into", into, shape, dtype, device);
  return into;
}

Shape with_last(const Shape& shape, int64_t last) {
  Shape s = shape;
  s.set(-1, last);
  return s;
}

}  // namespace df::ops
