#include "core/execution.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/ops.h"
#include "ops/recording.h"

namespace df::ops {

Tensor conv2d(const Tensor& x, const Weight& w, const Conv2dParams& p, const Epilogue& e, Tensor into) {
  check_activations("conv2d", "x", x, 4);
  check_weight("conv2d", x, w);
  DF_CHECK(!w.int8(), "conv2d: weight must be packed in %s, got int8 (for linear layers)", dtype_name(w.dtype));
  DF_CHECK(p.stride >= 1, "conv2d: stride must be at least 1, got %d", p.stride);
  DF_CHECK(p.padding >= 0, "conv2d: padding must not be negative, got %d", p.padding);
  const int64_t height = x.dim(1) + 2 * p.padding - w.kernel_h, width = x.dim(2) + 2 * p.padding - w.kernel_w;
  DF_CHECK(height >= 0 && width >= 0, "conv2d: x with padding %d must be at least %lld×%lld pixels, got %s", p.padding,
           ll(w.kernel_h), ll(w.kernel_w), x.shape().str().c_str());
  const Shape shape{x.dim(0), height / p.stride + 1, width / p.stride + 1, w.out};
  check_epilogue("conv2d", shape, x, e);
  Tensor y = result("conv2d", into, shape, x.dtype(), x.device());
  begin_op(2.0 * double(shape.numel()) * double(w.kernel_h * w.kernel_w * w.in));
  backend_for(x.device()).conv2d(y, x, packed(w, x.dtype()), p, e);
  record_product(y, x, w, &p, e);
  return y;
}

}  // namespace df::ops
