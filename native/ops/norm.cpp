#include "core/execution.h"
#include "ops/backend.h"
#include "ops/check.h"
#include "ops/ops.h"
#include "ops/recording.h"

namespace df::ops {

Tensor group_norm(const Tensor& x, const GroupNormParams& p, Tensor into) {
  check_activations("group_norm", "x", x, 0);
  DF_CHECK(x.shape().rank() >= 2, "group_norm: x must be (items, …, channels), got %s", x.shape().str().c_str());
  const int64_t channels = x.dim(-1);
  DF_CHECK(p.groups >= 1 && channels % p.groups == 0, "group_norm: channels must be a multiple of %d groups, got %lld",
           p.groups, ll(channels));
  DF_CHECK(p.eps > 0, "group_norm: eps must be positive, got %g", double(p.eps));
  check_vector("group_norm", "gamma", p.gamma, channels, x.device());
  check_vector("group_norm", "beta", p.beta, channels, x.device());
  DF_CHECK(p.scale.defined() == p.shift.defined(),
           "group_norm: scale and shift must be given both or not at all, got %s only",
           p.scale.defined() ? "scale" : "shift");
  if (p.scale.defined()) {
    check_like("group_norm", "scale", p.scale, {x.dim(0), channels}, x.dtype(), x.device());
    check_like("group_norm", "shift", p.shift, {x.dim(0), channels}, x.dtype(), x.device());
  }
  Tensor y = result("group_norm", into, x.shape(), x.dtype(), x.device());
  begin_op();
  backend_for(x.device()).group_norm(y, x, p);
  if (Tape* tape = recorder({&x, &p.gamma, &p.beta, &p.scale, &p.shift})) {
    check_distinct("group_norm", {&x, &p.scale, &p.shift});
    tape->record(y, [x, p](Tape& t, const Tensor& dy) {
      begin_op();
      const Gradient dx = t.gradient(TensorRef(x)), dscale = t.gradient(TensorRef(p.scale)),
                     dshift = t.gradient(TensorRef(p.shift));
      backend_for(x.device()).group_norm_backward(dx, t.parameter_gradient(p.gamma), t.parameter_gradient(p.beta),
                                                  dscale, dshift, dy, x, p);
    });
  }
  return y;
}

Tensor layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, float eps) {
  check_activations("layer_norm", "x", x, 0);
  check_vector("layer_norm", "gamma", gamma, x.dim(-1), x.device());
  check_vector("layer_norm", "beta", beta, x.dim(-1), x.device());
  DF_CHECK(eps > 0, "layer_norm: eps must be positive, got %g", double(eps));
  begin_op();
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  backend_for(x.device()).layer_norm(y, x, gamma, beta, eps);
  if (Tape* tape = recorder({&x, &gamma, &beta}))
    tape->record(y, [x, gamma, beta, eps](Tape& t, const Tensor& dy) {
      begin_op();
      backend_for(x.device()).layer_norm_backward(t.gradient(TensorRef(x)), t.parameter_gradient(gamma),
                                                  t.parameter_gradient(beta), dy, x, gamma, eps);
    });
  return y;
}

Tensor rms_norm(const Tensor& x, const Tensor& gamma, float eps) {
  check_activations("rms_norm", "x", x, 0);
  check_vector("rms_norm", "gamma", gamma, x.dim(-1), x.device());
  DF_CHECK(eps > 0, "rms_norm: eps must be positive, got %g", double(eps));
  begin_op();
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  backend_for(x.device()).rms_norm(y, x, gamma, eps);
  if (Tape* tape = recorder({&x, &gamma}))
    tape->record(y, [x, gamma, eps](Tape& t, const Tensor& dy) {
      begin_op();
      backend_for(x.device()).rms_norm_backward(t.gradient(TensorRef(x)), t.parameter_gradient(gamma), dy, x, gamma,
                                                eps);
    });
  return y;
}

}  // namespace df::ops
