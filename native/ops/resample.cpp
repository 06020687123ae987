#include "core/execution.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/ops.h"
#include "ops/recording.h"

namespace df::ops {

Tensor resample(const Tensor& x, Resample mode, Tensor into) {
  check_activations("resample", "x", x, 4);
  const bool down = mode == Resample::AverageDown2;
  DF_CHECK(!down || (x.dim(1) % 2 == 0 && x.dim(2) % 2 == 0), "resample: height and width must be even, got %s",
           x.shape().str().c_str());
  const Shape shape{x.dim(0), down ? x.dim(1) / 2 : 2 * x.dim(1), down ? x.dim(2) / 2 : 2 * x.dim(2), x.dim(3)};
  Tensor y = result("resample", into, shape, x.dtype(), x.device());
  begin_op();
  backend_for(x.device()).resample(y, x, mode);
  if (Tape* tape = recorder({&x}))
    tape->record(y, [r = TensorRef(x), mode](Tape& t, const Tensor& dy) {
      begin_op();
      backend_for(dy.device()).resample_backward(t.gradient(r), dy, mode);
    });
  return y;
}

Tensor bilinear(const Tensor& x, int64_t height, int64_t width) {
  check_activations("bilinear", "x", x, 4);
  refuse_gradient("bilinear", x);
  DF_CHECK(height >= 1 && width >= 1, "bilinear: height and width must be at least 1, got %lld and %lld", ll(height),
           ll(width));
  begin_op();
  Tensor y = Tensor::empty({x.dim(0), height, width, x.dim(3)}, x.dtype(), x.device());
  backend_for(x.device()).bilinear(y, x);
  return y;
}

Tensor nchw_to_nhwc(const Tensor& x, DType dtype) {
  check_tensor("nchw_to_nhwc", "x", x, 4, {DType::F32});
  refuse_gradient("nchw_to_nhwc", x);
  DF_CHECK(x.contiguous(), "nchw_to_nhwc: x must be contiguous, got a strided view of %s", x.shape().str().c_str());
  check_compute_dtype("nchw_to_nhwc", dtype, x.device());
  begin_op();
  Tensor y = Tensor::empty({x.dim(0), x.dim(2), x.dim(3), x.dim(1)}, dtype, x.device());
  backend_for(x.device()).nchw_to_nhwc(y, x);
  return y;
}

Tensor nhwc_to_nchw(const Tensor& x) {
  check_activations("nhwc_to_nchw", "x", x, 4);
  refuse_gradient("nhwc_to_nchw", x);
  begin_op();
  Tensor y = Tensor::empty({x.dim(0), x.dim(3), x.dim(1), x.dim(2)}, DType::F32, x.device());
  backend_for(x.device()).nhwc_to_nchw(y, x);
  return y;
}

}  // namespace df::ops
